"""Devices of hardware that is not here: enough of `jax.Device` for naming and for placing meshes."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    id: int
    process_index: int
    platform: str
    device_kind: str
    slice_index: int | None = None
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def gpus(num_nodes: int, *, device_kind: str = "NVIDIA H100 80GB HBM3") -> list[FakeDevice]:
    return [FakeDevice(i, i // 8, "gpu", device_kind) for i in range(8 * num_nodes)]


def tpus(
    torus: tuple[int, int, int],
    *,
    device_kind: str = "TPU v5p",
    num_slices: int = 1,
    cores: int = 1,
) -> list[FakeDevice]:
    x, y, z = torus
    places = [
        (s, (i, j, k), core)
        for s in range(num_slices)
        for k in range(z)
        for j in range(y)
        for i in range(x)
        for core in range(cores)
    ]
    per_host = 4 * cores
    return [
        FakeDevice(n, n // per_host, "tpu", device_kind, s, coords, core)
        for n, (s, coords, core) in enumerate(places)
    ]
