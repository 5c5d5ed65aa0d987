"""Trees of parameters get shardings; a plan that asks for the impossible is refused with the path."""

import dataclasses

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from trellax.parallel import (
    MeshShape,
    build_mesh,
    explain_shardings,
    fsdp_tensor_rules,
    named_sharding,
    shardings_for,
)

P = PartitionSpec
RULES = fsdp_tensor_rules()


@dataclasses.dataclass(frozen=True)
class Spec:
    shape: tuple[int, ...]
    logical_axes: tuple[str | None, ...]


@pytest.fixture(scope="module")
def mesh():
    return build_mesh(MeshShape(fsdp=4, model=2))


def test_each_leaf_gets_the_sharding_of_its_axes(mesh):
    specs = {"up": Spec((8, 6), ("embed", "mlp")), "norms": [Spec((8,), ("norm",))]}
    assert shardings_for(specs, mesh, RULES) == {
        "up": NamedSharding(mesh, P("fsdp", "model")),
        "norms": [NamedSharding(mesh, P(None))],
    }


def test_an_empty_tree_stays_empty(mesh):
    assert shardings_for({}, mesh, RULES) == {}


def test_a_named_sharding_without_a_shape_takes_dimensions_to_divide(mesh):
    assert named_sharding(mesh, RULES, ("embed",)).spec == P("fsdp")
    assert named_sharding(mesh, RULES, ("embed",), (6,)).spec == P(None)


def test_a_collision_is_an_error_that_names_the_parameter(mesh):
    specs = {"mixer": {"square": Spec((8, 8), ("embed", "embed"))}}
    with pytest.raises(
        ValueError, match=r"^mixer\.square: axes \('embed', 'embed'\) collide: dim 1"
    ):
        shardings_for(specs, mesh, RULES)


def test_a_collision_is_an_error_on_one_device_too():
    mesh = build_mesh(MeshShape(), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="collide"):
        shardings_for({"w": Spec((8, 8), ("embed", "embed"))}, mesh, RULES)


def test_an_unknown_axis_is_an_error_that_names_the_parameter(mesh):
    with pytest.raises(ValueError, match="^w: No rule for logical axis 'head'. Did you mean"):
        shardings_for({"w": Spec((8,), ("head",))}, mesh, RULES)


def test_what_cannot_be_split_is_explained_by_path(mesh):
    specs = {"a": {"w": Spec((6, 8), ("embed", "mlp"))}}
    assert explain_shardings(specs, mesh, RULES) == {
        "a.w": "(-, model); dim 0 (embed) is not split over fsdp: 6 is no multiple of 4"
    }


def test_a_leaf_that_is_no_spec_is_an_error_that_names_it(mesh):
    with pytest.raises(ValueError, match=r"^a: a float has no shape and logical_axes"):
        shardings_for({"a": 1.0}, mesh, RULES)
