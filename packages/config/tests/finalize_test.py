"""Derivation, checks, and the report of what is missing."""

import pytest

from tests.config_components import (
    Attention,
    Decoder,
    FeedForward,
    Layer,
    MoE,
    Norm,
    Trainer,
    trainer_config,
)
from trellax.config import (
    REQUIRED,
    ConfigConflictError,
    ConfigError,
    Configurable,
    MissingRequiredError,
    Required,
    UnknownFieldError,
    finalize,
    is_final,
)


def test_parents_provide_what_children_lack():
    final = finalize(trainer_config())
    layer = final.model.layers[1]
    assert layer.input_dim == layer.norm.input_dim == layer.attention.input_dim == 8
    assert layer.feed_forward.hidden_dim == 32
    assert "provided by Layer.Config" in str(layer.norm.origin("input_dim"))


def test_finalize_leaves_its_input_alone():
    cfg = trainer_config()
    before = cfg.clone()
    finalize(cfg)
    assert cfg == before
    assert not cfg.is_frozen


def test_only_finalize_makes_a_tree_final():
    cfg = trainer_config()
    assert not is_final(cfg)
    assert not is_final(cfg.clone().freeze())
    final = finalize(cfg)
    assert is_final(final)
    assert is_final(final.model.layers[0].norm)
    assert finalize(final.model) is final.model
    assert not is_final(final.clone())


def test_finalize_is_idempotent():
    final = finalize(trainer_config())
    assert finalize(final.clone()) == final


def test_only_the_causes_of_missing_fields_are_listed_all_at_once():
    cfg = Trainer.default_config()
    cfg.model.layers[1].feed_forward = MoE.default_config()
    with pytest.raises(MissingRequiredError) as e:
        finalize(cfg)
    assert str(e.value) == (
        "3 required fields are not set:\n"
        "  model.dim: int\n"
        "  model.layers[1].feed_forward.num_experts: int\n"
        "  optimizer.learning_rate: float | InstantiableConfig"
    )


def test_a_field_that_no_parent_provides_is_listed():
    cfg = trainer_config().set(extra=[Norm.default_config()])
    with pytest.raises(
        MissingRequiredError, match=r"1 required field is .*\n  extra\[0\].input_dim"
    ):
        finalize(cfg)


def test_missing_fields_behind_a_computation_are_traced_to_their_cause():
    with pytest.raises(MissingRequiredError) as e:
        finalize(FeedForward.default_config())  # hidden_dim = input_dim * 4
    assert str(e.value) == "1 required field is not set:\n  input_dim: int"


def test_a_required_field_that_is_derived_from_another_is_not_listed():
    class Split(Configurable):
        class Config(Configurable.Config):
            width: Required[int] = REQUIRED
            half: Required[int] = REQUIRED

            def derive(self):
                if self.half is REQUIRED:
                    self.set(half=int(self.width / 2))

    assert finalize(Split.default_config().set(width=8)).half == 4
    with pytest.raises(MissingRequiredError) as e:
        finalize(Split.default_config())
    assert str(e.value) == "1 required field is not set:\n  width: int"


def test_a_child_set_otherwise_conflicts_with_its_parent():
    cfg = trainer_config()
    cfg.model.layers[1].norm.input_dim = 5
    with pytest.raises(ConfigConflictError) as e:
        finalize(cfg)
    message = str(e.value)
    assert message.startswith(
        "model.layers[1].norm.input_dim: set to 5 but its parent model.layers[1] provides 8. "
        "Leave it unset, or change the parent. Last set at "
    )
    assert "finalize_test.py" in message


def test_a_child_set_to_what_its_parent_provides_is_fine():
    cfg = trainer_config()
    cfg.model.layers[1].norm.input_dim = 8
    assert finalize(cfg).model.layers[1].norm.input_dim == 8


def test_a_child_that_lacks_the_field_does_not_fit():
    class Odd(Configurable):
        class Config(Configurable.Config):
            inner: Configurable.Config = Decoder.default_config()

            def derive(self):
                self.provide(self.inner, width=3)

    with pytest.raises(UnknownFieldError, match="inner: .* gives this child its 'width'"):
        finalize(Odd.default_config())


def test_checks_name_the_node():
    cfg = trainer_config()
    cfg.model.layers[0].attention.num_heads = 3
    with pytest.raises(ConfigError) as e:
        finalize(cfg)
    assert str(e.value) == (
        "model.layers[0].attention: input_dim 8 is no multiple of num_heads 3. "
        "(in Attention.Config.check)"
    )


def test_lists_changed_in_place_are_checked_again():
    cfg = trainer_config()
    cfg.model.layers.append(Layer.default_config())
    assert finalize(cfg).model.layers[2].norm.input_dim == 8
    cfg.model.layers.append("layer")
    with pytest.raises(
        ConfigError, match=r"model.layers\[3\]: expected BaseLayer.Config, got 'layer'"
    ):
        finalize(cfg)


def test_instantiate_finalizes_once():
    class Counted(Configurable):
        class Config(Configurable.Config):
            child: Attention.Config = Attention.default_config()

            def derive(self):
                calls.append(1)
                self.provide(self.child, input_dim=4)

        def __init__(self, cfg):
            super().__init__(cfg)
            self.child = cfg.child.instantiate()

    calls = []
    assert Counted.default_config().instantiate().child.cfg.input_dim == 4
    assert calls == [1]
