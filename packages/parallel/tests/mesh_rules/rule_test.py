"""The first rule that matches the hardware's name applies, and says what it changed."""

import pytest

from tests.mesh_rules.small_trainer import Trainer
from trellax.config import finalize, format_diff
from trellax.parallel import (
    AccumulationModifier,
    AxisSizes,
    MeshRule,
    MeshShape,
    MeshShapeModifier,
    RematModifier,
    apply_mesh_rule,
    build_mesh,
    fsdp_rules,
    offload_names,
    select_mesh_rule,
)

RULES = (
    MeshRule(pattern="cpu", description="rehearsal"),
    MeshRule(
        pattern=r"tpu-v5e-256(-\d+)?",
        mesh_shape=MeshShape(data=-1, fsdp=256),
        modifiers=(
            RematModifier.Config(target="Block", policy=offload_names("block_input")),
            AccumulationModifier.Config(steps=4),
        ),
    ),
    MeshRule(pattern="tpu-.*", mesh_shape=MeshShape(fsdp=-1), axis_rules=fsdp_rules()),
    MeshRule(pattern=r"gpu-(h100|h200)-\d+", mesh_shape=MeshShape(model=8, dcn=AxisSizes(fsdp=-1))),
)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("cpu", 0),
        ("tpu-v5e-256", 1),
        ("tpu-v5e-256-4", 1),
        ("tpu-v5e-16", 2),
        ("tpu-v5p-512", 2),
        ("gpu-h200-16", 3),
    ],
)
def test_the_first_full_match_applies(name, index):
    assert select_mesh_rule(RULES, name) is RULES[index]


def test_no_match_lists_the_patterns():
    with pytest.raises(LookupError) as e:
        select_mesh_rule(RULES, "trn2-64")
    assert "'trn2-64'" in str(e.value)
    assert all(f"\n  {rule.pattern}" in str(e.value) for rule in RULES)


def test_no_rules_at_all_say_so():
    with pytest.raises(LookupError, match="Patterns: none"):
        select_mesh_rule((), "cpu")


def test_a_rule_changes_a_copy_and_lists_every_change():
    cfg = Trainer.default_config()
    changed, changes = apply_mesh_rule(cfg, select_mesh_rule(RULES, "tpu-v5e-256-4"))
    assert cfg == Trainer.default_config()
    assert {change.path for change in changes} == {
        "mesh_shape.data",
        "mesh_shape.fsdp",
        "model.blocks[0].remat",
        "model.blocks[1].remat",
        "accumulation_steps",
    }
    assert (changed.mesh_shape, changed.accumulation_steps) == (MeshShape(data=-1, fsdp=256), 4)
    assert "accumulation_steps" in format_diff(changes)


def test_axis_rules_of_a_rule_replace_the_experiments():
    changed, _ = apply_mesh_rule(Trainer.default_config(), RULES[2])
    assert changed.axis_rules == fsdp_rules()


def test_a_rule_without_settings_changes_nothing():
    changed, changes = apply_mesh_rule(Trainer.default_config(), RULES[0])
    assert changed == Trainer.default_config() and changes == []


def test_a_rule_that_is_contradicted_by_its_own_modifier_is_refused():
    rule = MeshRule(
        pattern=".*",
        mesh_shape=MeshShape(fsdp=4),
        modifiers=(MeshShapeModifier.Config(mesh_shape=MeshShape(fsdp=8)),),
    )
    with pytest.raises(ValueError, match=r"mesh_shape\.fsdp"):
        apply_mesh_rule(Trainer.default_config(), rule)


def test_rules_ride_in_the_config_and_the_result_is_final_and_builds_a_mesh():
    cfg = Trainer.default_config().set(
        mesh_rules=(MeshRule(pattern="cpu", mesh_shape=MeshShape(fsdp=-1, model=2)), *RULES)
    )
    changed, _ = apply_mesh_rule(cfg, select_mesh_rule(cfg.mesh_rules, "cpu"))
    final = finalize(changed)
    assert final.mesh_rules == cfg.mesh_rules
    assert dict(build_mesh(final.mesh_shape).shape)["fsdp"] == 4


def test_a_pattern_that_is_no_regular_expression_is_refused():
    rule = MeshRule(pattern="tpu-(v5p")
    with pytest.raises(ValueError, match="is no regular expression"):
        finalize(rule)
    with pytest.raises(ValueError, match="is no regular expression"):
        select_mesh_rule([rule], "cpu")
