"""From rules and a mesh to the sharding of each array.

    shardings = shardings_for(model.all_parameter_specs(), mesh, rules)

A *spec* here is any object with `.shape` and `.logical_axes`, such as a layer's `ParameterSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trellax.parallel.sharding.axis_rules import LogicalAxes, LogicalAxisRules

if TYPE_CHECKING:
    import jax


@runtime_checkable
class ArraySpec(Protocol):
    """The shape of an array and the logical axis of each of its dimensions."""

    @property
    def shape(self) -> Sequence[int]: ...

    @property
    def logical_axes(self) -> LogicalAxes: ...


def named_sharding(
    mesh: jax.sharding.Mesh,
    rules: LogicalAxisRules,
    axes: LogicalAxes,
    shape: Sequence[int] | None = None,
) -> jax.sharding.NamedSharding:
    """Returns how an array with these logical axes lies on the mesh.

    Args:
        mesh: the devices.
        rules: which mesh axes split each logical axis.
        axes: one logical axis (or None) for each dimension.
        shape: the array's shape; without it the dimensions are taken to divide evenly.
    """
    import jax

    spec = rules.spec(axes, shape=shape, axis_sizes=mesh.shape)
    return jax.sharding.NamedSharding(mesh, spec)


def shardings_for(specs: Any, mesh: jax.sharding.Mesh, rules: LogicalAxisRules) -> Any:
    """Returns the tree of shardings of a tree of parameters.

    Args:
        specs: tree (dicts, lists, ...) whose leaves are `ArraySpec`s.
        mesh: the devices.
        rules: which mesh axes split each logical axis.

    Raises:
        ValueError: naming the parameter, if two of its dimensions ask for one mesh axis (whatever
            the mesh's sizes, so that a plan fails on a laptop and not on the cluster).
    """

    def sharding(path: str, spec: ArraySpec) -> jax.sharding.NamedSharding:
        refuse_collisions(path, spec, rules)
        return named_sharding(mesh, rules, spec.logical_axes, spec.shape)

    return visit_specs(sharding, specs)


def explain_shardings(
    specs: Any, mesh: jax.sharding.Mesh, rules: LogicalAxisRules
) -> dict[str, str]:
    """Returns {path: spec and why it leaves out what it leaves out} of a tree of `ArraySpec`s."""
    lines: dict[str, str] = {}

    def explain(path: str, spec: ArraySpec) -> None:
        report = rules.explain_spec(spec.logical_axes, shape=spec.shape, axis_sizes=mesh.shape)
        lines[path] = str(report)

    visit_specs(explain, specs)
    return lines


def refuse_collisions(path: str, spec: ArraySpec, rules: LogicalAxisRules) -> None:
    """Raises if two dimensions of a parameter ask for one mesh axis, whatever the mesh's sizes."""
    try:
        report = rules.explain_spec(spec.logical_axes, shape=spec.shape)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    collisions = [str(o) for o in report.omitted if o.kind == "collision"]
    if collisions:
        raise ValueError(
            f"{path}: axes {tuple(spec.logical_axes)} collide: {'; '.join(collisions)}. "
            f"Map one of them to another mesh axis or to None, or name one None in the parameter."
        )


def visit_specs(fn: Callable[[str, ArraySpec], Any], specs: Any) -> Any:
    """Returns the tree of `fn(path, spec)` of a tree of specs."""
    import jax

    def visit(key_path: Any, spec: Any) -> Any:
        path = jax.tree_util.keystr(key_path, simple=True, separator=".")
        if not isinstance(spec, ArraySpec):
            raise ValueError(f"{path}: a {type(spec).__qualname__} has no shape and logical_axes.")
        return fn(path, spec)

    is_spec = lambda leaf: isinstance(leaf, ArraySpec)
    return jax.tree_util.tree_map_with_path(visit, specs, is_leaf=is_spec)
