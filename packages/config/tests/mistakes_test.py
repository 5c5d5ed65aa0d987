"""Each kind of mistake that people make with configs, and the one message that each gives."""

import re

import pytest

from tests.config_components import FeedForward, MoE, trainer_config
from trellax.config import (
    ChainModifier,
    ConfigConflictError,
    FieldTypeError,
    MissingRequiredError,
    OverrideError,
    ReplaceModifier,
    SetModifier,
    UnknownFieldError,
    apply_overrides,
)


def _unknown_field():
    trainer_config().model.layers[0].attention.set(num_head=8)


def _unknown_field_read():
    trainer_config().model.layers[0].attention.heads  # noqa: B018


def _wrong_type_deep_in_a_list():
    trainer_config().set(rules=[("a", 1), ("b", None), ("c", "3")])


def _wrong_type_deep_in_a_tree():
    trainer_config().model.layers[1].set(norm=FeedForward)


def _missing_required():
    cfg = trainer_config()
    cfg.model.layers[1].feed_forward = MoE.default_config()
    cfg.instantiate()


def _bad_override():
    apply_overrides(trainer_config(), ["model.layers[0].attention.num_heads=many"])


def _two_modifiers_on_one_node():
    modifiers = [
        ReplaceModifier.default_config().set(
            target="model.layers[0].feed_forward", new_cfg=MoE.default_config()
        ),
        SetModifier.default_config().set(values={"model.layers[0].feed_forward.dropout": 0.5}),
    ]
    ChainModifier.default_config().set(modifiers=modifiers).instantiate()(trainer_config())


MISTAKES = [
    (
        _unknown_field,
        UnknownFieldError,
        "model.layers[0].attention.num_head: Attention.Config has no field 'num_head'. "
        "Did you mean 'num_heads'? Its fields: input_dim, dtype, num_heads, dropout, kind.",
    ),
    (
        _unknown_field_read,
        UnknownFieldError,
        "model.layers[0].attention.heads: Attention.Config has no field 'heads'. "
        "Did you mean 'num_heads'? Its fields: input_dim, dtype, num_heads, dropout, kind.",
    ),
    (
        _wrong_type_deep_in_a_list,
        FieldTypeError,
        "Trainer.Config.rules[2][1]: expected int | None, got '3' (str).",
    ),
    (
        _wrong_type_deep_in_a_tree,
        FieldTypeError,
        "model.layers[1].norm: expected BaseLayer.Config, got the class FeedForward. "
        "Write FeedForward.default_config() for its config.",
    ),
    (
        _missing_required,
        MissingRequiredError,
        "1 required field is not set:\n  model.layers[1].feed_forward.num_experts: int",
    ),
    (
        _bad_override,
        OverrideError,
        "model.layers[0].attention.num_heads=many: expected int, got 'many'.",
    ),
    (
        _two_modifiers_on_one_node,
        ConfigConflictError,
        "model.layers[0].feed_forward.dropout: modifier 1, SetModifier("
        "values={'model.layers[0].feed_forward.dropout': 0.5}), changes it but modifier 0, "
        "ReplaceModifier(target='model.layers[0].feed_forward', "
        "new_cfg=template of tests.config_components:MoE), "
        "replaces model.layers[0].feed_forward as a whole. Put the change into the replacement.",
    ),
]


@pytest.mark.parametrize(("mistake", "kind", "message"), MISTAKES)
def test_a_mistake_gives_its_one_clear_error(mistake, kind, message):
    with pytest.raises(kind) as e:
        mistake()
    assert str(e.value) == message


def test_errors_tell_where_the_value_was_last_set():
    cfg = trainer_config().set(ratio=0.25)
    with pytest.raises(FieldTypeError) as e:
        cfg.ratio = "half"
    assert re.fullmatch(
        r"Trainer.Config.ratio: expected float, got 'half' \(str\)\. "
        r"Last set at .*mistakes_test\.py:\d+\.",
        str(e.value),
    )
