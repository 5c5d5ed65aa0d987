"""The shape of a mesh: how many devices lie along each axis, within slices and across them.

    MeshShape(fsdp=-1, model=8)                              # -1: whatever is left
    MeshShape(fsdp=256, dcn=AxisSizes(data=-1))              # FSDP in a slice, data across slices

Axes, outermost (least traffic) first: pipeline (stages), data (replicas), expert (experts of MoE
layers), fsdp (parameters and optimizer state), seq (parts of a sequence), model (parts of heads and
feed-forward). ICI is the fast network within a slice or node, DCN the network between them.
"""

from __future__ import annotations

import math

from trellax.config import Config

MESH_AXES = ("pipeline", "data", "expert", "fsdp", "seq", "model")


class AxisSizes(Config):
    """Number of devices (or of groups of devices) along each mesh axis."""

    pipeline: int = 1
    data: int = 1
    expert: int = 1
    fsdp: int = 1
    seq: int = 1
    model: int = 1

    def sizes(self) -> tuple[int, ...]:
        """Returns the sizes in the order of `MESH_AXES`."""
        return tuple(getattr(self, axis) for axis in MESH_AXES)

    def _text(self) -> str:
        shown = [f"{axis}={getattr(self, axis)}" for axis in MESH_AXES if getattr(self, axis) != 1]
        return ", ".join(shown) or "one device"


class MeshShape(AxisSizes):
    """Sizes of the mesh axes within a slice or node, and of those across. One may be -1."""

    dcn: AxisSizes | None = None
    """Factors across slices or nodes. None: all axes on the fast network, or, on several TPU
    slices, the outermost axis whose size the number of slices divides runs across them."""

    def check(self) -> None:
        if isinstance(self.dcn, MeshShape):
            raise ValueError("dcn has no dcn of its own; write dcn=AxisSizes(...).")
        sizes = self._all_sizes()
        bad = [size for size in sizes if size != -1 and size < 1]
        if bad:
            raise ValueError(f"{self}: sizes are at least 1, or -1 for one of them; got {bad}.")
        if sizes.count(-1) > 1:
            raise ValueError(f"{self}: at most one size may be -1, also across ICI and DCN.")

    def resolved(self, num_devices: int) -> MeshShape:
        """Returns the shape for this number of devices, with the -1 replaced.

        Raises:
            ValueError: if the sizes do not multiply to the number of devices.
        """
        self.check()
        sizes = self._all_sizes()
        known = math.prod(size for size in sizes if size != -1)
        missing, rest = divmod(num_devices, known)
        if rest or missing < 1 or (missing > 1 and -1 not in sizes):
            fix = f"the product {known} must divide it" if -1 in sizes else "make one size -1"
            raise ValueError(f"Mesh ({self}) does not fit {num_devices} devices; {fix}.")
        shape = self.clone()
        for part in [shape] if shape.dcn is None else [shape, shape.dcn]:
            for axis in MESH_AXES:
                if getattr(part, axis) == -1:
                    part.set(**{axis: missing})
        return shape

    def total_sizes(self) -> dict[str, int]:
        """Returns {axis: ICI size x DCN size} of a resolved shape, as `jax.sharding.Mesh.shape`."""
        dcn = self.dcn or AxisSizes()
        return {axis: getattr(self, axis) * getattr(dcn, axis) for axis in MESH_AXES}

    def known_sizes(self) -> dict[str, int]:
        """Returns `total_sizes` of a shape that need not be resolved, without the axis that is still -1."""
        return {axis: size for axis, size in self.total_sizes().items() if size > 0}

    def _all_sizes(self) -> tuple[int, ...]:
        return self.sizes() + (self.dcn.sizes() if self.dcn is not None else ())

    def __str__(self) -> str:
        across = "" if self.dcn is None else f"; across slices: {self.dcn._text()}"
        return self._text() + across
