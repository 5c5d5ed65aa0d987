"""Code that each device runs on its own part of some arrays, for what XLA cannot partition by itself.

    split = split_over_devices({("batch", "length", "act_mlp"): x.shape})
    y = split.run(kernel, (x,), in_axes=[("batch", "length", "act_mlp")], out_axes=("batch", "length", None))

Pallas kernels are opaque to XLA, and some algorithms (ring attention, expert dispatch) say themselves who sends what to
whom. Such code runs under `jax.shard_map` over the mesh in scope. Where there is no mesh, or one device, it is called as
it is, so the same code serves everywhere: ask `split.axes_of("length")` whether anything is split.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trellax.parallel.sharding.axis_rules import LogicalAxes
from trellax.parallel.sharding.scope import current_scope, sharding_scope

if TYPE_CHECKING:
    import jax


@dataclasses.dataclass(frozen=True)
class DeviceSplit:
    """Which mesh axes split each logical axis, in the same way for all arrays of one computation."""

    mesh: jax.sharding.Mesh | None
    """The devices; None where nothing is split."""
    mesh_axes: Mapping[str, tuple[str, ...]]
    """Mesh axes (outermost first) by logical axis; none of size 1."""

    def axes_of(self, logical_axis: str) -> tuple[str, ...]:
        """Returns the mesh axes that split a logical axis: () if each device holds all of it."""
        return self.mesh_axes.get(logical_axis, ())

    def parts(self, logical_axis: str) -> int:
        """Returns into how many parts a logical axis is split."""
        axes = self.axes_of(logical_axis)
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in axes)

    def spec(self, axes: LogicalAxes) -> jax.sharding.PartitionSpec:
        """Returns the partition spec of an array; where two of its axes share a mesh axis the left one has it."""
        import jax

        used: set[str] = set()
        entries = []
        for logical_axis in axes:
            mine = tuple(a for a in self.axes_of(logical_axis or "") if a not in used)
            used.update(mine)
            entries.append(mine or None)
        return jax.sharding.PartitionSpec(*entries)

    def run(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        *,
        in_axes: Sequence[Any],
        out_axes: Any,
    ) -> Any:
        """Returns `fn(*args)`, computed by each device on its blocks.

        Args:
            fn: takes and returns blocks; may use collectives over the mesh's axes.
            args: arrays, or trees of arrays.
            in_axes: for each argument its logical axes (a tuple of names), or a tree of them that mirrors the argument.
            out_axes: the same of the result. What no axis splits must come out equal on all devices.
        """
        if self.mesh is None:
            return fn(*args)
        import jax

        is_axes = lambda node: isinstance(node, tuple) and all(
            axis is None or isinstance(axis, str) for axis in node
        )
        specs = lambda axes: jax.tree.map(self.spec, axes, is_leaf=is_axes)

        def local(*blocks: Any) -> Any:
            with sharding_scope(None):  # Constraints are for arrays of all devices.
                return fn(*blocks)

        return jax.shard_map(
            local,
            mesh=self.mesh,
            in_specs=tuple(specs(axes) for axes in in_axes),
            out_specs=specs(out_axes),
            check_vma=False,  # JAX's own Pallas kernels do not say what their results vary over.
        )(*args)


def split_over_devices(shapes: Mapping[tuple[str | None, ...], Sequence[int]]) -> DeviceSplit:
    """Returns how the scope's rules split some arrays.

    Args:
        shapes: shapes by logical axes. A mesh axis that does not divide every dimension of a logical axis' name is left
            out of it, for all arrays.
    """
    scope = current_scope()
    if scope is None or scope.mesh.size == 1:
        return DeviceSplit(None, {})
    lengths: dict[str, list[int]] = {}
    for axes, shape in shapes.items():
        for logical_axis, length in zip(axes, shape, strict=True):
            if logical_axis is not None:
                lengths.setdefault(logical_axis, []).append(length)
    sizes = scope.mesh.shape
    kept = {
        logical_axis: _dividing(scope.rules.mesh_axes(logical_axis), sizes, of_axis)
        for logical_axis, of_axis in lengths.items()
    }
    return DeviceSplit(scope.mesh, kept)


def _dividing(
    mesh_axes: Sequence[str], sizes: Mapping[str, int], lengths: Sequence[int]
) -> tuple[str, ...]:
    kept: list[str] = []
    parts = 1
    for axis in mesh_axes:
        size = sizes[axis]
        if size > 1 and all(length % (parts * size) == 0 for length in lengths):
            kept.append(axis)
            parts *= size
    return tuple(kept)
