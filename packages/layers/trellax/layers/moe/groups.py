"""A choice that is limited to a few groups of experts, so that a token is sent to few devices.

Axes: E experts, G groups, W experts of a group.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BEST_OF_GROUP = 2
"""A group is as good as the sum of its so many best experts (DeepSeek-V3, arXiv:2412.19437, section 2.1.2)."""


def within_best_groups(
    scores: Float[Array, "... E"], num_groups: int, groups_per_token: int
) -> Float[Array, "... E"]:
    """Returns the scores with those outside of each token's best groups set to minus infinity."""
    scores_GW = scores.reshape(*scores.shape[:-1], num_groups, -1)
    width = scores_GW.shape[-1]
    best = jax.lax.top_k(scores_GW, min(BEST_OF_GROUP, width))[0].sum(axis=-1)
    chosen = jax.lax.top_k(best, groups_per_token)[1]
    is_in_G = (chosen[..., None] == jnp.arange(num_groups)).any(axis=-2)
    return jnp.where(is_in_G[..., None], scores_GW, -jnp.inf).reshape(scores.shape)


def check_groups(
    num_experts: int, experts_per_token: int, num_groups: int | None, groups_per_token: int | None
) -> None:
    """Raises ValueError for groups that cannot be, or hold too few experts."""
    if (num_groups is None) != (groups_per_token is None):
        raise ValueError(
            f"num_groups={num_groups} and groups_per_token={groups_per_token}: set both, or neither."
        )
    if num_groups is None or groups_per_token is None:
        return
    if num_groups < 1 or num_experts % num_groups:
        raise ValueError(f"{num_experts} experts do not divide into num_groups={num_groups}.")
    if not 1 <= groups_per_token <= num_groups:
        raise ValueError(
            f"groups_per_token={groups_per_token} of {num_groups} groups; use 1 to {num_groups}."
        )
    reachable = groups_per_token * num_experts // num_groups
    if reachable < experts_per_token:
        raise ValueError(
            f"groups_per_token={groups_per_token} groups hold {reachable} experts, fewer than "
            f"experts_per_token={experts_per_token}; take more groups a token."
        )
