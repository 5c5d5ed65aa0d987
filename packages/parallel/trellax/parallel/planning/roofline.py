"""The least time that a step can take: each resource at its published peak, all of them overlapped.

    bound = roofline(costs, hardware_named("tpu-v5p-512"), mesh_links(shape, hardware))
    bound.seconds, bound.bound_by, bound.mfu

Real steps take longer: nothing runs at its peak, and not everything overlaps. A plan whose bound is already too slow needs
no further look, and what the bound is by says what to change. (S. Williams et al., Roofline, CACM 52(4), 2009.)

How long collectives take (n devices, `bytes` as in `Collective`), from R. Thakur et al., Optimization of Collective
Communication Operations in MPICH, 2005 (what each device must receive), and J. Austin et al., How to Scale Your Model,
2025, chapter 3 (tori), https://jax-ml.github.io/scaling-book/sharding:

| kind | each device receives at least |
| --- | --- |
| all-gather, reduce-scatter | bytes (n - 1) / n |
| all-reduce | twice that: the two after one another |
| all-to-all | bytes (n - 1) / n, and half of everything crosses the middle of the longest ring |
| permute | bytes, over one link |

A chip receives over two links of each torus axis that the group runs over, over one where the axis is no ring (its end has
only one); from an NVLink switch at half of the published rate, which is for both directions. What crosses slices or nodes
arrives once in each and is passed on inside: of n parts in m nodes, bytes (m - 1) / m enter over the network cards of
the n / m devices there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from trellax.parallel.hardware import Hardware, link_bytes_per_second, network_of, peak_flops
from trellax.parallel.planning.collectives import Collective
from trellax.parallel.planning.links import AxisLinks, joined


@dataclasses.dataclass(frozen=True)
class StepCosts:
    """What a step needs, wherever that is known from: a compiled program, or arithmetic."""

    model_flops: float
    """Of the model's formula, all devices together: what MFU counts."""
    flops: Mapping[str, float]
    """FLOPs that are executed (recomputation too) by the type of what is multiplied, all devices together."""
    hbm_bytes: float
    """Read and written by one device."""
    collectives: tuple[Collective, ...] = ()


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds on the time of a step."""

    terms: Mapping[str, float]
    """Seconds by resource: "compute", "hbm", "network" (between slices or nodes), and "switch" (NVLink), or "ici:AXES" for
    each group of mesh axes. Resources whose speed is not published are absent."""
    model_flops_per_second_at_peak: float | None

    @property
    def seconds(self) -> float:
        """The largest term: the step takes at least this long."""
        return max(self.terms.values(), default=0.0)

    @property
    def bound_by(self) -> str | None:
        """The resource with the largest term."""
        return max(self.terms, key=lambda name: self.terms[name], default=None)

    @property
    def mfu(self) -> float | None:
        """The largest share of the peak that the model's FLOPs can reach; None where no peak is published."""
        if self.model_flops_per_second_at_peak is None or not self.seconds:
            return None
        return self.model_flops_per_second_at_peak / self.seconds


def roofline(costs: StepCosts, hardware: Hardware, links: Mapping[str, AxisLinks]) -> Roofline:
    """Returns the least time of a step.

    Args:
        costs: of one step.
        hardware: what it runs on.
        links: of each mesh axis (`mesh_links`).
    """
    terms: dict[str, float] = {}
    compute = _compute_seconds(costs.flops, hardware)
    if compute is not None:
        terms["compute"] = compute
    if hardware.chip.hbm_bytes_per_second is not None:
        terms["hbm"] = (
            costs.hbm_bytes * hardware.chip.devices_per_chip / hardware.chip.hbm_bytes_per_second
        )
    for resource, seconds in communication_seconds(costs.collectives, hardware, links).items():
        terms[resource] = seconds
    main = max(costs.flops, key=lambda dtype: costs.flops[dtype], default="bfloat16")
    peak = peak_flops(hardware, main)
    return Roofline(terms, None if peak is None else costs.model_flops / peak)


def communication_seconds(
    collectives: Iterable[Collective], hardware: Hardware, links: Mapping[str, AxisLinks]
) -> dict[str, float]:
    """Returns the least seconds of each interconnect, of all executions in a step.

    Collectives whose groups are no product of mesh axes are left out: where their devices are is not known.
    """
    seconds: dict[str, float] = {}
    for collective in collectives:
        if not collective.axes:
            continue
        group = joined(links, collective.axes, hardware)
        for resource, once in _seconds(collective, group, hardware).items():
            seconds[resource] = seconds.get(resource, 0.0) + once * collective.times
    return seconds


def _seconds(collective: Collective, group: AxisLinks, hardware: Hardware) -> dict[str, float]:
    seconds = {}
    near = _near_seconds(collective, group, hardware)
    if near:
        seconds[
            "switch" if network_of(hardware) == "switch" else f"ici:{'+'.join(collective.axes)}"
        ] = near
    network = hardware.chip.network_bytes_per_second
    if group.across > 1 and network is not None:
        seconds["network"] = _far_seconds(
            collective, group, network / hardware.chip.devices_per_chip
        )
    return seconds


def _far_seconds(collective: Collective, group: AxisLinks, per_device: float) -> float:
    """Over the network: of what enters a node, each of its devices in the group receives an equal part."""
    entering = collective.bytes * (group.across - 1) / group.across
    if collective.kind == "permute":
        return (
            collective.bytes / per_device if group.within == 1 else 0.0
        )  # Else only some devices send far.
    if collective.kind == "all-to-all":
        return entering / per_device
    return _passes(collective) * entering / (group.within * per_device)


def _near_seconds(collective: Collective, group: AxisLinks, hardware: Hardware) -> float:
    """Within a slice or node; between the devices of a chip nothing is counted."""
    link = link_bytes_per_second(hardware)
    num_chips = group.within // group.per_chip
    if link is None or num_chips == 1:
        return 0.0
    # Groups of other devices of the chip use its links at the same time.
    share = link * group.per_chip / hardware.chip.devices_per_chip
    incoming = collective.bytes * (num_chips - 1) / num_chips
    if network_of(hardware) == "switch":
        speed = share
    else:
        speed = share * sum(2 if closed else 1 for _, closed in group.rings)
    if collective.kind == "permute":
        return collective.bytes / (link / hardware.chip.devices_per_chip)
    if collective.kind != "all-to-all":
        return _passes(collective) * incoming / speed
    incoming *= group.per_chip  # Each device of a chip has its own.
    return max(
        [
            incoming / speed,
            *(_crossing_seconds(collective, ring, group, share) for ring in group.rings),
        ]
    )


def _crossing_seconds(
    collective: Collective, ring: tuple[int, bool], group: AxisLinks, share: float
) -> float:
    """All-to-all: half of what one half of a ring holds goes to the other half, over its two cuts (a line has one)."""
    length, closed = ring
    held = collective.bytes * group.per_chip
    return held * length / 4 / (share * (2 if closed else 1))


def _passes(collective: Collective) -> int:
    return 2 if collective.kind == "all-reduce" else 1


def _compute_seconds(flops: Mapping[str, float], hardware: Hardware) -> float | None:
    total = 0.0
    for dtype, count in flops.items():
        peak = peak_flops(hardware, dtype)
        if peak is None:
            return None
        total += count / peak
    return total
