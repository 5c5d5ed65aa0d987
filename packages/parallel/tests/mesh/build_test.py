"""Devices are placed as `mesh_utils` places them, slices as blocks; all axes exist and are `Auto`."""

import jax
import numpy as np
import pytest
from jax.experimental import mesh_utils

from tests.fake_devices import gpus, tpus
from trellax.parallel import MESH_AXES, AxisSizes, MeshShape, build_mesh


def ids(mesh, *axes):
    """Returns the ids with the sizes of the named axes (the others are 1)."""
    sizes = [mesh.shape[axis] for axis in axes]
    return np.vectorize(lambda d: d.id)(mesh.devices).reshape(sizes)


def test_all_axes_are_there_and_auto():
    mesh = build_mesh(MeshShape(fsdp=-1, model=2))
    assert mesh.axis_names == MESH_AXES
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert mesh.size == 8 and mesh.shape["fsdp"] == 4


def test_on_cpu_dcn_blocks_are_runs_of_devices():
    mesh = build_mesh(MeshShape(fsdp=4, dcn=AxisSizes(data=2)))
    assert ids(mesh, "data", "fsdp").tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_on_gpu_dcn_blocks_are_nodes():
    mesh = build_mesh(MeshShape(model=8, dcn=AxisSizes(fsdp=-1)), devices=gpus(4)[::-1])
    nodes = [{d.process_index for d in row} for row in mesh.devices.reshape(4, 8)]
    assert nodes == [{0}, {1}, {2}, {3}]


def test_an_axis_in_both_networks_is_outer_across_and_inner_within():
    mesh = build_mesh(MeshShape(fsdp=4, dcn=AxisSizes(fsdp=2)))
    assert ids(mesh, "fsdp").tolist() == list(range(8))


@pytest.mark.parametrize("torus", [(4, 4, 4), (4, 4, 8)])
def test_one_slice_is_placed_by_topology(torus):
    devices = tpus(torus)
    mesh = build_mesh(MeshShape(fsdp=-1, model=4), devices=devices)
    sizes = tuple(mesh.shape.values())
    np.testing.assert_array_equal(mesh.devices, mesh_utils.create_device_mesh(sizes, devices))


def test_several_slices_are_placed_as_a_hybrid_mesh():
    devices = tpus((4, 4, 4), num_slices=2)
    mesh = build_mesh(MeshShape(fsdp=16, model=4, dcn=AxisSizes(data=2)), devices=devices)
    expected = mesh_utils.create_hybrid_device_mesh(
        (1, 1, 1, 16, 1, 4), (1, 2, 1, 1, 1, 1), devices
    )
    np.testing.assert_array_equal(mesh.devices, expected)


def test_without_dcn_the_outermost_axis_that_fits_crosses_the_slices():
    devices = tpus((4, 4, 4), num_slices=2)
    mesh = build_mesh(MeshShape(data=-1, fsdp=64), devices=devices)
    slices = [{d.slice_index for d in row} for row in mesh.devices.reshape(2, 64)]
    assert slices == [{0}, {1}]


def test_dcn_within_one_slice_is_placed_by_topology():
    devices = tpus((4, 4, 4))
    hybrid = build_mesh(MeshShape(fsdp=16, dcn=AxisSizes(data=4)), devices=devices)
    plain = build_mesh(MeshShape(data=4, fsdp=16), devices=devices)
    np.testing.assert_array_equal(hybrid.devices, plain.devices)


def test_an_axis_may_split_a_torus_axis():
    mesh = build_mesh(MeshShape(fsdp=32, model=2), devices=tpus((4, 4, 4)))
    assert len({d.id for d in mesh.devices.flat}) == 64


def test_dcn_that_does_not_match_the_slices_is_refused():
    with pytest.raises(ValueError, match="dcn must multiply to the 2 slices"):
        build_mesh(MeshShape(fsdp=-1, dcn=AxisSizes(data=4)), devices=tpus((4, 4, 4), num_slices=2))


def test_a_shape_that_no_axis_can_carry_across_slices_is_refused():
    with pytest.raises(ValueError, match=r"for example dcn=AxisSizes\(data=4\)"):
        build_mesh(MeshShape(fsdp=2, model=2), devices=tpus((1, 1, 1), num_slices=4))
