"""Finding and replacing nodes."""

import pytest

from tests.config_components import (
    Attention,
    BaseLayer,
    FeedForward,
    Layer,
    MoE,
    Norm,
    Router,
    adam,
    gelu,
    lion,
    trainer_config,
)
from trellax.config import (
    ConfigError,
    FieldTypeError,
    NoMatchError,
    config_for_function,
    finalize,
    nodes,
    replace_config,
    select,
)
from trellax.config.paths import format_steps, is_within, matches, parse

LAYERS = ["model.layers[0]", "model.layers[1]"]


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (Layer, LAYERS),
        (Layer.Config, LAYERS),
        ("model.layers[*]", LAYERS),
        ("model.layers[1].n*", ["model.layers[1].norm"]),
        ("**.norm", [f"{p}.norm" for p in LAYERS]),
        ((BaseLayer, "**.feed_forward"), [f"{p}.feed_forward" for p in LAYERS]),
        ((Norm, "**.feed_forward"), []),
        (adam, ["optimizer"]),
        (lion, []),
    ],
)
def test_selection_by_type_by_glob_and_by_both(target, found):
    assert [path for path, _ in select(trainer_config(), target)] == found


def test_nodes_come_parents_first():
    found = [path for path, _ in nodes(trainer_config())]
    assert found[:4] == ["", "model", "model.layers[0]", "model.layers[0].attention"]


def test_replacing_touches_nothing_else_and_tells_the_paths():
    cfg = trainer_config()
    before = cfg.clone()
    replaced = replace_config(cfg, FeedForward, MoE.default_config().set(num_experts=8))
    assert replaced == [f"{p}.feed_forward" for p in LAYERS]
    for layer, old in zip(cfg.model.layers, before.model.layers, strict=True):
        assert isinstance(layer.feed_forward, MoE.Config)
        assert layer.clone(feed_forward=old.feed_forward) == old
    assert finalize(cfg).model.layers[0].feed_forward.router.input_dim == 8


def test_same_named_fields_carry_over_where_the_new_config_leaves_them_unset():
    cfg = trainer_config()
    cfg.model.layers[0].feed_forward.set(hidden_dim=16, dropout=0.5, activation=gelu)
    new = MoE.default_config().set(num_experts=8, dropout=0.25)
    replace_config(cfg, FeedForward, new)
    first, second = (layer.feed_forward for layer in cfg.model.layers)
    assert (first.hidden_dim, first.dropout) == (16, 0.25)
    assert (second.hidden_dim, second.dropout) == (None, 0.25)


def test_children_that_were_changed_inside_carry_over():
    cfg = trainer_config()
    cfg.model.layers[0].attention.num_heads = 2
    replace_config(cfg, "model.layers[0]", Layer.default_config())
    assert cfg.model.layers[0].attention.num_heads == 2


def test_replacements_are_copies():
    cfg = trainer_config()
    new = MoE.default_config().set(num_experts=8)
    replace_config(cfg, FeedForward, new)
    cfg.model.layers[0].feed_forward.num_experts = 4
    assert cfg.model.layers[1].feed_forward.num_experts == new.num_experts == 8


def test_replacements_are_not_searched_again():
    cfg = trainer_config()
    nested = Layer.default_config().set(feed_forward=Layer.default_config())
    assert replace_config(cfg, Layer, nested) == LAYERS


def test_a_target_that_matches_nothing_is_an_error_that_tells_what_there_is():
    with pytest.raises(NoMatchError) as e:
        replace_config(trainer_config(), (Router, "model.**"), MoE.default_config())
    assert str(e.value) == (
        "Nothing below Trainer.Config matches Router at 'model.**'; it holds "
        "Trainer, Decoder, Layer, Attention, FeedForward, Norm, adam."
    )


def test_a_replacement_that_fits_one_slot_only_replaces_none():
    cfg = trainer_config()
    cfg.extra = [Norm.default_config()]
    before, kept = cfg.clone(), cfg.model.layers[0].norm
    with pytest.raises(FieldTypeError, match="model.layers.0..norm: expected BaseLayer.Config"):
        replace_config(cfg, Norm, config_for_function(adam))
    assert cfg == before
    assert cfg.model.layers[0].norm is kept


def test_the_root_cannot_be_replaced_in_place():
    with pytest.raises(ConfigError, match="is the root itself"):
        replace_config(trainer_config(), "", MoE.default_config())


def test_nodes_held_across_a_replacement_stay_part_of_the_tree():
    cfg = trainer_config()
    for _, layer in select(cfg, Layer):
        replace_config(cfg, f"{layer.path()}.norm", Attention.default_config())
        layer.norm.num_heads = 2
    assert [layer.norm.num_heads for layer in cfg.model.layers] == [2, 2]


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.b.b.c", False),
        ("a.**.c", "a.c", True),
        ("a.**.c", "a.b[0].b.c", True),
        ("**", "a.b", True),
        ("a[*].b", "a['x'].b", True),
        ("a[*].b", "a.x.b", False),
        ("a['*']", "a['x']", False),
        ("a.norm_?", "a.norm_1", True),
        ("a.b", "a.b.c", False),
    ],
)
def test_globs(pattern, path, expected):
    assert matches(pattern, path) is expected


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a.b[0].c",
        "a['x.y']['it\\'s'].b",
        "a[-1]",
        "a[1.5]",
        'a["\'"]',
        "a[True]",
        "a[(1, 'b')]",
        "a[Precision.FAST]",
    ],
)
def test_paths_are_read_as_they_are_written(path):
    assert parse(format_steps(parse(path))) == parse(path)


def test_is_within_does_not_confuse_names_with_a_common_start():
    assert is_within("a.bc", "a")
    assert not is_within("a.bc", "a.b")
