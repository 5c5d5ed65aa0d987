"""Dispatch with a bound on what each expert takes: every array has the same size whatever the loads are.

Axes: N tokens of a device, C choices of a token, E experts, L experts of a device, P devices that exchange rows,
K rows that an expert takes from a device, R = E · K slots of a device, D model.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.layers.moe.dispatch import Dispatch, ExpertFn, ExpertLayout
from trellax.layers.moe.rows import Slots, collect, inverse, sorted_copies, spread
from trellax.parallel import tag


class CapacityDispatch(Dispatch):
    """Each expert takes at most `ceil(capacity_factor · N · C / E)` of a device's N tokens.

    Lepikhin et al. 2020 (GShard, arXiv:2006.16668, section 2.2) and Fedus et al. 2021 (Switch, arXiv:2101.03961,
    section 2.2). First choices come before second ones, earlier tokens before later ones. Choices past the capacity
    are dropped: they add nothing, the token passes through the residual connection. The summary `drop_fraction`
    tells how many. What is dropped depends on which tokens share a device; with a factor of E/C nothing is.
    """

    lost_name = "drop_fraction"

    class Config(Dispatch.Config):
        """
        Fields:
            capacity_factor: an expert's room as a multiple of the even share.
        """

        capacity_factor: float = 1.25

        def check(self) -> None:
            super().check()
            if self.capacity_factor <= 0:
                raise ValueError(
                    f"capacity_factor={self.capacity_factor}; use a positive one: 1.25 is common, E/C drops nothing."
                )

    def _served(
        self,
        x_ND: Float[Array, "N D"],
        experts_NC: Int[Array, "N C"],
        expert_fn: ExpertFn,
        layout: ExpertLayout,
    ) -> tuple[Float[Array, "N C D"], Int[Array, ""]]:
        slots, num_lost = self._slots(experts_NC)
        rows_EKD = spread(x_ND, slots).reshape(layout.num_experts, -1, x_ND.shape[1])
        rows_EKD = _on_experts(rows_EKD, expert_fn, layout)
        return collect(rows_EKD.reshape(-1, x_ND.shape[1]), slots), num_lost

    def _slots(self, experts_NC: Array) -> tuple[Slots, Array]:
        """Returns the slots (expert · K + rank), and how many copies got none."""
        order = sorted_copies(experts_NC, self.cfg.num_experts, first_choices_first=True)
        rank_K = jnp.arange(self._capacity(*experts_NC.shape))
        is_taken_EK = rank_K < order.sizes_E[:, None]
        place_EK = jnp.where(is_taken_EK, order.starts[:, None] + rank_K, experts_NC.size)
        copy_R = order.copy_M.at[place_EK.reshape(-1)].get(mode="fill", fill_value=experts_NC.size)
        slot_NC = inverse(copy_R, experts_NC.size).reshape(experts_NC.shape)
        return Slots(copy_R, slot_NC), experts_NC.size - is_taken_EK.sum(dtype=jnp.int32)

    def _capacity(self, num_tokens: int, num_choices: int) -> int:
        """Returns K; never more than N, as a token's experts are all different."""
        share = self.cfg.capacity_factor * num_tokens * num_choices / self.cfg.num_experts
        return min(num_tokens, math.ceil(share))


def _on_experts(rows_EKD: Array, expert_fn: ExpertFn, layout: ExpertLayout) -> Array:
    """Lets each expert work on its slots, wherever it is; returns the same slots."""
    num_local, num_peers = layout.num_local_experts, layout.num_peers
    if layout.share_axes:
        first = layout.first_shared_expert()
        own_LKD = jax.lax.dynamic_slice_in_dim(rows_EKD, first, num_local)
        own_LKD = _batched(own_LKD, expert_fn)
        return jax.lax.dynamic_update_slice_in_dim(jnp.zeros_like(rows_EKD), own_LKD, first, 0)
    if not layout.exchange_axes:
        return _batched(rows_EKD, expert_fn)
    _, K, D = rows_EKD.shape
    send = lambda x: jax.lax.all_to_all(x, layout.exchange_axes, 0, 0, tiled=True)
    rows_PLKD = tag(send(rows_EKD), "moe_rows").reshape(num_peers, num_local, K, D)
    rows_LPKD = _batched(rows_PLKD.swapaxes(0, 1).reshape(num_local, -1, D), expert_fn)
    rows_PLKD = rows_LPKD.reshape(num_local, num_peers, K, D).swapaxes(0, 1)
    return send(rows_PLKD.reshape(-1, K, D))


def _batched(rows_LKD: Array, expert_fn: ExpertFn) -> Array:
    """Calls the experts on equal numbers of rows, which kernels are told by sizes that are no tracers."""
    L, K, D = rows_LKD.shape
    return expert_fn(rows_LKD.reshape(L * K, D), np.full(L, K, np.int32)).reshape(L, K, D)
