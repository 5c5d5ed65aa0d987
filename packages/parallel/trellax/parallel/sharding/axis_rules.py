"""Rules that map the logical axes of arrays to mesh axes.

    rules = LogicalAxisRules(rules={"embed": "fsdp", "mlp": "model", "batch": ("data", "fsdp")})
    rules.spec(("embed", "mlp"))  # PartitionSpec("fsdp", "model")

A *logical axis* is what a layer calls a dimension of its array ("embed"); a *mesh axis* is one of
`MESH_AXES`. A logical axis maps to one mesh axis, to several (split by all, outermost first) or to
None (each device holds all of it). In an array's axes None stands for a dimension that is never
split. Parameters and activations have axes of their own because they are split differently: FSDP
splits a weight's `embed`, but an activation's `batch`, over the same devices.

Not every dimension can be split as its rule says. A mesh axis is left out of a spec where
- *collision*: a dimension further left already uses it (an array is split by an axis only once), or
- *indivisible*: it would not split the dimension evenly.
`explain_spec` names each one left out. Nothing is left out silently for parameters: a collision is
an error there (`shardings_for`), and indivisible ones are in `explain_shardings`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from trellax.config import Config, did_you_mean
from trellax.parallel.mesh import MESH_AXES

if TYPE_CHECKING:
    import jax

LogicalAxes = Sequence[str | None]
"""One name, or None, for each dimension of an array."""

MeshAxes = str | tuple[str, ...] | None
"""What a logical axis maps to: one mesh axis, several (outermost first), or none."""

_PARAMETER_RULES: dict[str, MeshAxes] = {
    "layers": "pipeline",  # L, stacked copies of a layer
    "embed": "fsdp",  # D
    "mlp": "model",  # F
    "heads": "model",  # N
    "kv_heads": "model",  # K
    "head_dim": None,  # H
    "vocab": "model",  # V
    "experts": "expert",  # E
    "norm": None,  # scales and other small vectors
}
_ACTIVATION_RULES: dict[str, MeshAxes] = {
    "batch": ("data", "expert", "fsdp"),  # B
    "length": "seq",  # S or T
    "residual_length": "seq",  # S of the residual stream and its norms
    "act_embed": None,
    "act_mlp": "model",
    "act_heads": "model",
    "act_kv_heads": "model",
    "act_head_dim": None,
    "act_vocab": "model",
    "act_experts": "expert",
}
PARAMETER_AXES = tuple(_PARAMETER_RULES)
ACTIVATION_AXES = tuple(_ACTIVATION_RULES)
DEFAULT_RULES: dict[str, MeshAxes] = {**_PARAMETER_RULES, **_ACTIVATION_RULES}


@dataclasses.dataclass(frozen=True)
class OmittedAxis:
    """A mesh axis that a rule asks for and a spec leaves out."""

    dim: int
    logical_axis: str
    mesh_axis: str
    kind: Literal["collision", "indivisible"]
    reason: str

    def __str__(self) -> str:
        return f"dim {self.dim} ({self.logical_axis}) is not split over {self.mesh_axis}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class SpecReport:
    """The mesh axes that split each dimension of an array, and those left out."""

    mesh_axes: tuple[tuple[str, ...], ...]
    omitted: tuple[OmittedAxis, ...]

    def partition_spec(self) -> jax.sharding.PartitionSpec:
        """Returns the spec in JAX's form: a name, a tuple of names, or None for each dimension."""
        import jax

        entries = [axes[0] if len(axes) == 1 else axes or None for axes in self.mesh_axes]
        return jax.sharding.PartitionSpec(*entries)

    def __str__(self) -> str:
        spec = ", ".join("+".join(axes) or "-" for axes in self.mesh_axes)
        return "; ".join([f"({spec})", *map(str, self.omitted)])


class LogicalAxisRules(Config):
    """Which mesh axes split each logical axis: a parallelism plan as data.

    The default is FSDP and tensor parallelism (`fsdp_tensor_rules`).
    """

    rules: dict[str, MeshAxes] = DEFAULT_RULES

    def check(self) -> None:
        for logical_axis, mesh_axes in self.rules.items():
            named = _as_tuple(mesh_axes)
            for axis in named:
                if axis not in MESH_AXES:
                    near = did_you_mean(axis, MESH_AXES)
                    raise ValueError(
                        f"rules[{logical_axis!r}]: {axis!r} is no mesh axis.{near} "
                        f"Mesh axes: {', '.join(MESH_AXES)}."
                    )
            if len(set(named)) != len(named):
                raise ValueError(f"rules[{logical_axis!r}]: {mesh_axes!r} names an axis twice.")

    def override(self, **rules: MeshAxes) -> LogicalAxisRules:
        """Returns a copy with some logical axes mapped differently, or new ones added."""
        return self.clone(rules={**self.rules, **rules})

    def mesh_axes(self, logical_axis: str | None) -> tuple[str, ...]:
        """Returns the mesh axes that the rules give one logical axis.

        Raises:
            ValueError: if no rule names it; tells near names.
        """
        if logical_axis is None:
            return ()
        if logical_axis not in self.rules:
            raise ValueError(
                f"No rule for logical axis {logical_axis!r}.{did_you_mean(logical_axis, self.rules)} "
                f"Rules: {', '.join(self.rules) or 'none'}; map it to None to leave it whole."
            )
        return _as_tuple(self.rules[logical_axis])

    def spec(
        self,
        axes: LogicalAxes,
        *,
        shape: Sequence[int] | None = None,
        axis_sizes: Mapping[str, int] | None = None,
    ) -> jax.sharding.PartitionSpec:
        """Returns the partition spec of an array with these logical axes.

        Args:
            axes: one logical axis (or None) for each dimension.
            shape: the array's shape; with `axis_sizes`, axes that do not divide it are left out.
            axis_sizes: size of each mesh axis, `mesh.shape`; axes of size 1 are left out.

        Raises:
            ValueError: for an unknown logical axis, or if `shape` has another number of dimensions.
        """
        return self.explain_spec(axes, shape=shape, axis_sizes=axis_sizes).partition_spec()

    def explain_spec(
        self,
        axes: LogicalAxes,
        *,
        shape: Sequence[int] | None = None,
        axis_sizes: Mapping[str, int] | None = None,
    ) -> SpecReport:
        """Returns the spec with the mesh axes that were left out of it; arguments as `spec`."""
        if shape is not None and len(shape) != len(axes):
            raise ValueError(
                f"{len(axes)} logical axes {tuple(axes)} for {len(shape)} dimensions of shape "
                f"{tuple(shape)}; name each dimension once."
            )
        used: dict[str, str] = {}
        omitted: list[OmittedAxis] = []
        per_dim = []
        for dim, logical_axis in enumerate(axes):
            length = None if shape is None else shape[dim]
            sizes = _sizes(self.mesh_axes(logical_axis), axis_sizes)
            kept: dict[str, int] = {}
            for axis, size in sizes.items():
                refusal = _refusal(axis, used, length, math.prod(kept.values()) * size)
                if refusal is None:
                    kept[axis], used[axis] = size, str(logical_axis)
                else:
                    omitted.append(OmittedAxis(dim, str(logical_axis), axis, *refusal))
            per_dim.append(tuple(kept))
        return SpecReport(tuple(per_dim), tuple(omitted))


def _sizes(mesh_axes: Sequence[str], axis_sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Returns the sizes of those axes that split anything; 1, which divides all, where unknown."""
    if axis_sizes is None:
        return dict.fromkeys(mesh_axes, 1)
    return {axis: axis_sizes[axis] for axis in mesh_axes if axis_sizes[axis] > 1}


def _refusal(
    axis: str, used: Mapping[str, str], length: int | None, num_parts: int
) -> tuple[Literal["collision", "indivisible"], str] | None:
    if axis in used:
        return "collision", f"{used[axis]} uses it already"
    if length is not None and length % num_parts:
        return "indivisible", f"{length} is no multiple of {num_parts}"
    return None


def _as_tuple(mesh_axes: MeshAxes) -> tuple[str, ...]:
    if mesh_axes is None:
        return ()
    return (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes
