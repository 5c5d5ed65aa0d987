"""Context parallelism: how attention sees a whole row when devices (mesh axis `seq`) hold a part of it each.

    attention_cfg.core.set(context=RingContext.default_config())

A child of the attention core, so no other module knows of it: what comes in and goes out lies over the devices in the
order of the row. Where nothing splits rows, none of these is asked.

| | memory a device | sends | kernels |
| --- | --- | --- | --- |
| `AllGatherContext` | keys and values of a row, while they are used | them, once a pass | splash or tiles; any where nothing is causal |
| `RingContext` | its own tokens only | keys and values, overlapping with compute | tiles |
| `UlyssesContext` | whole rows of a part of the heads | queries, keys, values, outputs, once | any |

Axes: B batch, S tokens of a device, N heads, K kv heads, H head dim.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from trellax.config import REQUIRED, Configurable, Required
from trellax.kernels.attention import (
    all_gather_attention,
    ring_attention,
    ulysses_attention,
)
from trellax.parallel import RunShape

LENGTH_AXIS = "seq"
HEADS_AXIS = "model"
"""Mesh axes that split rows and heads, for refusals ahead of a run."""


class ContextParallelism(Configurable):
    """Interface: attention of rows whose parts lie on several devices."""

    class Config(Configurable.Config):
        """
        Fields:
            num_heads: query heads; the attention core provides it.
            num_kv_heads: heads of keys and values; the attention core provides it.
        """

        num_heads: Required[int] = REQUIRED
        num_kv_heads: Required[int] = REQUIRED

        def mesh_refusal(self, run: RunShape) -> str | None:
            """Returns why rows or heads cannot be split as the mesh asks, and what can; None if they can."""
            n = run.size(LENGTH_AXIS)
            if n == 1 or run.length is None or run.length % (2 * n) == 0:
                return None
            nearest = max(1, round(run.length / (2 * n))) * 2 * n
            return (
                f"rows of {run.length} tokens do not fall into two chunks for each of {LENGTH_AXIS}={n} devices; "
                f"use a multiple of {2 * n} such as {nearest}"
            )

    def head_parts(self, num_devices: int) -> int:
        """Returns into how many parts the method splits a device's heads; kv heads are repeated to divide."""
        del num_devices
        return 1

    def attend(
        self,
        query: Float[Array, "B S N H"],
        key: Float[Array, "B S K H"],
        value: Float[Array, "B S K H"],
        *,
        axis: tuple[str, ...],
        implementation: str | tuple[str, ...] | None,
        **options: Any,
    ) -> Float[Array, "B S N H"]:
        """Returns what a device's queries read from whole rows. Runs inside `jax.shard_map`.

        Args:
            query: this device's queries, position-encoded.
            key: its keys.
            value: its values.
            axis: mesh axes that rows are split over, outermost first.
            implementation: kernels to try in order or the one that must serve; None for the best.
            options: mask, segments, bias, scale and soft_cap, as `trellax.kernels.attention.ring_attention` has them.

        Raises:
            ValueError: the method cannot split these arrays.
            UnsupportedError: it cannot use the kernels demanded.
        """
        raise NotImplementedError


class AllGatherContext(ContextParallelism):
    """Devices gather keys and values and keep their queries; balanced where causal. The least to go wrong."""

    def attend(self, query: Any, key: Any, value: Any, **options: Any) -> Array:
        return all_gather_attention(query, key, value, **options)


class RingContext(ContextParallelism):
    """Keys and values travel around a ring (2310.01889), balanced where causal: for the longest rows."""

    def attend(self, query: Any, key: Any, value: Any, **options: Any) -> Array:
        return ring_attention(query, key, value, **options)


class UlyssesContext(ContextParallelism):
    """Devices trade parts of rows for parts of heads (2309.14509), so that kernels see whole rows."""

    class Config(ContextParallelism.Config):
        """ """

        def mesh_refusal(self, run: RunShape) -> str | None:
            n, m = run.size(LENGTH_AXIS), run.size(HEADS_AXIS)
            if n == 1:
                return None
            if run.length is not None and run.length % n:
                return f"rows of {run.length} tokens are no multiple of {LENGTH_AXIS}={n}"
            if self.num_heads % (n * m) == 0:
                return None
            fitting = [d for d in range(1, n + 1) if self.num_heads % (d * m) == 0]
            nearest = f"{LENGTH_AXIS}={max(fitting)}" if fitting else f"fewer than {HEADS_AXIS}={m}"
            return (
                f"{self.num_heads} heads do not divide among {LENGTH_AXIS}={n} times {HEADS_AXIS}={m} devices; "
                f"use {nearest}, a multiple of {n * m} heads, or RingContext"
            )

    def head_parts(self, num_devices: int) -> int:
        return num_devices

    def attend(self, query: Any, key: Any, value: Any, **options: Any) -> Array:
        return ulysses_attention(query, key, value, **options)
