"""JSON and Python source: lossless both ways, readable, and careful with what they import."""

import functools
import json
import math

import pytest
from hypothesis import given, settings

from tests.config_components import (
    ROOTS,
    FeedForward,
    Layer,
    MoE,
    Norm,
    Plain,
    Shape,
    Trainer,
    adam,
    trainer_config,
)
from tests.config_strategies import trainers
from trellax.config import (
    DEFAULT_ROOTS,
    ConfigError,
    ReplaceModifier,
    SerializationError,
    Template,
    diff,
    finalize,
    from_json,
    replace_config,
    to_json,
    to_python,
)
from trellax.config.imports import import_path, resolve


def _run(source):
    scope = {}
    exec(compile(source, "<config>", "exec"), scope)
    return scope["config"]()


@settings(max_examples=150)
@given(trainers())
def test_json_round_trip_is_lossless(cfg):
    text = to_json(cfg)
    again = from_json(text, allowed_roots=ROOTS)
    assert diff(cfg, again) == []
    assert to_json(again) == text


@settings(max_examples=150)
@given(trainers())
def test_python_round_trip_is_lossless(cfg):
    source = to_python(cfg)
    again = _run(source)
    assert diff(cfg, again) == []
    assert to_python(again) == source


def test_final_trees_round_trip_too():
    final = finalize(trainer_config())
    assert diff(from_json(to_json(final), allowed_roots=ROOTS), final) == []
    assert diff(_run(to_python(final)), final) == []


def test_json_keeps_which_fields_were_set():
    cfg = trainer_config()
    cfg.model.layers[0].feed_forward.dropout = 0.0
    again = from_json(to_json(cfg), allowed_roots=ROOTS)
    assert again.model.layers[0].feed_forward.is_set("dropout")
    assert not again.model.layers[1].feed_forward.is_set("dropout")
    assert str(again.origin("name")) == "read from JSON"


def test_json_is_plain_to_read():
    document = json.loads(to_json(Norm.default_config().set(input_dim=8)))
    assert document == {
        "format": "trellax.config/1",
        "config": {
            "$config": "tests.config_components:Norm",
            "$set": ["input_dim"],
            "input_dim": 8,
            "dtype": "float32",
            "eps": 1e-6,
        },
    }


def test_a_field_that_the_text_lacks_gets_its_default():
    text = to_json(Norm.default_config()).replace(',\n  "eps": 1e-06', "")
    assert "eps" not in text
    assert from_json(text, allowed_roots=ROOTS).eps == 1e-6


def test_nan_round_trips():
    cfg = trainer_config().set(ratio=math.nan)
    assert math.isnan(from_json(to_json(cfg), allowed_roots=ROOTS).ratio)
    assert math.isnan(_run(to_python(cfg)).ratio)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"dim": 8',
            '"dmi": 8',
            "model.dmi: Decoder.Config has no field 'dmi'. Did you mean 'dim'?",
        ),
        ('"dim": 8', '"dim": "8"', "model.dim: expected int, got '8' (str)."),
        ("trellax.config/1", "trellax.config/9", "Expected JSON of format 'trellax.config/1', got"),
        ("Norm", "Nrom", "model.layers[0].norm: tests.config_components:Nrom: tests.config_com"),
        (
            "components:Norm",
            "components:adam",
            "model.layers[0].norm: tests.config_components:adam",
        ),
        (
            "tests.config_components:Norm",
            "os:system",
            "model.layers[0].norm: os:system: 'os' is not",
        ),
        ("$tuple", "$set_", "'$set_' is not known to trellax.config/1"),
        ('{\n "format"', '{,\n "format"', "This is not JSON: "),
    ],
)
def test_text_that_cannot_be_read_says_where_and_why(old, new, message):
    text = to_json(trainer_config())
    assert old in text
    with pytest.raises(ConfigError) as e:
        from_json(text.replace(old, new), allowed_roots=ROOTS)
    assert message in str(e.value)


def test_only_allowed_packages_are_imported():
    text = to_json(trainer_config())
    with pytest.raises(SerializationError) as e:
        from_json(text)
    assert str(e.value).startswith(
        "(root): tests.config_components:Trainer: 'tests' is not among the packages that may be "
        "imported ("
    )
    assert "add it to allowed_roots if you trust the text" in str(e.value)
    assert from_json(text, allowed_roots=(*DEFAULT_ROOTS, "tests")) == trainer_config()


@pytest.mark.parametrize(
    "path",
    [
        "trellax.config.imports:sys",
        "trellax.config.provenance:os.system",
        "trellax.config.imports:importlib.import_module",
        "trellax.config.tree:contextlib.suppress",
        "trellax.config.containers:FunctionType",
        "builtins:eval",
        "json:loads",
        "nothing",
        "trellax.nothing:x",
    ],
)
def test_an_allowed_package_is_no_way_to_others(path):
    with pytest.raises(SerializationError):
        resolve(path, ("trellax",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda: 0, "is defined inside a function and cannot be imported"),
        ([1, {"a": functools.partial(adam)}], "extra[1]['a']: "),
        (object(), "extra: a value of type object cannot be written"),
    ],
)
@pytest.mark.parametrize("write", [to_json, to_python])
def test_what_has_no_text_is_refused_with_its_path(write, value, message):
    with pytest.raises(SerializationError) as e:
        write(trainer_config().set(extra=value))
    assert str(e.value).startswith("extra")
    assert message in str(e.value)


def test_import_paths_are_the_public_ones():
    assert import_path(Template) == "trellax.config:Template"
    assert import_path(FeedForward.Config) == "tests.config_components:FeedForward.Config"
    assert import_path(int) == "builtins:int"
    assert resolve("trellax.config:Template") is Template


def test_source_is_minimal_against_defaults_and_laid_out():
    cfg = trainer_config().set(mesh=Shape(2, 4), extra=[1.5, "it's"])
    cfg.model.layers[1].norm.eps = 0.5
    new = MoE.default_config().set(num_experts=8)
    new.router.top_k = 3
    replace_config(cfg, "model.layers[0].feed_forward", new)
    cfg.modifiers = [
        ReplaceModifier.default_config().set(target=FeedForward, new_cfg=new.clone(hidden_dim=64))
    ]
    assert to_python(cfg) == _SOURCE


_SOURCE = """\
from tests.config_components import FeedForward, MoE, Router, Shape, Trainer
from trellax.config import ReplaceModifier, Template


def config():
    cfg = Trainer.default_config().set(
        name="tiny",
        mesh=Shape(data=2, model=4),
        modifiers=[
            ReplaceModifier.default_config().set(
                target=FeedForward,
                new_cfg=Template(
                    MoE.default_config().set(
                        num_experts=8,
                        hidden_dim=64,
                        router=Router.default_config().set(top_k=3),
                    ),
                ),
            ),
        ],
        extra=[1.5, "it's"],
    )
    cfg.model.set(dim=8)
    cfg.model.layers[0].set(feed_forward=MoE.default_config().set(num_experts=8))
    cfg.model.layers[0].feed_forward.router.set(top_k=3)
    cfg.model.layers[1].norm.set(eps=0.5)
    cfg.optimizer.set(learning_rate=0.001)
    return cfg
"""


def test_source_of_a_tree_at_its_defaults_is_one_line():
    assert "    cfg = Trainer.default_config()\n    return cfg\n" in to_python(
        Trainer.default_config()
    )


def test_a_config_without_component_is_written_as_a_call():
    source = to_python(Plain(sizes=(1,)))
    assert "    cfg = Plain(sizes=(1,))\n" in source
    assert _run(source) == Plain(sizes=(1,))


def test_new_containers_of_nodes_are_made_and_then_filled():
    cfg = trainer_config()
    cfg.model.by_name = {"a b": Layer.default_config().set(input_dim=4)}
    cfg.model.by_name["a b"].norm.eps = 0.5
    source = to_python(cfg)
    assert 'by_name={"a b": Layer.default_config().set(input_dim=4)}' in source
    assert '    cfg.model.by_name["a b"].norm.set(eps=0.5)\n' in source
