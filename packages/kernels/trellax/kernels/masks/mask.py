"""Masks as values: what a query may attend to, said in a form that kernels can recognise.

    mask = SlidingWindowMask(4096) & SegmentMask()
    mask.window, mask.is_causal, mask.uses_segments        # 4096, True, True
    mask.dense(q_pos_BS, k_pos_BT, q_seg_BS, k_seg_BT)     # Bool[B 1 S T], True = may attend

Axes: B batch (1 broadcasts), S query sequence, T key sequence.

A mask is a frozen, hashable dataclass without arrays, so it is a static value under `jax.jit`. Masks form a
commutative, idempotent monoid under `&` with `FullMask()` as identity, in a canonical form: equal
conjunctions compare equal however they were written.

A new mask subclasses `Mask` and defines `allows`. Implementations that know only the properties below then
refuse it (`is_exact` is False), and those that can use a dense mask serve it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Mask:
    """What a query may attend to. See the module docstring for how to define a new one."""

    is_causal: bool = False
    """No key after the query's position is attended to."""
    window: int | None = None
    """Only keys with |query position - key position| < window are attended to."""
    uses_segments: bool = False
    """Only keys of the query's own segment are attended to; segment 0 is padding."""
    is_exact: bool = False
    """The three properties above say everything about this mask."""

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        """Element-wise rule on arrays that broadcast to [B, S, T]; segments may both be None."""
        raise NotImplementedError

    def dense(
        self,
        query_positions: Int[Array, "#B S"],
        key_positions: Int[Array, "#B T"],
        query_segments: Int[Array, "#B S"] | None = None,
        key_segments: Int[Array, "#B T"] | None = None,
    ) -> Bool[Array, "#B 1 S T"]:
        """Returns the mask as booleans, True where the query may attend to the key.

        Args:
            query_positions: place of each query in its sequence.
            key_positions: place of each key.
            query_segments: document of each query, 0 for padding; None when all are in one document.
            key_segments: document of each key; given exactly when `query_segments` is.
        """
        q_seg = None if query_segments is None else query_segments[:, :, None]
        k_seg = None if key_segments is None else key_segments[:, None, :]
        q_pos, k_pos = query_positions[:, :, None], key_positions[:, None, :]
        return jnp.asarray(self.allows(q_pos, k_pos, q_seg, k_seg))[:, None, :, :]

    def parts(self) -> tuple[Mask, ...]:
        """The masks whose conjunction this is: itself, or the members of an `AllOf`."""
        return (self,)

    def __and__(self, other: Mask) -> Mask:
        return _conjunction((*self.parts(), *other.parts()))


@dataclasses.dataclass(frozen=True)
class FullMask(Mask):
    """Every query attends to every key: the identity of `&`."""

    is_exact = True

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        del q_seg, k_seg
        return jnp.ones(jnp.broadcast_shapes(q_pos.shape, k_pos.shape), jnp.bool_)

    def parts(self) -> tuple[Mask, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class CausalMask(Mask):
    """A query attends to keys at its own position and before."""

    is_causal = True
    is_exact = True

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        del q_seg, k_seg
        return q_pos >= k_pos


@dataclasses.dataclass(frozen=True)
class SlidingWindowMask(Mask):
    """A query attends to the last `window` positions, its own included (Mistral 7B, 2310.06825)."""

    window: int = dataclasses.field()  # no default: the base class has one
    is_causal = True
    is_exact = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"SlidingWindowMask(window={self.window}): window must be at least 1.")

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        del q_seg, k_seg
        return (q_pos >= k_pos) & (q_pos - k_pos < self.window)


@dataclasses.dataclass(frozen=True)
class SegmentMask(Mask):
    """A query attends to keys of its own document; padding (segment 0) attends to nothing.

    Where a call has no segments, all tokens are of one document and this is `FullMask`.
    """

    uses_segments = True
    is_exact = True

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        if q_seg is None:
            return FullMask().allows(q_pos, k_pos, q_seg, k_seg)
        return (q_seg == k_seg) & (q_seg != 0)


@dataclasses.dataclass(frozen=True)
class AllOf(Mask):
    """The conjunction of two or more masks, in canonical order. Written `a & b`."""

    masks: tuple[Mask, ...]

    @property
    def is_causal(self) -> bool:  # type: ignore[override]
        return any(mask.is_causal for mask in self.masks)

    @property
    def window(self) -> int | None:  # type: ignore[override]
        return min((mask.window for mask in self.masks if mask.window is not None), default=None)

    @property
    def uses_segments(self) -> bool:  # type: ignore[override]
        return any(mask.uses_segments for mask in self.masks)

    @property
    def is_exact(self) -> bool:  # type: ignore[override]
        return all(mask.is_exact for mask in self.masks)

    def allows(self, q_pos: Any, k_pos: Any, q_seg: Any, k_seg: Any) -> Any:
        allowed = self.masks[0].allows(q_pos, k_pos, q_seg, k_seg)
        for mask in self.masks[1:]:
            allowed = allowed & mask.allows(q_pos, k_pos, q_seg, k_seg)
        return allowed

    def parts(self) -> tuple[Mask, ...]:
        return self.masks


def _conjunction(masks: Iterable[Mask]) -> Mask:
    """Flattens, drops what another part implies, and orders; the result is canonical."""
    unique = set(masks)
    windows = [mask for mask in unique if isinstance(mask, SlidingWindowMask)]
    if windows:
        narrowest = min(windows, key=lambda mask: mask.window)
        unique -= {*windows, CausalMask()}
        unique.add(narrowest)
    ordered = sorted(unique, key=lambda mask: (type(mask).__qualname__, repr(mask)))
    if not ordered:
        return FullMask()
    return ordered[0] if len(ordered) == 1 else AllOf(tuple(ordered))
