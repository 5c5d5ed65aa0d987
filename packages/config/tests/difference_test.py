"""Differences between trees, and trees as text."""

import math

from hypothesis import given

from tests.config_components import Layer, MoE, Norm, lion, trainer_config
from tests.config_strategies import trainers
from trellax.config import (
    Template,
    config_for_function,
    diff,
    explain,
    format_diff,
    replace_config,
    show,
    to_text,
)


def test_equal_trees_do_not_differ():
    assert diff(trainer_config(), trainer_config()) == []
    nan = trainer_config().set(ratio=math.nan)
    assert diff(nan, nan.clone(ratio=float("nan"))) == []


def test_a_value_of_another_type_differs():
    a, b = trainer_config().set(extra=1), trainer_config().set(extra=True)
    assert [c.path for c in diff(a, b)] == ["extra"]


def test_changes_of_each_kind():
    a = trainer_config().set(weights={"a": 1.0}, name=None)
    b = a.clone(max_steps=7, weights={"a": 1.0, "b": 2.0})
    b.model.layers = [*b.model.layers, Layer.default_config()][1:] + [Layer.default_config()]
    b.optimizer = config_for_function(lion).set(learning_rate=0.5)
    replace_config(b, "model.layers[1].feed_forward", MoE.default_config().set(num_experts=8))
    assert format_diff(diff(a, b)).splitlines() == [
        "~ max_steps                                  100 -> 7",
        "! model.layers[1].feed_forward               FeedForward -> MoE",
        "- model.layers[1].feed_forward.activation    tests.config_components:relu",
        "+ model.layers[1].feed_forward.num_experts   8",
        "+ model.layers[1].feed_forward.router        Router",
        "+ model.layers[2]                            Layer",
        "! optimizer                                  adam -> lion",
        "~ optimizer.learning_rate                    0.001 -> 0.5",
        "- optimizer.betas                            (0.9, 0.999)",
        "+ optimizer.beta                             0.9",
        "~ weights                                    {'a': 1.0} -> {'a': 1.0, 'b': 2.0}",
    ]


def test_long_values_can_be_cut_and_coloured():
    a = trainer_config()
    text = format_diff(diff(a, a.clone(name="x" * 99)), width=20, color=True)
    assert text == "\033[33m~ name   'tiny' -> 'xxxxxxxxxxxxxxxx...\033[0m"


def test_templates_are_compared_inside():
    a = trainer_config().set(extra=Template(Norm.default_config()))
    b = trainer_config().set(extra=Template(Norm.default_config().set(eps=0.5)))
    assert [c.path for c in diff(a, b)] == ["extra.eps"]


@given(trainers(), trainers())
def test_a_diff_is_empty_exactly_for_trees_with_the_same_text(a, b):
    assert (not diff(a, b)) == (to_text(a) == to_text(b))
    assert [c.path for c in diff(a, b) if c.kind == "changed"] == [
        c.path for c in diff(b, a) if c.kind == "changed"
    ]


def test_text_has_a_line_for_each_leaf_and_the_class_of_each_node():
    cfg = Layer.default_config().set(feed_forward=MoE.default_config().set(num_experts=8))
    assert to_text(cfg) == (
        "(root): tests.config_components:Layer\n"
        "input_dim: REQUIRED\n"
        "dtype: 'float32'\n"
        "attention: tests.config_components:Attention\n"
        "attention.input_dim: REQUIRED\n"
        "attention.dtype: 'float32'\n"
        "attention.num_heads: 4\n"
        "attention.dropout: 0.0\n"
        "attention.kind: 'full'\n"
        "feed_forward: tests.config_components:MoE\n"
        "feed_forward.input_dim: REQUIRED\n"
        "feed_forward.dtype: 'float32'\n"
        "feed_forward.num_experts: 8\n"
        "feed_forward.hidden_dim: None\n"
        "feed_forward.dropout: 0.0\n"
        "feed_forward.router: tests.config_components:Router\n"
        "feed_forward.router.input_dim: REQUIRED\n"
        "feed_forward.router.dtype: 'float32'\n"
        "feed_forward.router.top_k: 1\n"
        "norm: tests.config_components:Norm\n"
        "norm.input_dim: REQUIRED\n"
        "norm.dtype: 'float32'\n"
        "norm.eps: 1e-05\n"
    )


def test_text_holds_no_addresses():
    cfg = trainer_config().set(extra=[object(), lambda: 0, print])
    assert to_text(cfg) == to_text(cfg.clone(extra=[object(), cfg.extra[1], print]))
    assert "0x" not in to_text(cfg)


def test_show_marks_what_differs_from_the_default():
    cfg = Layer.default_config().set(input_dim=8)
    cfg.norm.eps = 0.5
    cfg.feed_forward = MoE.default_config()
    assert show(cfg).splitlines() == [
        "Layer",
        "  input_dim: 8  *",
        "  dtype: 'float32'",
        "  attention: Attention",
        "    input_dim: REQUIRED",
        "    dtype: 'float32'",
        "    num_heads: 4",
        "    dropout: 0.0",
        "    kind: 'full'",
        "  feed_forward: MoE  *",
        "    input_dim: REQUIRED",
        "    dtype: 'float32'",
        "    num_experts: REQUIRED",
        "    hidden_dim: None",
        "    dropout: 0.0",
        "    router: Router",
        "      input_dim: REQUIRED",
        "      dtype: 'float32'",
        "      top_k: 1",
        "  norm: Norm",
        "    input_dim: REQUIRED",
        "    dtype: 'float32'",
        "    eps: 0.5  *",
    ]


def test_a_frozen_tree_looks_like_the_one_that_it_was_made_from():
    cfg = trainer_config().set(weights={"a": 1.0})
    assert show(cfg.clone().freeze()) == show(cfg)
    assert diff(cfg.clone().freeze(), cfg) == []


def test_show_can_leave_out_defaults_and_use_colour():
    cfg = Norm.default_config().set(eps=0.5)
    assert show(cfg, changed_only=True) == "Norm\n  eps: 0.5  *"
    assert "\033[31mREQUIRED" in show(cfg, color=True)
    assert "\033[" not in show(cfg)


def test_explain_tells_value_type_default_origin_and_class():
    cfg = trainer_config()
    cfg.model.layers[1].norm.eps = 0.5
    lines = explain(cfg, "model.layers[1].norm.eps").splitlines()
    assert lines[:3] == [
        "model.layers[1].norm.eps = 0.5",
        "  type     float",
        "  default  1e-05",
    ]
    assert "difference_test.py:" in lines[3]
    assert lines[4] == "  in       tests.config_components:Norm: Scales to unit variance."


def test_explain_of_fields_nobody_set_of_nodes_and_of_elements():
    cfg = trainer_config()
    assert "type     int, required\n  default  REQUIRED" in explain(cfg, "model.dim")
    assert "nowhere: it is the class's default" in explain(cfg, "verbose")
    assert "class    tests.config_components:FeedForward: Two proj" in explain(
        cfg, "model.layers[0].feed_forward"
    )
    assert "type     tuple[int, ...], element [1]\n  default  2" in explain(cfg, "sizes[1]")
    assert explain(cfg, "").startswith("(root) = tests.config_components:Trainer\n  class")
