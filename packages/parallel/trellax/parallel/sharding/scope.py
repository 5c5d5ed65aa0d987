"""Sharding of activations: layers say what their dimensions are, the scope says where they lie.

    with sharding_scope(mesh, rules):
        y = jax.jit(step)(x)              # ... in a layer: x = constrain(x, ("batch", "length", None))

The scope is read while a function is traced. A compiled function keeps the scope that it was traced
in, so enter the scope where the step is traced or lowered, and do not share one jitted function
between scopes.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from trellax.parallel.sharding.axis_rules import LogicalAxes, LogicalAxisRules
from trellax.parallel.sharding.placement import named_sharding

if TYPE_CHECKING:
    import jax
    from jaxtyping import Array, Shaped

    AnyArray = TypeVar("AnyArray", bound=Shaped[Array, "..."])


@dataclasses.dataclass(frozen=True)
class ShardingScope:
    """The mesh and the rules that `constrain` applies."""

    mesh: jax.sharding.Mesh
    rules: LogicalAxisRules


_SCOPE: contextvars.ContextVar[ShardingScope | None] = contextvars.ContextVar(
    "trellax_sharding_scope", default=None
)


@contextlib.contextmanager
def sharding_scope(
    mesh: jax.sharding.Mesh | None, rules: LogicalAxisRules | None = None
) -> Iterator[ShardingScope | None]:
    """Makes `constrain` act in this thread, until the block ends.

    Args:
        mesh: the devices. None switches constraints off within the block, which code that is
            already mapped over devices (`jax.shard_map`) needs.
        rules: which mesh axes split each logical axis.
    """
    if mesh is not None and rules is None:
        raise ValueError("A mesh needs rules; pass for example fsdp_tensor_rules().")
    scope = None if mesh is None or rules is None else ShardingScope(mesh, rules)
    token = _SCOPE.set(scope)
    try:
        with _abstract_mesh(scope):
            yield scope
    finally:
        _SCOPE.reset(token)


def _abstract_mesh(scope: ShardingScope | None) -> contextlib.AbstractContextManager[Any]:
    """Tells JAX the mesh, too: kernels are chosen for its devices, which may be those of another machine."""
    if scope is None:
        return contextlib.nullcontext()
    import jax

    return jax.sharding.use_abstract_mesh(scope.mesh.abstract_mesh)


def current_scope() -> ShardingScope | None:
    """Returns the innermost scope, or None outside of any."""
    return _SCOPE.get()


def constrain(x: AnyArray, axes: LogicalAxes) -> AnyArray:
    """Tells the compiler how `x` lies on the mesh of the scope.

    Without a scope, or on a mesh of one device, `x` is returned as it is. A mesh axis that another
    dimension uses already, or that does not divide a dimension, is left out (`explain_spec`).

    Args:
        x: an array or tracer of any shape and type.
        axes: one logical axis for each dimension; None for one that is never split.

    Raises:
        ValueError: if the number of axes differs from that of dimensions, or one has no rule.
    """
    scope = current_scope()
    if scope is None or scope.mesh.size == 1:
        return x
    import jax

    sharding = named_sharding(scope.mesh, scope.rules, axes, x.shape)
    return jax.lax.with_sharding_constraint(x, sharding)
