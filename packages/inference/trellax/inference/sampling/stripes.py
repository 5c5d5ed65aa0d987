"""A vocabulary laid out so that XLA passes over it once, in vector instructions, and writes nothing as long as it.

    stripes = Stripes.of(vocab_size)
    logits_RV = stripes.pad(logits_RV, fill=-jnp.inf)
    peaks_RC = stripes.fold(logits_RV, lambda logits, ids: logits, how="max")

The tokens are cut into sections of 32 stripes of neighbours; a *column* has one token of each stripe of a section. A fold takes the
sum (or maximum or minimum) of each column. Its result is a 32nd as long as the vocabulary, so what is done with it costs little.
Axes: R rows, V vocabulary, C columns, J = 32 stripes, S sections, L tokens of a stripe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

NUM_STRIPES = 32

MAX_SECTIONS = 8
"""Vocabularies that are sharded over as many devices or fewer, a power of two, are folded where they are."""

_FOLDS: dict[str, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "sum": (jnp.add, jnp.sum),
    "max": (jnp.maximum, jnp.max),
    "min": (jnp.minimum, jnp.min),
}


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Which token is where.

    Attributes:
        num_sections: parts of the vocabulary.
        length: tokens of a stripe.
    """

    num_sections: int
    length: int

    @classmethod
    def of(cls, vocab_size: int) -> Stripes:
        """Returns the layout, whose last section may go beyond the vocabulary."""
        num_columns = -(-vocab_size // NUM_STRIPES)
        num_sections = math.gcd(num_columns, MAX_SECTIONS)
        return cls(num_sections, num_columns // num_sections)

    @property
    def num_columns(self) -> int:
        return self.num_sections * self.length

    def pad(self, values_RV: Array, *, fill: float) -> Array:
        """Returns the array lengthened to whole stripes."""
        missing = self.num_columns * NUM_STRIPES - values_RV.shape[-1]
        if not missing:
            return values_RV
        return jnp.pad(values_RV, ((0, 0), (0, missing)), constant_values=fill)

    def fold(
        self,
        values_RV: Array,
        fn: Callable[[Array, Array], Array],
        *,
        how: Literal["sum", "max", "min"],
    ) -> Array:
        """Returns the sum, maximum or minimum of fn(values, token ids) over each column, [R, C].

        Args:
            values_RV: padded.
            fn: elementwise, of values and ids whose shapes broadcast to four dimensions, rows first; what it takes of each row is shaped
                [R, 1, 1, 1] (see `per_row`). Where it returns integers, the result does not depend on the order of the sums.
            how: to fold.
        """
        combine, reduce = _FOLDS[how]
        num_rows = values_RV.shape[0]
        values_RSJL = values_RV.reshape(num_rows, self.num_sections, NUM_STRIPES, self.length)
        ids_SJL = jnp.arange(values_RV.shape[1], dtype=jnp.int32).reshape(values_RSJL.shape[1:])

        def stripe_by_stripe(values_RSJL: Array) -> Array:
            """XLA's CPU compiler writes what it reduces to memory, or adds it up one by one, but fuses what is elementwise."""

            def part(j: Array | int) -> Array:
                values = lax.dynamic_slice_in_dim(values_RSJL, j, 1, axis=2)
                return fn(values, ids_SJL[:, :1] + j * self.length)

            fold = lambda j, folded: combine(folded, part(j))  # noqa: E731
            return lax.fori_loop(1, NUM_STRIPES, fold, part(0))

        def at_once(values_RSJL: Array) -> Array:
            return reduce(fn(values_RSJL, ids_SJL), axis=2, keepdims=True)

        folded = lax.platform_dependent(values_RSJL, cpu=stripe_by_stripe, default=at_once)
        return folded.reshape(num_rows, self.num_columns)

    def tokens(self, columns: Int[Array, "*c"]) -> Int[Array, "*c J"]:
        """Returns the token ids of columns, ascending; some may be beyond the vocabulary."""
        section, place = jnp.divmod(columns, self.length)
        first = section * (NUM_STRIPES * self.length) + place
        return first[..., None] + jnp.arange(NUM_STRIPES, dtype=jnp.int32) * self.length


def per_row(values_R: Array) -> Array:
    """Returns [R, 1, 1, 1], as functions that are folded take it."""
    return values_R[:, None, None, None]


def column_peaks(stripes: Stripes, logits_RV: Float[Array, "R V"]) -> Float[Array, "R C"]:
    """Returns the greatest logit of each column, NaN if it has one."""
    return stripes.fold(logits_RV, lambda logits, ids: logits.astype(jnp.float32), how="max")
