"""`path=value` texts: typed, all or none, every mistake in one report."""

import collections.abc
from typing import Any, Literal

import pytest

from tests.config_components import (
    BaseLayer,
    MoE,
    Norm,
    Precision,
    Schedule,
    adam,
    gelu,
    lion,
    trainer_config,
)
from trellax.config import (
    DType,
    OverrideError,
    Required,
    Template,
    apply_overrides,
    config_for_class,
    explain,
)
from trellax.config.parsing import BadText, parse_value

HERE = "tests.config_components"

READ = [
    ("64", int, 64),
    (" 1_000 ", Required[int], 1000),
    ("4e6", int, 4_000_000),
    ("-3", int, -3),
    ("0.1", float, 0.1),
    ("3", float, 3.0),
    ("inf", float, float("inf")),
    ("TRUE", bool, True),
    ("false", bool, False),
    ("none", int | None, None),
    ("7", int | None, 7),
    ("none", str | None, None),
    ("'none'", str | None, "none"),
    ("a,b=c", str, "a,b=c"),
    ('"a b"', str, "a b"),
    ("", str, ""),
    ("7", str | int, 7),
    ("1,2", tuple[int, ...], (1, 2)),
    ("(1, 2,)", tuple[int, int], (1, 2)),
    ("[]", list[int], []),
    ("5", list[int], [5]),
    ("[[1,2],[3]]", list[list[int]], [[1, 2], [3]]),
    ("[a, 'b, c']", list[str], ["a", "b, c"]),
    ("(x,1),(y,none)", list[tuple[str, int | None]], [("x", 1), ("y", None)]),
    ('{"a": [1, 2]}', dict[str, list[int]], {"a": [1, 2]}),
    ("{1: 'x'}", dict[int, str], {1: "x"}),
    ("EXACT", Precision, Precision.EXACT),
    ("Precision.fast", Precision, Precision.FAST),
    ("full", Literal["full", 3], "full"),
    ("3", Literal["full", 3], 3),
    ("bfloat16", DType, "bfloat16"),
    (f"{HERE}:gelu", collections.abc.Callable, gelu),
    (f"{HERE}:Norm", type[BaseLayer], Norm),
    (f"{HERE}:Norm", BaseLayer.Config, Norm.default_config()),
    (f"{HERE}:Norm.Config", BaseLayer.Config | None, Norm.default_config()),
    (f"{HERE}:Norm", Template, Norm.default_config()),
    ("1", Any, 1),
    ("true", Any, True),
    ('{"a": null}', Any, {"a": None}),
    ("plain text", Any, "plain text"),
]


@pytest.mark.parametrize(("text", "annotation", "value"), READ)
def test_text_is_read_by_the_annotation(text, annotation, value):
    result = parse_value(text, annotation)
    assert result == value
    assert type(result) is type(value)


REFUSED = [
    ("x", int, "expected int, got 'x'."),
    ("1.5", int, "expected int, got '1.5'."),
    ("x", float | None, "expected float, got 'x'."),
    ("yes", bool, "expected true or false, got 'yes'."),
    ("1", None, "expected none, got '1'."),
    ("1,x", list[int], "expected int, got 'x'."),
    ("", list[int], "expected list[int], got ''."),
    ("1,2,3", tuple[int, int], "expected tuple[int, int], got '1,2,3'. It has 2 elements."),
    ("a", dict[str, int], "expected dict[str, int], got 'a'. Write {\"key\": value}."),
    ("EXAC", Precision, "expected Precision (FAST, EXACT), got 'EXAC'. Did you mean 'EXACT'?"),
    ("ful", Literal["full"], "expected one of 'full', got 'ful'. Did you mean 'full'?"),
    ("gelu", collections.abc.Callable, "'gelu' is not an import path; write module:Name."),
    (f"{HERE}:gelo", collections.abc.Callable, "has no 'gelo' of its own. Did you mean 'gelu'"),
    ("no.such:x", BaseLayer.Config, "no.such:x: cannot import 'no.such'"),
    ("x", int | float, "expected int | float, got 'x'."),
]


@pytest.mark.parametrize(("text", "annotation", "message"), REFUSED)
def test_text_that_says_no_such_value_is_refused(text, annotation, message):
    with pytest.raises(BadText) as e:
        parse_value(text, annotation)
    assert message in str(e.value)


def test_overrides_set_values_in_order_and_tell_the_paths():
    cfg = trainer_config()
    paths = apply_overrides(
        cfg, ["model.layers[1].norm.eps=0.5", "sizes=1,2,3", "sizes[0]=7", "weights['a']=2"]
    )
    assert paths == ["model.layers[1].norm.eps", "sizes", "sizes[0]", "weights['a']"]
    assert cfg.model.layers[1].norm.eps == 0.5
    assert cfg.sizes == (7, 2, 3)
    assert cfg.weights == {"a": 2.0}


def test_globs_set_every_match():
    cfg = trainer_config()
    apply_overrides(cfg, ["model.**.dropout=0.1", "model.layers[*].norm.eps=1"])
    for layer in cfg.model.layers:
        assert (layer.attention.dropout, layer.feed_forward.dropout, layer.norm.eps) == (
            0.1,
            0.1,
            1,
        )


def test_a_component_is_replaced_with_its_settings_carried_over():
    cfg = trainer_config()
    cfg.model.layers[0].feed_forward.hidden_dim = 16
    apply_overrides(
        cfg,
        [
            f"model.layers[0].feed_forward={HERE}:MoE",
            "model.layers[0].feed_forward.num_experts=8",
            f"optimizer={HERE}:lion",
        ],
    )
    assert isinstance(cfg.model.layers[0].feed_forward, MoE.Config)
    assert cfg.model.layers[0].feed_forward.hidden_dim == 16
    assert cfg.optimizer.instantiate() == lion(1e-3)


def test_arguments_of_calls_take_values_and_configs():
    cfg = trainer_config()
    apply_overrides(cfg, ["optimizer.learning_rate=3e-4", "optimizer.betas=0.9,0.95"])
    assert cfg.optimizer.instantiate() == adam(3e-4, betas=(0.9, 0.95))
    apply_overrides(cfg, [f"optimizer.learning_rate={HERE}:Schedule"])
    assert cfg.optimizer.learning_rate == config_for_class(Schedule)


def test_explain_tells_of_the_override():
    cfg = trainer_config()
    apply_overrides(cfg, ["max_steps=1_000"])
    assert "set      override on the command line, max_steps=1_000" in explain(cfg, "max_steps")
    apply_overrides(cfg, ["max_steps=7"], note="sweep")
    assert "set      sweep, max_steps=7" in explain(cfg, "max_steps")


ONE_LINE = [
    ("model.dmi=3", "model.dmi=3: model (Decoder.Config) has no field 'dmi'. Did you mean 'dim'?"),
    ("dim=3", "dim=3: Trainer.Config has no field 'dim'. Did you mean 'model.dim'?"),
    ("model.dim=wide", "model.dim=wide: expected int, got 'wide'."),
    ("model.dim", "model.dim: write path=value."),
    ("=3", "=3: write path=value."),
    ("model..dim=3", "model..dim=3: 'model..dim' is not a path: unexpected '.dim' at character 6."),
    (
        "model.layers[9].norm.eps=3",
        "model.layers[9].norm.eps=3: model.layers: has no [9]; it has 2",
    ),
    (
        "**.drop_out=1",
        "**.drop_out=1: nothing in the tree matches this glob. Did you mean 'dropout'?",
    ),
    ("sizes[5]=1", "sizes[5]=1: sizes: has no [5]; it has 2 elements."),
    ("max_steps.x=1", "max_steps.x=1: max_steps (int) has no field 'x'."),
    (
        f"model.layers[0]={HERE}:adam",
        f"model.layers[0]={HERE}:adam: expected BaseLayer.Config, got adam.Config.",
    ),
    (
        "model.layers[0].norm.dtype=float33",
        "model.layers[0].norm.dtype=float33: expected an array type such as 'float32' or 'bfloat16'",
    ),
]


@pytest.mark.parametrize(("text", "message"), ONE_LINE)
def test_a_bad_override_is_one_clear_line_and_changes_nothing(text, message):
    cfg = trainer_config()
    before, kept = cfg.clone(), cfg.model
    with pytest.raises(OverrideError) as e:
        apply_overrides(
            cfg, ["max_steps=7", "sizes[0]=3", f"model.layers[0].norm={HERE}:MoE", text]
        )
    assert str(e.value).startswith(message)
    assert "\n" not in str(e.value)
    assert cfg == before
    assert cfg.model is kept
    assert not cfg.is_set("max_steps")


def test_all_bad_overrides_are_reported_at_once():
    cfg = trainer_config()
    with pytest.raises(OverrideError) as e:
        apply_overrides(cfg, ["model.dmi=3", "max_steps=7", "sizes=a"])
    assert str(e.value) == (
        "2 overrides are wrong, and none was applied:\n"
        "  model.dmi=3: model (Decoder.Config) has no field 'dmi'. Did you mean 'dim'?\n"
        "  sizes=a: expected int, got 'a'."
    )
    assert cfg.max_steps == 100
