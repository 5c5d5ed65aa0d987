"""Hypothesis strategies of config trees.

Usage: `@given(trainers())` over `def test_round_trip(cfg)`.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.config_components import (
    Attention,
    FeedForward,
    Layer,
    MoE,
    Norm,
    Precision,
    Schedule,
    Shape,
    adam,
    gelu,
    lion,
    relu,
    trainer_config,
)
from trellax.config import (
    REQUIRED,
    Config,
    ReplaceModifier,
    SetModifier,
    Template,
    config_for_class,
    config_for_function,
)

_ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([REQUIRED, Precision.EXACT, relu, Norm, int, Shape(1, 2)])
)
_KEYS = st.text() | st.integers() | st.booleans() | st.sampled_from(list(Precision))
anything = st.recursive(
    _ATOMS,
    lambda s: st.lists(s, max_size=3)
    | st.lists(s, max_size=3).map(tuple)
    | st.dictionaries(_KEYS, s, max_size=3),
    max_leaves=8,
)


def _configs(cls: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Config]:
    some = st.fixed_dictionaries({}, optional=fields)
    return some.map(lambda values: cls.default_config().set(**values))


norms = _configs(Norm, eps=st.floats(0, 1), dtype=st.sampled_from(["float32", "bfloat16"]))
attentions = _configs(Attention, num_heads=st.integers(), kind=st.sampled_from(["full", "sliding"]))
feed_forwards = _configs(FeedForward, hidden_dim=st.integers(), activation=st.just(gelu))
mixtures = _configs(MoE, num_experts=st.integers(), router=norms)
layers = _configs(
    Layer, attention=attentions | norms, feed_forward=feed_forwards | mixtures, norm=norms
)
optimizers = st.one_of(
    st.floats(0, 1).map(lambda x: config_for_function(lion).set(learning_rate=x)),
    st.just(config_for_function(adam).set(learning_rate=config_for_class(Schedule).set(peak=0.1))),
)
modifiers = st.one_of(
    mixtures.map(lambda c: ReplaceModifier.default_config().set(target=FeedForward, new_cfg=c)),
    anything.map(lambda v: SetModifier.default_config().set(values={"extra": v})),
)


@st.composite
def trainers(draw: Any) -> Any:
    """Draws a trainer config: some fields at their default, others of each kind of value."""
    cfg = trainer_config()
    optional = {
        "max_steps": st.integers(),
        "name": st.none() | st.text(),
        "precision": st.sampled_from(Precision),
        "mesh": st.builds(Shape, st.integers(), st.integers()),
        "sizes": st.lists(st.integers(), max_size=3),
        "window": st.none() | st.tuples(st.integers(), st.integers()),
        "weights": st.dictionaries(st.text(), st.floats(allow_nan=False), max_size=2),
        "rules": st.lists(st.tuples(st.text(), st.none() | st.integers()), max_size=2),
        "optimizer": optimizers,
        "modifiers": st.lists(modifiers, max_size=2),
        "extra": anything | norms | norms.map(Template),
        "ratio": st.floats(allow_nan=False),
    }
    cfg.set(**draw(st.fixed_dictionaries({}, optional=optional)))
    if draw(st.booleans()):
        cfg.model.layers = draw(st.lists(layers | norms, max_size=3))
    if draw(st.booleans()):
        cfg.model.by_name = draw(st.dictionaries(st.text(), layers, max_size=2))
    return cfg
