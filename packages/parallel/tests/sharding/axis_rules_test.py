"""Rules give specs in which each mesh axis is used once and divides its dimension, or say why not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from trellax.config import finalize
from trellax.parallel import (
    ACTIVATION_AXES,
    MESH_AXES,
    PARAMETER_AXES,
    LogicalAxisRules,
    fsdp_rules,
    fsdp_tensor_rules,
    replicated_rules,
)

P = PartitionSpec
SIZES = dict.fromkeys(MESH_AXES, 1)


@st.composite
def arrays(draw):
    """A rule set, axes of an array under it, a shape and mesh sizes."""
    names = ("a", "b", "c", "d")
    targets = st.lists(st.sampled_from(MESH_AXES), max_size=3, unique=True).map(tuple)
    rules = LogicalAxisRules(rules={name: draw(targets) for name in names})
    axes = draw(st.lists(st.sampled_from((*names, None)), min_size=1, max_size=4))
    shape = draw(st.lists(st.integers(1, 64), min_size=len(axes), max_size=len(axes)))
    sizes = {axis: draw(st.sampled_from([1, 2, 3, 4, 8])) for axis in MESH_AXES}
    return rules, axes, shape, sizes


@given(arrays())
def test_each_mesh_axis_is_used_once_and_divides(case):
    rules, axes, shape, sizes = case
    report = rules.explain_spec(axes, shape=shape, axis_sizes=sizes)
    used = [axis for dim_axes in report.mesh_axes for axis in dim_axes]
    assert len(used) == len(set(used))
    for dim, dim_axes in enumerate(report.mesh_axes):
        assert shape[dim] % math.prod(sizes[axis] for axis in dim_axes) == 0


@given(arrays())
def test_every_axis_that_a_rule_asks_for_is_kept_or_reported_or_of_size_one(case):
    rules, axes, shape, sizes = case
    report = rules.explain_spec(axes, shape=shape, axis_sizes=sizes)
    omitted = {(o.dim, o.mesh_axis) for o in report.omitted}
    for dim, name in enumerate(axes):
        for axis in rules.mesh_axes(name):
            kept = axis in report.mesh_axes[dim]
            assert kept + ((dim, axis) in omitted) + (sizes[axis] == 1) == 1


@pytest.mark.parametrize(
    ("axes", "spec"),
    [
        (("embed", "mlp"), P("fsdp", "model")),
        (("layers", "embed", "heads", "head_dim"), P("pipeline", "fsdp", "model", None)),
        (("experts", "embed", "mlp"), P("expert", "fsdp", "model")),
        (("vocab", "embed"), P("model", "fsdp")),
        (("norm",), P(None)),
        (("batch", "length", "act_embed"), P(("data", "expert", "fsdp"), "seq", None)),
        (("batch", "length", "act_heads", "act_head_dim"), P(("data", "expert", "fsdp"), "seq", "model", None)),  # fmt: skip
        (("batch", None), P(("data", "expert", "fsdp"), None)),
    ],
)
def test_fsdp_tensor_rules(axes, spec):
    assert fsdp_tensor_rules().spec(axes) == spec


def test_fsdp_rules_leave_the_model_axis_unused():
    rules = fsdp_rules()
    assert all("model" not in rules.mesh_axes(name) for name in rules.rules)


@pytest.mark.parametrize("rules", [replicated_rules(), fsdp_rules(), fsdp_tensor_rules()])
def test_ready_rules_name_every_logical_axis(rules):
    assert set(finalize(rules).rules) == {*PARAMETER_AXES, *ACTIVATION_AXES}


def test_the_leftmost_dimension_wins_a_collision_and_the_other_is_reported():
    report = fsdp_rules().explain_spec(("batch", "act_experts"))
    assert report.mesh_axes == (("data", "expert", "fsdp"), ())
    (omitted,) = report.omitted
    assert omitted.kind == "collision"
    assert str(omitted) == "dim 1 (act_experts) is not split over expert: batch uses it already"


def test_an_axis_that_does_not_divide_is_reported_with_the_numbers():
    report = fsdp_rules().explain_spec(
        ("batch",), shape=[6], axis_sizes=SIZES | {"data": 2, "fsdp": 4}
    )
    assert report.partition_spec() == P("data")
    assert str(report) == "(data); dim 0 (batch) is not split over fsdp: 6 is no multiple of 8"


def test_axes_of_size_one_are_left_out():
    assert fsdp_tensor_rules().spec(("embed", "mlp"), axis_sizes=SIZES | {"fsdp": 8}) == P(
        "fsdp", None
    )


def test_override_leaves_the_original_as_it_was():
    rules = fsdp_rules()
    assert rules.override(embed=None).spec(("embed",)) == P(None)
    assert rules.spec(("embed",)) == P("fsdp")


def test_unknown_logical_axis_tells_near_names():
    with pytest.raises(ValueError, match="No rule for logical axis 'embd'. Did you mean 'embed'"):
        fsdp_rules().spec(("embd",))


def test_unknown_mesh_axis_tells_near_names_and_where():
    with pytest.raises(ValueError, match=r"rules\['mlp'\]: 'modell' is no mesh axis. Did you mean"):
        finalize(fsdp_rules().override(mlp="modell"))


def test_a_mesh_axis_twice_in_a_rule_is_an_error():
    with pytest.raises(ValueError, match="names an axis twice"):
        finalize(fsdp_rules().override(mlp=("model", "model")))


def test_wrong_number_of_dimensions_is_an_error():
    with pytest.raises(ValueError, match="1 logical axes .* for 2 dimensions"):
        fsdp_rules().spec(("embed",), shape=(2, 2))
