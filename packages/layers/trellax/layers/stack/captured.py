"""Functions of which everything they use is an argument, as rules for derivatives need them.

    pure, used = captured(fn, x)      # pure(used, x) == fn(x)

A function that is differentiated by a rule of its own (`jax.custom_vjp`) must not close over arrays that are traced:
they would get no gradient, or be out of scope when the rule is applied. `jax.closure_convert` passes on floats alone;
keys and token ids are traced, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

Arrays = list[Any]


def captured(fn: Callable[..., Any], *examples: Any) -> tuple[Callable[..., Any], Arrays]:
    """Returns `fn` as a function that takes the arrays it closes over first, and these arrays.

    Args:
        fn: a function of trees of arrays.
        examples: arguments, or their shapes and types.
    """
    traced, shapes = jax.make_jaxpr(fn, return_shape=True)(*examples)
    treedef = jax.tree.structure(shapes)

    def pure(used: Sequence[Any], *args: Any) -> Any:
        results = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, list(used)))(*jax.tree.leaves(args))
        return jax.tree.unflatten(treedef, results)

    return pure, list(traced.consts)


class Floats:
    """Tells the floating arrays of a list, which have gradients, from the others."""

    def __init__(self, arrays: Sequence[Any]):
        self._dtypes = [x.dtype for x in arrays]
        self._at = [i for i, dtype in enumerate(self._dtypes) if jnp.issubdtype(dtype, jnp.inexact)]

    @property
    def mask(self) -> list[bool]:
        """Whether each is a floating one."""
        return [i in self._at for i in range(len(self._dtypes))]

    def of(self, arrays: Sequence[Any]) -> Arrays:
        """Returns the floating ones of such a list."""
        return [arrays[i] for i in self._at]

    def replaced(self, arrays: Sequence[Any], values: Sequence[Any]) -> Arrays:
        """Returns a list whose floating arrays are `values`."""
        new = list(arrays)
        for i, x in zip(self._at, values, strict=True):
            new[i] = x
        return new

    def gradients(self, values: Sequence[Any]) -> Arrays:
        """Returns a gradient for each array, in its type: None, which is zero, for those that have none."""
        gradients: Arrays = [None] * len(self._dtypes)
        for i, x in zip(self._at, values, strict=True):
            gradients[i] = x.astype(self._dtypes[i])
        return gradients
