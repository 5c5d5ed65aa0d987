"""Each modifier changes what it says, in a copy, and says what is wrong when it cannot."""

import pytest

from tests.mesh_rules.small_trainer import Trainer
from trellax.config import ChainModifier, Configurable, diff, finalize
from trellax.parallel import (
    AccumulationModifier,
    AxisRulesModifier,
    DTypeModifier,
    MeshShape,
    MeshShapeModifier,
    RematModifier,
    dots_saveable,
    save_names,
)


def changes(modifier_cfg, cfg):
    """Returns {path: new value} of what the modifier changes; checks that `cfg` stays as it is."""
    before = cfg.clone()
    changed = finalize(modifier_cfg).instantiate()(cfg)
    assert cfg == before
    finalize(changed)
    return {change.path: change.new for change in diff(cfg, changed)}


@pytest.fixture
def trainer_cfg():
    return Trainer.default_config()


@pytest.mark.parametrize(
    ("modifier", "expected"),
    [
        (
            MeshShapeModifier.Config(mesh_shape=MeshShape(fsdp=16, model=8)),
            {"mesh_shape.fsdp": 16, "mesh_shape.model": 8},
        ),
        (AccumulationModifier.Config(steps=4), {"accumulation_steps": 4}),
        (DTypeModifier.Config(compute_dtype="bfloat16"), {"compute_dtype": "bfloat16"}),
    ],
)
def test_a_modifier_changes_exactly_its_fields(modifier, expected, trainer_cfg):
    assert changes(modifier, trainer_cfg) == expected


def test_axis_rules_are_merged_into_the_experiments(trainer_cfg):
    new = {"vocab": None, "act_embed": ("model",), "codes": "model"}
    modified = AxisRulesModifier.Config(rules=new).instantiate()(trainer_cfg)
    assert modified.axis_rules.rules == {**trainer_cfg.axis_rules.rules, **new}
    assert diff(trainer_cfg.set(axis_rules=modified.axis_rules), modified) == []


@pytest.mark.parametrize(
    ("target", "places"),
    [
        ("Block", ["model.blocks[0]", "model.blocks[1]"]),
        ("WideBlock", ["model.blocks[1]"]),
        ("Attention", ["model.blocks[0].attention", "model.blocks[1].attention"]),
        ("model.blocks[0]", ["model.blocks[0]"]),
        ("model.**.attention", ["model.blocks[0].attention", "model.blocks[1].attention"]),
    ],
)
def test_remat_reaches_layers_by_class_or_path(target, places, trainer_cfg):
    policy = save_names("q_proj")
    found = changes(RematModifier.Config(target=target, policy=policy), trainer_cfg)
    assert found == {f"{place}.remat": policy for place in places}


def test_remat_can_be_switched_off(trainer_cfg):
    trainer_cfg.model.blocks[0].remat = dots_saveable()
    found = changes(RematModifier.Config(target="Block", policy=None), trainer_cfg)
    assert found == {"model.blocks[0].remat": None}


@pytest.mark.parametrize("target", ["Blok", "model.block", "model"])
def test_remat_of_nothing_is_an_error_that_lists_the_layers(target, trainer_cfg):
    modifier = RematModifier.Config(target=target, policy=None).instantiate()
    with pytest.raises(ValueError, match=f"'{target}'.*Such layers: Attention, Block, WideBlock"):
        modifier(trainer_cfg)


@pytest.mark.parametrize(
    "modifier",
    [AccumulationModifier.Config(steps=2), MeshShapeModifier.Config(mesh_shape=MeshShape(data=2))],
)
def test_a_root_without_the_field_is_an_error(modifier):
    with pytest.raises(ValueError, match="has no field"):
        modifier.instantiate()(Configurable.default_config())


def test_less_than_one_microbatch_is_refused():
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        finalize(AccumulationModifier.Config(steps=0))


def test_two_modifiers_of_one_layer_are_refused(trainer_cfg):
    chain = ChainModifier.Config(
        modifiers=[
            RematModifier.Config(target="Block", policy=save_names("a")),
            RematModifier.Config(target="WideBlock", policy=None),
        ]
    )
    with pytest.raises(
        ValueError, match=r"model\.blocks\[1\]\.remat.*RematModifier.*RematModifier"
    ):
        chain.instantiate()(trainer_cfg)
