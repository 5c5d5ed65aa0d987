"""Grouped matrix product by `jax.lax.ragged_dot`, which compilers may lower to a grouped kernel.

The TPU compiler has no batched ragged product, so under `jax.vmap` (pipeline stages, say) one is computed after
another. JAX does not differentiate functions with a batching rule of their own in reverse, hence the rule for the
gradient as well.

Axes: M rows, K contracted, N columns, G groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trellax.kernels.grouped_matmul.call import GroupedMatmulCall


def run(call: GroupedMatmulCall) -> Float[Array, "M N"]:
    return _product(call.lhs_MK, call.rhs_GKN, call.group_sizes_G.astype(jnp.int32))


def _one_by_one(fn: Callable[..., Array]) -> Callable[..., Array]:
    """Returns `fn` with a batching rule that calls it on one element after the other."""
    batchable = jax.custom_batching.custom_vmap(fn)

    @batchable.def_vmap
    def rule(axis_size: int, in_batched: Any, *args: Array) -> tuple[Array, bool]:
        # Within `shard_map` the axis may be cut, and `axis_size` is that of the whole.
        (size,) = {x.shape[0] for x, b in zip(args, in_batched, strict=True) if b}
        at = lambda i: [x[i] if b else x for x, b in zip(args, in_batched, strict=True)]
        if size == 1:
            return batchable(*at(0))[None], True
        return jax.lax.map(lambda i: batchable(*at(i)), jnp.arange(size)), True

    return batchable


@_one_by_one
def _rows(lhs_MK: Array, rhs_GKN: Array, sizes_G: Array) -> Array:
    out_MN = jax.lax.ragged_dot(lhs_MK, rhs_GKN, sizes_G, preferred_element_type=jnp.float32)
    return out_MN.astype(lhs_MK.dtype)


_CONTRACT_ROWS = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[],
)


@_one_by_one
def _matrices(lhs_MK: Array, g_MN: Array, sizes_G: Array) -> Array:
    """Returns `lhsᵀ g` of each group, [G, K, N]."""
    out_GKN = jax.lax.ragged_dot_general(
        lhs_MK, g_MN, sizes_G, _CONTRACT_ROWS, preferred_element_type=jnp.float32
    )
    return out_GKN.astype(lhs_MK.dtype)


@jax.custom_vjp
def _product(lhs_MK: Array, rhs_GKN: Array, sizes_G: Array) -> Array:
    return _rows(lhs_MK, rhs_GKN, sizes_G)


def _forward(lhs_MK: Array, rhs_GKN: Array, sizes_G: Array) -> tuple[Array, Any]:
    return _rows(lhs_MK, rhs_GKN, sizes_G), (lhs_MK, rhs_GKN, sizes_G)


def _backward(saved: Any, g_MN: Array) -> tuple[Array, Array, None]:
    lhs_MK, rhs_GKN, sizes_G = saved
    return (
        _rows(g_MN, rhs_GKN.swapaxes(1, 2), sizes_G),
        _matrices(lhs_MK, g_MN, sizes_G),
        None,
    )


_product.defvjp(_forward, _backward)
