"""Lower bounds are what published peaks and the shape of the network imply."""

import pytest

from trellax.parallel import AxisSizes, MeshShape, hardware_named
from trellax.parallel.planning import (
    AxisLinks,
    Collective,
    StepCosts,
    communication_seconds,
    mesh_links,
    roofline,
)

V5P, V5E, H100 = (hardware_named(n) for n in ("tpu-v5p-512", "tpu-v5e-256", "gpu-h100-256"))
V5P_LINK, V5E_LINK = 1e11, 5e10
"""Bytes a second in one direction: 1.2e12 over 6 links and 4e11 over 4, both directions."""


def one(kind, axes, size, num_bytes=1e9, times=1):
    return [Collective(kind, axes, size, num_bytes, times)]


@pytest.mark.parametrize(
    ("shape", "hardware", "axis", "expected"),
    [
        (MeshShape(fsdp=-1), V5P, "fsdp", AxisLinks(256, 1, 1, ((8, True), (8, True), (4, True)))),
        (MeshShape(fsdp=-1, model=8), V5P, "model", AxisLinks(8, 1, 1, ((8, True),))),
        (MeshShape(fsdp=-1), V5E, "fsdp", AxisLinks(256, 1, 1, ((16, True), (16, True)))),
        (
            MeshShape(fsdp=-1),
            hardware_named("tpu-v5e-16"),
            "fsdp",
            AxisLinks(16, 1, 1, ((4, False), (4, False))),
        ),
        (
            MeshShape(data=-1, fsdp=256),
            hardware_named("tpu-v5e-256-4"),
            "data",
            AxisLinks(1, 4, 1, ()),
        ),
        (
            MeshShape(fsdp=-1, model=2),
            hardware_named("tpu-7x-128"),
            "model",
            AxisLinks(2, 1, 2, ()),
        ),
        (MeshShape(fsdp=-1), H100, "fsdp", AxisLinks(8, 32, 1, ())),
        (MeshShape(fsdp=-1, model=8), H100, "fsdp", AxisLinks(1, 32, 1, ())),
        (MeshShape(model=8, dcn=AxisSizes(fsdp=-1)), H100, "model", AxisLinks(8, 1, 1, ())),
    ],
)
def test_axes_run_over_these_links(shape, hardware, axis, expected):
    assert mesh_links(shape, hardware)[axis] == expected


def seconds(collective, shape, hardware):
    return communication_seconds(collective, hardware, mesh_links(shape, hardware))


def test_a_gather_receives_over_both_links_of_each_ring():
    whole = seconds(one("all-gather", ("fsdp",), 256), MeshShape(fsdp=-1), V5P)
    assert whole == {"ici:fsdp": pytest.approx(1e9 * 255 / 256 / (6 * V5P_LINK))}
    ring = seconds(one("all-gather", ("model",), 8), MeshShape(fsdp=-1, model=8), V5P)
    assert ring == {"ici:model": pytest.approx(1e9 * 7 / 8 / (2 * V5P_LINK))}


def test_a_line_has_one_link_at_its_ends():
    small = hardware_named("tpu-v5e-16")
    found = seconds(one("all-gather", ("fsdp",), 16), MeshShape(fsdp=-1), small)
    assert found == {"ici:fsdp": pytest.approx(1e9 * 15 / 16 / (2 * V5E_LINK))}


def test_an_all_reduce_is_a_scatter_and_a_gather():
    shape = MeshShape(fsdp=-1, model=8)
    gather = seconds(one("all-gather", ("model",), 8), shape, V5P)["ici:model"]
    scatter = seconds(one("reduce-scatter", ("model",), 8), shape, V5P)["ici:model"]
    reduce = seconds(one("all-reduce", ("model",), 8), shape, V5P)["ici:model"]
    assert reduce == pytest.approx(gather + scatter)


def test_an_all_to_all_on_a_ring_takes_a_quarter_of_gathering_the_same_array():
    shape = MeshShape(fsdp=-1, expert=16, model=1)
    exchanged = seconds(one("all-to-all", ("expert",), 16, 1e9), shape, V5E)["ici:expert"]
    gathered = seconds(one("all-gather", ("expert",), 16, 16e9), shape, V5E)["ici:expert"]
    assert exchanged == pytest.approx(gathered * 16 / 15 / 4)


def test_a_permute_uses_one_link():
    found = seconds(one("permute", ("seq",), 4), MeshShape(fsdp=-1, seq=4), V5P)
    assert found == {"ici:seq": pytest.approx(1e9 / V5P_LINK)}


def test_in_a_node_a_gather_receives_at_half_of_nvlinks_published_rate():
    found = seconds(one("all-gather", ("model",), 8), MeshShape(fsdp=-1, model=8), H100)
    assert found == {"switch": pytest.approx(1e9 * 7 / 8 / 4.5e11)}


def test_across_nodes_each_of_a_nodes_devices_brings_its_part():
    found = seconds(one("all-gather", ("fsdp",), 256), MeshShape(fsdp=-1), H100)
    assert found["network"] == pytest.approx(1e9 * 31 / 32 / (8 * 5e10))
    assert found["switch"] == pytest.approx(1e9 * 7 / 8 / 4.5e11)


def test_across_slices_gradients_cross_the_network():
    four = hardware_named("tpu-v5e-256-4")
    found = seconds(one("all-reduce", ("data",), 4), MeshShape(data=-1, fsdp=256), four)
    assert found == {"network": pytest.approx(2 * 1e9 * 3 / 4 / 3.125e9)}


def test_devices_of_one_chip_exchange_for_nothing_and_share_its_links():
    chips = hardware_named("tpu-7x-128")
    shape = MeshShape(fsdp=-1, model=2)
    assert seconds(one("all-reduce", ("model",), 2), shape, chips) == {}
    shared = seconds(one("all-gather", ("fsdp",), 64), shape, chips)["ici:fsdp"]
    assert shared == pytest.approx(1e9 * 63 / 64 / (6 * V5P_LINK / 2))


def test_executions_add_up_and_groups_of_no_axes_are_left_out():
    shape = MeshShape(fsdp=-1, model=8)
    once = seconds(one("all-gather", ("model",), 8), shape, V5P)["ici:model"]
    many = [*one("all-gather", ("model",), 8, times=3), *one("all-reduce", (), 3)]
    assert seconds(many, shape, V5P) == {"ici:model": pytest.approx(3 * once)}


def test_the_bound_is_the_slowest_resource_and_limits_mfu():
    flops = 0.5 * 256 * 459e12  # Half a second.
    costs = StepCosts(
        model_flops=flops * 0.75,
        flops={"bfloat16": flops},
        hbm_bytes=2.765e12,
        collectives=tuple(one("permute", ("fsdp",), 256, V5P_LINK / 4)),
    )
    bound = roofline(costs, V5P, mesh_links(MeshShape(fsdp=-1), V5P))
    assert bound.terms == {
        "compute": pytest.approx(0.5),
        "hbm": pytest.approx(1.0),
        "ici:fsdp": pytest.approx(0.25),
    }
    assert (bound.seconds, bound.bound_by) == (pytest.approx(1.0), "hbm")
    assert bound.mfu == pytest.approx(0.375)


def test_without_published_peaks_there_is_no_bound():
    cpu = hardware_named("cpu")
    costs = StepCosts(1e9, {"float32": 1e9}, 1e9, tuple(one("all-gather", ("fsdp",), 1)))
    bound = roofline(costs, cpu, mesh_links(MeshShape(), cpu))
    assert bound.terms == {} and bound.seconds == 0 and bound.bound_by is None and bound.mfu is None
