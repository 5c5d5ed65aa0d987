"""The question that a mesh puts to every node of a tree, before anything is traced.

    check_mesh(trainer_cfg.model, RunShape({"pipeline": 4}, rows=64, length=4096), path="model")

A node answers by a method of its config, `mesh_refusal(run) -> str | None`: None where it can run, else the reason and the
nearest thing that works. Nodes that work on any mesh have no such method. An axis that must be put to use by somebody
(`pipeline`) is claimed by a method `used_mesh_axes() -> ("pipeline",)` of the node that does; where nobody claims it, its
devices would all do the same work, which is refused, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trellax.config import nodes

MUST_BE_USED = {
    "pipeline": "no stack of the model runs in stages; replace its ScannedStack by a PipelinedStack, or use pipeline=1",
}
"""Axes over which nothing is split unless a node does so itself, and what to do about it."""


@dataclasses.dataclass(frozen=True)
class RunShape:
    """What a node may know of the run that it is in."""

    axis_sizes: Mapping[str, int]
    """Devices along each mesh axis; those that are not known yet (-1) are absent."""
    rows: int | None = None
    """Rows of one forward pass, over all devices: the batch over the accumulation steps. None: unknown."""
    length: int | None = None
    """Tokens of a row. None: unknown."""

    def size(self, axis: str) -> int:
        """Returns the devices along an axis, 1 while unknown."""
        return self.axis_sizes.get(axis, 1)

    def describe(self) -> str:
        """Returns the sizes other than 1, as in "fsdp=4, seq=2"."""
        return ", ".join(f"{a}={n}" for a, n in self.axis_sizes.items() if n > 1) or "one device"


@dataclasses.dataclass(frozen=True)
class MeshRefusal:
    """A node that cannot run on a mesh."""

    path: str
    reason: str
    """Why, and the nearest thing that works."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def mesh_refusals(cfg: Any, run: RunShape, *, path: str = "") -> list[MeshRefusal]:
    """Returns what the nodes of a tree object to.

    Args:
        cfg: the tree.
        run: the mesh and the batch.
        path: where the tree stands in a larger one, for messages.
    """
    found = []
    used: set[str] = set()
    for below, node in nodes(cfg):
        if hasattr(node, "used_mesh_axes"):
            used.update(node.used_mesh_axes())
        reason = node.mesh_refusal(run) if hasattr(node, "mesh_refusal") else None
        if reason is not None:
            found.append(MeshRefusal(".".join(filter(None, (path, below))), reason))
    for axis, remedy in MUST_BE_USED.items():
        if run.size(axis) > 1 and axis not in used:
            found.append(
                MeshRefusal(path or "config", f"mesh axis {axis}={run.size(axis)}: {remedy}.")
            )
    return found


def check_mesh(cfg: Any, run: RunShape, *, path: str = "") -> None:
    """Raises if a node cannot run on the mesh.

    Raises:
        ValueError: with every objection.
    """
    found = mesh_refusals(cfg, run, path=path)
    if found:
        reasons = "".join(f"\n  {refusal}" for refusal in found)
        raise ValueError(f"This model does not run on the mesh ({run.describe()}):{reasons}")
