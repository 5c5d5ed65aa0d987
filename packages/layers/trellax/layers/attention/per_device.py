"""Attention on a mesh: each device runs the kernel on its rows, its heads and, under context parallelism, its part of rows.

Kernels of accelerators (splash, cuDNN) are opaque to XLA's partitioner, so the core calls them a device at a time. Rows
go over the mesh axes of "batch", heads over those of "act_heads". Where kv heads do not divide as the query heads do they
are repeated as little as needed, and their gradients add up again. Queries go over those of "length"; so do keys
in training, and then a context method brings them together. A cache's keys are whole on each device.

Axes: B batch, S query sequence, T key sequence, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.attention import attention
from trellax.layers.attention.cache import CacheView
from trellax.layers.attention.context import ContextParallelism
from trellax.parallel import DeviceSplit, split_over_devices

HEADS = ("batch", "length", "act_heads", None)


@dataclasses.dataclass(frozen=True)
class PerDeviceAttention:
    """One attention call and how the scope's mesh splits it.

    Attributes:
        split: which mesh axes split rows, lengths and query heads.
        context: how devices that hold parts of a row work together.
        options: scale, soft_cap, mask and implementation of the call.
    """

    split: DeviceSplit
    context: ContextParallelism
    options: dict[str, Any]

    @classmethod
    def of(
        cls, query: Float[Array, "B S N H"], context: ContextParallelism, options: dict[str, Any]
    ) -> PerDeviceAttention:
        return cls(split_over_devices({HEADS: query.shape}), context, options)

    def __call__(
        self, query: Float[Array, "B S N H"], view: CacheView, bias: Any
    ) -> Float[Array, "B S N H"]:
        """Returns what each query reads.

        Raises:
            ValueError: a bias cannot be split as heads or rows are.
        """
        if self.split.mesh is None:
            return attention(
                query, view.key, view.value, bias=bias, **_arrays(view), **self.options
            )
        in_parts = self._has_parts_of_rows(view)
        of_keys = ("batch", "length" if in_parts else None, "act_heads", None)
        key, value = (self._repeated(x, query.shape[2], in_parts) for x in (view.key, view.value))
        places = _arrays(view)
        bias_arrays, with_arrays = _opened(bias)
        args = (query, key, value, places, bias_arrays)
        in_axes = (
            HEADS,
            of_keys,
            of_keys,
            {name: self._axes_of_places(name, x, in_parts) for name, x in places.items()},
            [self._axes_of_bias(bias, x, query.shape) for x in bias_arrays],
        )
        heads = query.shape[2] // self.split.parts("act_heads")
        head_axes = self.split.axes_of("act_heads")

        def on_device(q: Array, k: Array, v: Array, places: Any, bias_arrays: Any) -> Array:
            options = self.options | {
                "bias": bias_of_device(with_arrays(bias_arrays), head_axes, heads)
            }
            if not in_parts:
                return attention(q, k, v, **places, **options)
            segments, axis = places["query_segments"], self.split.axes_of("length")
            return self.context.attend(q, k, v, segments=segments, axis=axis, **options)

        return self.split.run(on_device, args, in_axes=in_axes, out_axes=HEADS)

    def _has_parts_of_rows(self, view: CacheView) -> bool:
        """Keys of the same tokens as the queries lie where those do; a cache's are whole."""
        return self.split.parts("length") > 1 and view.query_positions is None

    def _repeated(self, x_BTKH: Array, num_heads: int, in_parts: bool) -> Array:
        """Repeats kv heads so that each device has those that its query heads read."""
        parts = self.split.parts("act_heads")
        if in_parts:
            further = self.context.head_parts(self.split.parts("length"))
            # Heads that do not divide stay as they are, for the method to say so.
            parts *= further if num_heads % (parts * further) == 0 else 1
        times = parts // math.gcd(parts, x_BTKH.shape[2])
        return x_BTKH if times == 1 else jnp.repeat(x_BTKH, times, axis=2)

    def _axes_of_places(self, name: str, x: Array | None, in_parts: bool) -> Any:
        """Logical axes of positions or segments, [#B, S] or [#B, T]; None mirrors None."""
        if x is None:
            return None
        of_rows = None if x.shape[0] == 1 else "batch"
        return (of_rows, "length" if in_parts or name.startswith("query") else None)

    def _axes_of_bias(self, bias: Any, x: Array, shape: tuple[int, ...]) -> Any:
        """Of a dense bias, [#B, #N, S, T]; the arrays of a rule are whole on each device."""
        if x is not bias:
            return (None,) * jnp.ndim(x)
        batch, heads = ("batch", "act_heads")
        return (
            batch if x.shape[0] == shape[0] > 1 else None,
            heads if x.shape[1] == shape[2] > 1 else None,
            "length",
            None,
        )


def bias_of_device(bias: Any, head_axes: tuple[str, ...], num_heads: int) -> Any:
    """Returns the part of a rule for this device's heads; an array came in parts.

    Args:
        bias: a rule, an array or None.
        head_axes: mesh axes that split the heads.
        num_heads: heads a device.

    Raises:
        ValueError: a rule that cannot be split.
    """
    if bias is None or hasattr(bias, "ndim") or not head_axes:
        return bias
    if not hasattr(bias, "of_heads"):
        raise ValueError(
            f"Heads are split over {', '.join(head_axes)}, and {type(bias).__name__} cannot be: give it a method "
            f"of_heads(first, num_heads), or map act_heads to None in the sharding rules."
        )
    return bias.of_heads(jax.lax.axis_index(head_axes) * num_heads, num_heads)


def _arrays(view: CacheView) -> dict[str, Any]:
    """Where queries and keys stand, by the names that `attention` has for them."""
    return {
        name: getattr(view, name)
        for name in ("query_positions", "key_positions", "query_segments", "key_segments")
    }


def _opened(bias: Any) -> tuple[list[Array], Any]:
    """Splits a bias into its arrays and a function that puts it together again; numbers stay in the function."""
    leaves, tree = jax.tree.flatten(bias)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "ndim")]

    def closed(arrays: list[Array]) -> Any:
        found = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(tree, [found.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [leaves[i] for i in places], closed
