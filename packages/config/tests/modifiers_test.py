"""Modifiers are pure, remember what they changed, and refuse to contradict each other."""

import pytest

from tests.config_components import (
    FeedForward,
    Layer,
    MoE,
    Norm,
    Router,
    trainer_config,
)
from trellax.config import (
    REQUIRED,
    ChainModifier,
    ConfigConflictError,
    ConfigError,
    ConfigModifier,
    NoMatchError,
    ReplaceModifier,
    Required,
    SetModifier,
    Template,
    diff,
    explain,
    finalize,
    modifier_for_function,
)

MOE = MoE.default_config().set(num_experts=4)


class HalveDropout(ConfigModifier):
    """Halves one layer's dropout."""

    class Config(ConfigModifier.Config):
        """Which layer."""

        layer: Required[int] = REQUIRED

    def apply(self, cfg):
        cfg.model.layers[self.cfg.layer].feed_forward.dropout /= 2


def set_steps(cfg, *, steps):
    cfg.max_steps = steps


def _set(values):
    return SetModifier.default_config().set(values=values)


def _replace(target, new_cfg=MOE):
    return ReplaceModifier.default_config().set(target=target, new_cfg=new_cfg)


def _chain(*modifiers):
    return ChainModifier.default_config().set(modifiers=list(modifiers)).instantiate()


def test_a_modifier_leaves_its_input_untouched():
    cfg = trainer_config()
    cfg.model.layers[1].feed_forward.dropout = 0.5
    before = cfg.clone()
    changed = HalveDropout.default_config().set(layer=1).instantiate()(cfg)
    assert changed.model.layers[1].feed_forward.dropout == 0.25
    assert cfg == before


def test_a_modifier_takes_a_final_tree_and_gives_one_that_can_change():
    changed = _set({"max_steps": 3}).instantiate()(finalize(trainer_config()))
    assert not changed.is_frozen
    assert changed.max_steps == 3


def test_set_modifier_takes_globs():
    changed = _set({"model.**.dropout": 0.1, "name": "x"}).instantiate()(trainer_config())
    layer = changed.model.layers[1]
    assert (layer.attention.dropout, layer.feed_forward.dropout) == (0.1, 0.1)
    assert changed.name == "x"


def test_set_modifier_takes_configs_as_templates():
    modifier = _set({"**.feed_forward": Template(MOE)}).instantiate()
    assert isinstance(modifier(trainer_config()).model.layers[0].feed_forward, MoE.Config)


@pytest.mark.parametrize("values", [{"**.dropuot": 0.1}, {"max_stps": 1}, {"max_steps": "x"}])
def test_a_failing_modifier_changes_nothing(values):
    cfg = trainer_config()
    before = cfg.clone()
    with pytest.raises(ConfigError):
        _set({"ratio": 0.75, **values}).instantiate()(cfg)
    assert cfg == before


def test_replace_modifier_carries_an_incomplete_config():
    changed = _replace(FeedForward).instantiate()(trainer_config())
    assert finalize(changed).model.layers[0].feed_forward.router.input_dim == 8
    with pytest.raises(NoMatchError):
        _replace(Router).instantiate()(trainer_config())


def test_modifiers_ride_in_the_tree_that_they_change():
    cfg = trainer_config().set(modifiers=[_replace(FeedForward)])
    final = finalize(cfg)  # The template's unset fields are nobody's business here.
    changed = final.modifiers[0].instantiate()(cfg)
    assert changed.modifiers == cfg.modifiers
    assert isinstance(changed.model.layers[0].feed_forward, MoE.Config)


def test_a_plain_function_is_a_modifier_too():
    modifier = modifier_for_function(set_steps, steps=7).instantiate()
    assert modifier(trainer_config()).max_steps == 7


def test_changed_fields_remember_their_modifier():
    changed = _set({"max_steps": 3}).instantiate()(trainer_config())
    assert "by SetModifier(values={'max_steps': 3})" in explain(changed, "max_steps")
    assert "by SetModifier" not in explain(changed, "name")


def test_a_chain_applies_in_order():
    cfg = trainer_config()
    chain = _chain(_set({"max_steps": 3}), _replace(FeedForward), _set({"model.**.eps": 0.5}))
    assert [c.path for c in diff(cfg, chain(cfg)) if c.kind != "added"] == [
        "max_steps",
        "model.layers[0].feed_forward",
        "model.layers[0].feed_forward.activation",
        "model.layers[0].norm.eps",
        "model.layers[1].feed_forward",
        "model.layers[1].feed_forward.activation",
        "model.layers[1].norm.eps",
    ]


def test_a_chain_of_functions_and_chains():
    inner = ChainModifier.default_config().set(modifiers=[_set({"ratio": 0.1})])
    chain = _chain(inner, modifier_for_function(set_steps, steps=2))
    changed = chain(trainer_config())
    assert (changed.ratio, changed.max_steps) == (0.1, 2)


def test_two_modifiers_of_one_field_conflict():
    with pytest.raises(ConfigConflictError) as e:
        _chain(_set({"max_steps": 3}), _set({"max_steps": 4}))(trainer_config())
    assert str(e.value) == (
        "max_steps: modifier 0, SetModifier(values={'max_steps': 3}), makes it 3 but "
        "modifier 1, SetModifier(values={'max_steps': 4}), makes it 4. "
        "Drop one of them, or merge them into one modifier."
    )


@pytest.mark.parametrize("replace_first", [True, False])
def test_a_change_inside_what_another_replaced_conflicts(replace_first):
    modifiers = [_replace(FeedForward), _set({"model.**.dropout": 0.1})]
    with pytest.raises(ConfigConflictError) as e:
        _chain(*(modifiers if replace_first else modifiers[::-1]))(trainer_config())
    assert str(e.value).startswith("model.layers[0].feed_forward.dropout: modifier ")
    assert "ReplaceModifier(target=tests.config_components:FeedForward" in str(e.value)
    assert "SetModifier(values={'model.**.dropout': 0.1})" in str(e.value)


def test_two_replacements_of_one_node_conflict():
    with pytest.raises(
        ConfigConflictError, match=r"model.layers\[0\].norm: modifier 0, .* modifier 1"
    ):
        _chain(_replace(Norm), _replace("model.layers[*].norm", Layer.default_config()))(
            trainer_config()
        )


def test_two_nodes_put_where_there_was_none_conflict():
    first = _set({"extra": Template(Norm.default_config().set(eps=1e-3))})
    second = _set({"extra": Template(Norm.default_config().set(eps=1e-4))})
    with pytest.raises(ConfigConflictError, match="extra.eps: modifier 1.*modifier 0"):
        _chain(first, second)(trainer_config())


def test_a_modifier_without_apply_says_so():
    class Empty(ConfigModifier):
        pass

    with pytest.raises(NotImplementedError, match="Empty does not override apply"):
        Empty.default_config().instantiate()(trainer_config())
