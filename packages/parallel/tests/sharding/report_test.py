"""The report of a tree on a mesh: what JAX's own shardings say, and the bytes of a device's part."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import pytest
from jax.sharding import AxisType

from trellax.parallel import (
    MESH_AXES,
    LogicalArray,
    LogicalAxisRules,
    fsdp_tensor_rules,
    sharding_report,
    shardings_for,
)

SIZES = dict.fromkeys(MESH_AXES, 1) | {"fsdp": 4, "model": 2}


@dataclasses.dataclass(frozen=True)
class Parameter:
    shape: tuple[int, ...]
    logical_axes: tuple[str | None, ...]
    dtype: str = "float32"


SPECS = {
    "up": {"weight": Parameter((8, 6), ("embed", "mlp"))},
    "norm": Parameter((8,), ("norm",)),
    "odd": Parameter((6, 4), ("embed", "mlp"), "bfloat16"),
}


def report_of(specs: Any, sizes: dict[str, int] = SIZES) -> Any:
    return sharding_report(specs, rules=fsdp_tensor_rules(), axis_sizes=sizes)


def test_it_says_what_the_shardings_on_such_a_mesh_are() -> None:
    types = (AxisType.Auto,) * len(MESH_AXES)
    mesh = jax.make_mesh(tuple(SIZES[a] for a in MESH_AXES), MESH_AXES, axis_types=types)
    shardings = shardings_for(SPECS, mesh, fsdp_tensor_rules())
    leaves = jax.tree_util.tree_leaves_with_path(shardings)
    expected = {jax.tree_util.keystr(k, simple=True, separator="."): s for k, s in leaves}
    arrays = report_of(SPECS).arrays
    assert {array.path for array in arrays} == set(expected)
    for array in arrays:
        sharding = expected[array.path]
        assert array.spec.partition_spec() == sharding.spec
        part = math.prod(sharding.shard_shape(array.shape))
        assert array.bytes_per_device == part * (2 if array.dtype == "bfloat16" else 4)


def test_the_text_has_a_line_an_array_and_says_what_is_left_out() -> None:
    assert str(report_of(SPECS)).splitlines() == [
        "norm: float32[8] (-) 32 B",
        "odd: bfloat16[6, 4] (-, model); dim 0 (embed) is not split over fsdp: 6 is no multiple of 4 24 B",
        "up.weight: float32[8, 6] (fsdp, model) 24 B",
        "total: 80 elements, 80 B per device",
    ]


def test_as_data_it_has_the_same_in_json_types() -> None:
    values = report_of(SPECS).to_dict()
    assert (values["size"], values["bytes_per_device"]) == (80, 80)
    assert values["arrays"][1] == {
        "path": "odd",
        "shape": [6, 4],
        "dtype": "bfloat16",
        "logical_axes": ["embed", "mlp"],
        "mesh_axes": [[], ["model"]],
        "left_out": ["dim 0 (embed) is not split over fsdp: 6 is no multiple of 4"],
        "bytes_per_device": 24,
    }


@pytest.mark.parametrize(("dtype", "size"), [("float8_e4m3fn", 8), ("int4", 4), ("bool8", 8)])
def test_bytes_follow_the_width_of_the_type(dtype: str, size: int) -> None:
    report = report_of({"x": LogicalArray((8, 8), ("batch", None), dtype)})
    assert report.bytes_per_device == 64 * size // 8 // 4


def test_colliding_axes_of_a_parameter_are_an_error_and_of_an_activation_a_note() -> None:
    axes = ("mlp", "heads")
    with pytest.raises(ValueError, match=r"x\.w: axes .* collide"):
        report_of({"x": {"w": Parameter((8, 8), axes)}})
    (array,) = report_of({"x": LogicalArray((8, 8), axes, "float32")}).arrays
    assert [str(left_out) for left_out in array.spec.omitted] == [
        "dim 1 (heads) is not split over model: mlp uses it already"
    ]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (LogicalArray((8,), ("hidden",), "float32"), r"x: No rule for logical axis 'hidden'"),
        (LogicalArray((8, 8), ("embed",), "float32"), r"x: 1 logical axes .* for 2 dimensions"),
        (LogicalArray((8,), ("embed",), "float"), r"x: 'float' does not tell its width"),
    ],
)
def test_what_cannot_be_placed_is_named(array: LogicalArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding_report({"x": array}, rules=LogicalAxisRules(), axis_sizes=SIZES)
