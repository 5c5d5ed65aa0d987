"""Microbatches: the parts of a batch that follow each other through a pipeline.

    parts = Microbatches(tokens, rows=B, num=M)
    parts.at(m)

Microbatch m has the rows m, m + M, m + 2 M, …: with the rows of a batch in blocks over devices, each microbatch has
rows on every device, and cutting up moves nothing.

Axes: B batch, M microbatches.
"""

from __future__ import annotations

from typing import Any

import jax


class Microbatches:
    """A tree of which arrays `[B, ...]` are cut up; all else is the same for every microbatch."""

    def __init__(self, tree: Any, *, rows: int, num: int):
        self._leaves, self._treedef = jax.tree.flatten(tree)
        self._is_cut = [getattr(x, "ndim", 0) > 0 and x.shape[0] == rows for x in self._leaves]
        self._leaves = [split_rows(x, num) if cut else x for x, cut in self._cut()]

    def at(self, index: Any) -> Any:
        """Returns the tree of one microbatch.

        Args:
            index: which; an int32 scalar.
        """
        take = lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False)
        leaves = [take(x) if cut else x for x, cut in self._cut()]
        return jax.tree.unflatten(self._treedef, leaves)

    def _cut(self) -> list[tuple[Any, bool]]:
        return list(zip(self._leaves, self._is_cut))


def split_rows(x: jax.Array, num: int) -> jax.Array:
    """Returns `[B, ...]` as `[M, B / M, ...]`."""
    return x.reshape(x.shape[0] // num, num, *x.shape[1:]).swapaxes(0, 1)


def join_rows(x_M: jax.Array) -> jax.Array:
    """Returns `[M, B / M, ...]` as `[B, ...]`."""
    x = x_M.swapaxes(0, 1)
    return x.reshape(-1, *x.shape[2:])
