"""How tokens get to their experts and back: the interface, and what every way of doing it shares.

    y_BSD = dispatch(x_BSD, routing, experts)

Each device works on its own tokens, on its own experts, and on its part of each expert's hidden layer. Which those
are, the sharding rules say: tokens are split as `batch` and `length` are, experts as `experts`, hidden layers as
`mlp`. Where the axis of experts also splits tokens, rows travel between its devices (expert parallelism: Lepikhin
et al. 2020, GShard, arXiv:2006.16668). Where it does not (a batch too small to be split), each device does the share
of its own experts for all tokens. What devices of `mlp` or such an axis compute is summed in the end.

Axes: B batch, S sequence, D model, N tokens of a device, C choices of a token, E experts, L experts of a device,
R rows that an expert layer is called with.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.config import REQUIRED, Required
from trellax.layers.base import BaseLayer, is_spec
from trellax.layers.moe.router import Routing
from trellax.parallel import DeviceSplit, split_over_devices

TOKENS = ("batch", "length", None)
"""Logical axes of arrays with one entry a token."""

ExpertFn = Callable[[Array, Array | np.ndarray], Array]
"""From `rows_RD`, sorted by expert, and `group_sizes_L` to `rows_RD`."""


@dataclasses.dataclass(frozen=True)
class Experts:
    """An expert layer as a dispatch sees it: a function of explicit parameters, which it may cut into blocks.

    A block of `experts` serves these experts; one of `mlp` gives a summand of the result.
    """

    params: Any
    """Tree of arrays."""
    specs: Any
    """Tree of their `ParameterSpec`s, of which shapes and logical axes are read."""
    fn: Callable[[Any, Array, Array | np.ndarray], Array]
    """From parameters (or blocks), rows sorted by expert and the experts' numbers of rows to as many rows."""


@dataclasses.dataclass(frozen=True)
class ExpertLayout:
    """Who holds which tokens and experts.

    Attributes:
        split: how arrays are split over devices.
        exchange_axes: mesh axes between whose devices rows travel: they split tokens and experts.
        share_axes: mesh axes that split experts, but not tokens.
        sum_axes: mesh axes whose devices hold summands of the result.
        num_experts: E, of all devices.
    """

    split: DeviceSplit
    exchange_axes: tuple[str, ...]
    share_axes: tuple[str, ...]
    sum_axes: tuple[str, ...]
    num_experts: int

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Mesh axes that split tokens."""
        return (*self.split.axes_of("batch"), *self.split.axes_of("length"))

    @property
    def num_peers(self) -> int:
        """Devices between which rows travel."""
        return self.split.parts("experts") if self.exchange_axes else 1

    @property
    def num_local_experts(self) -> int:
        """L."""
        return self.num_experts // self.split.parts("experts")

    def first_shared_expert(self) -> Int[Array, ""] | int:
        """Returns the first of the experts whose share this device does, where `share_axes` split them."""
        if not self.share_axes:
            return 0
        return jax.lax.axis_index(self.share_axes) * self.num_local_experts


class Dispatch(BaseLayer):
    """Interface. Adds one summary, the fraction of choices that no expert served."""

    lost_name: str
    """Name of that summary."""

    class Config(BaseLayer.Config):
        """
        Fields:
            num_experts: E; the layer provides it.
        """

        num_experts: Required[int] = REQUIRED

    def forward(
        self, x_BSD: Float[Array, "B S D"], routing: Routing, experts: Experts
    ) -> Float[Array, "B S D"]:
        """Returns `Σ_c weight_c · expert_c(x)` of each token, over its choices that were served."""
        layout = _layout(x_BSD.shape, experts.specs, self.cfg.num_experts)

        def of_device(x_BSD: Array, experts_BSC: Array, weights_BSC: Array, params: Any) -> Any:
            choices_NCD, num_lost = self._served(
                x_BSD.reshape(-1, x_BSD.shape[-1]),
                experts_BSC.reshape(-1, experts_BSC.shape[-1]),
                functools.partial(experts.fn, params),
                layout,
            )
            weights_NC = weights_BSC.reshape(choices_NCD.shape[:2]).astype(x_BSD.dtype)
            y_ND = _summed(jnp.einsum("NCD,NC->ND", choices_NCD, weights_NC), layout.sum_axes)
            return y_ND.reshape(x_BSD.shape), _summed(num_lost, layout.token_axes)

        y_BSD, num_lost = layout.split.run(
            of_device,
            (x_BSD, routing.experts_BSC, routing.weights_BSC, experts.params),
            in_axes=[TOKENS, TOKENS, TOKENS, _block_axes(experts.specs)],
            out_axes=(TOKENS, ()),
        )
        self.add_summary(self.lost_name, num_lost / routing.experts_BSC.size)
        return y_BSD

    def _served(
        self,
        x_ND: Float[Array, "N D"],
        experts_NC: Int[Array, "N C"],
        expert_fn: ExpertFn,
        layout: ExpertLayout,
    ) -> tuple[Float[Array, "N C D"], Int[Array, ""]]:
        """Returns what experts make of one device's tokens, zeros for choices that are not served (or served by a
        device of `share_axes`), and how many are lost for good. Runs on each device.
        """
        raise NotImplementedError


def _layout(shape: tuple[int, ...], specs: Any, num_experts: int) -> ExpertLayout:
    lengths = {name: _common_length(specs, name) for name in ("experts", "mlp")}
    split = split_over_devices(
        {TOKENS: shape} | {(name,): (length,) for name, length in lengths.items()}
    )
    tokens = {*split.axes_of("batch"), *split.axes_of("length")}
    by_experts = split.axes_of("experts")
    if tokens.intersection(by_experts):
        # Axes that do not split tokens would need both ways at once: weights are gathered over them instead.
        by_experts = tuple(a for a in by_experts if a in tokens)
    by_mlp = tuple(a for a in split.axes_of("mlp") if a not in tokens and a not in by_experts)
    mesh_axes = {**split.mesh_axes, "experts": by_experts, "mlp": by_mlp}
    is_exchanged = bool(tokens.intersection(by_experts))
    return ExpertLayout(
        split=dataclasses.replace(split, mesh_axes=mesh_axes),
        exchange_axes=by_experts if is_exchanged else (),
        share_axes=() if is_exchanged else by_experts,
        sum_axes=by_mlp if is_exchanged else (*by_experts, *by_mlp),
        num_experts=num_experts,
    )


def _common_length(specs: Any, logical_axis: str) -> int:
    """Returns the greatest common divisor of the sizes of all dims with a logical axis, so that what divides it
    divides each; 1 if there are none."""
    leaves = jax.tree.leaves(specs, is_leaf=is_spec)
    named = [n for s in leaves for a, n in zip(s.logical_axes, s.shape) if a == logical_axis]
    return math.gcd(*named) or 1


def _block_axes(specs: Any) -> Any:
    """Returns the logical axes by which parameters are cut; over others they are gathered first (FSDP)."""
    kept = lambda spec: tuple(a if a in ("experts", "mlp") else None for a in spec.logical_axes)
    return jax.tree.map(kept, specs, is_leaf=is_spec)


def _summed(x: Array, axes: tuple[str, ...]) -> Array:
    return jax.lax.psum(x, axes) if axes else x
