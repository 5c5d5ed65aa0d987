"""A mesh shape fits a number of devices exactly, with at most one size inferred."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.config import finalize
from trellax.parallel import MESH_AXES, AxisSizes, MeshShape

SIZES = st.fixed_dictionaries({axis: st.integers(1, 6) for axis in MESH_AXES})


@given(SIZES, st.none() | SIZES)
def test_the_product_of_all_sizes_is_the_number_of_devices(ici, dcn):
    shape = MeshShape(**ici, dcn=None if dcn is None else AxisSizes(**dcn))
    num_devices = math.prod(ici.values()) * math.prod((dcn or {}).values())
    assert shape.resolved(num_devices) == shape
    assert math.prod(shape.total_sizes().values()) == num_devices


@given(SIZES, SIZES, st.sampled_from(MESH_AXES), st.booleans())
def test_one_size_is_inferred_wherever_it_stands(ici, dcn, axis, in_dcn):
    full = MeshShape(**ici, dcn=AxisSizes(**dcn))
    num_devices = math.prod(full.total_sizes().values())
    asked = full.clone()
    (asked.dcn if in_dcn else asked).set(**{axis: -1})
    assert asked.resolved(num_devices) == full
    assert getattr(asked.dcn if in_dcn else asked, axis) == -1  # The argument stays as it was.


@given(SIZES, st.sampled_from(MESH_AXES), st.integers(1, 10_000))
def test_what_does_not_divide_is_refused(ici, axis, num_devices):
    shape = MeshShape(**ici).set(**{axis: -1})
    known = math.prod(size for name, size in ici.items() if name != axis)
    if num_devices % known:
        with pytest.raises(ValueError, match=f"product {known} must divide it"):
            shape.resolved(num_devices)
    else:
        assert getattr(shape.resolved(num_devices), axis) == num_devices // known


def test_too_few_devices_are_refused():
    with pytest.raises(ValueError, match=r"Mesh \(fsdp=16\) does not fit 8 devices; make one"):
        MeshShape(fsdp=16).resolved(8)


def test_more_devices_than_sizes_are_refused():
    with pytest.raises(ValueError, match=r"Mesh \(fsdp=2, model=2\) does not fit 8 devices"):
        MeshShape(fsdp=2, model=2).resolved(8)


@pytest.mark.parametrize("shape", [MeshShape(fsdp=0), MeshShape(dcn=AxisSizes(data=-2))])
def test_sizes_below_one_are_refused(shape):
    with pytest.raises(ValueError, match="at least 1"):
        finalize(shape)


@pytest.mark.parametrize(
    "shape", [MeshShape(data=-1, fsdp=-1), MeshShape(fsdp=-1, dcn=AxisSizes(data=-1))]
)
def test_two_unknown_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="at most one size may be -1"):
        finalize(shape)


def test_dcn_of_dcn_is_refused():
    with pytest.raises(ValueError, match="dcn has no dcn"):
        finalize(MeshShape(dcn=MeshShape(data=2)))


def test_a_shape_reads_as_its_sizes():
    assert str(MeshShape(fsdp=-1, model=8)) == "fsdp=-1, model=8"
    assert str(MeshShape()) == "one device"
    assert str(MeshShape(fsdp=8, dcn=AxisSizes(data=4))) == "fsdp=8; across slices: data=4"
