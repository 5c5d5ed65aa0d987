"""Fields, assignment, by-value semantics, places in the tree, traversal, freezing."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.config_components import (
    Attention,
    Decoder,
    FeedForward,
    Layer,
    MoE,
    Norm,
    Precision,
    Trainer,
    relu,
    trainer_config,
)
from tests.config_strategies import trainers
from trellax.config import (
    REQUIRED,
    Config,
    ConfigDefinitionError,
    ConfigError,
    Configurable,
    FieldTypeError,
    FrozenConfigError,
    RequiredValueUsedError,
    UnknownFieldError,
    finalize,
    nodes,
    to_text,
)


def test_set_changes_fields_and_returns_the_node():
    cfg = Norm.default_config()
    assert cfg.set(input_dim=4, eps=0.1) is cfg
    assert (cfg.input_dim, cfg.eps) == (4, 0.1)


def test_constructor_takes_fields():
    assert Norm.Config(input_dim=4) == Norm.default_config().set(input_dim=4)


def test_fields_are_inherited_before_own_and_keep_their_order():
    assert Norm.Config.field_names() == ("input_dim", "dtype", "eps")
    assert list(dict(Norm.default_config().items())) == ["input_dim", "dtype", "eps"]


def test_a_subclass_may_give_another_default():
    class Sharp(Norm.Config):
        eps = 0.5

    class Act(FeedForward.Config):
        activation = Norm  # A class, and above all not a method.

    assert Sharp().eps == 0.5
    assert Act().activation is Norm


def test_assigned_configs_are_copied():
    norm = Norm.default_config()
    layer = Layer.default_config().set(norm=norm)
    norm.eps = 3.0
    assert layer.norm.eps != 3.0
    assert layer.norm is not norm


def test_defaults_are_not_shared_between_configs():
    first, second = Decoder.default_config(), Decoder.default_config()
    first.layers[0].norm.eps = 7.0
    first.by_name["a"] = Norm.default_config()
    assert second.layers[0].norm.eps != 7.0
    assert second.by_name == {}


def test_a_clone_shares_nothing_that_can_change():
    cfg = trainer_config().set(weights={"a": 1.0}, extra=[{"b": [1]}])
    twin = cfg.clone()
    assert twin == cfg
    twin.model.layers[1].attention.num_heads = 2
    twin.weights["a"] = 2.0
    twin.extra[0]["b"].append(2)
    assert cfg.model.layers[1].attention.num_heads == 4
    assert cfg.weights == {"a": 1.0}
    assert cfg.extra == [{"b": [1]}]
    assert copy.deepcopy(cfg) == cfg


def test_clone_sets_values_on_the_copy_only():
    cfg = Norm.default_config()
    assert cfg.clone(eps=0.25).eps == 0.25
    assert cfg.eps == 1e-6


def test_set_is_all_or_nothing():
    cfg = Norm.default_config()
    before = cfg.clone()
    with pytest.raises(FieldTypeError):
        cfg.set(eps=0.5, input_dim="wide")
    with pytest.raises(UnknownFieldError):
        cfg.set(eps=0.5, epsilon=1)
    assert cfg == before
    assert not cfg.is_set("eps")


def test_values_are_stored_in_normal_form():
    cfg = trainer_config().set(ratio=1, sizes=[3, 4], rules=[["a", None]])
    assert isinstance(cfg.ratio, float)
    assert cfg.sizes == (3, 4)
    assert cfg.rules == [("a", None)]


def test_path_tells_the_place_in_the_tree():
    cfg = trainer_config()
    cfg.model.by_name = {"first": Layer.default_config()}
    assert cfg.path() == ""
    assert cfg.model.layers[1].norm.path() == "model.layers[1].norm"
    assert cfg.model.by_name["first"].norm.path() == "model.by_name['first'].norm"


def test_a_replaced_node_is_a_root_of_its_own():
    cfg = trainer_config()
    old = cfg.model.layers[0].norm
    cfg.model.layers[0].norm = Norm.default_config()
    assert old.path() == ""


def test_at_and_set_at_reach_every_place():
    cfg = trainer_config().set(weights={"a": 1.0})
    cfg.set_at("model.layers[1].norm.eps", 0.5)
    cfg.set_at("weights['b']", 2)
    cfg.set_at("sizes[-1]", 9)
    cfg.set_at("model.layers[0]", MoE.default_config())
    assert cfg.at("model.layers[1].norm.eps") == 0.5
    assert cfg.at("weights") == {"a": 1.0, "b": 2.0}
    assert cfg.at("sizes") == (1, 9)
    assert isinstance(cfg.at("model.layers[0]"), MoE.Config)
    assert cfg.at("") is cfg


def test_setting_one_element_keeps_the_others_the_same_objects():
    cfg = trainer_config()
    kept = cfg.model.layers[1]
    cfg.set_at("model.layers[0]", Norm.default_config())
    assert cfg.model.layers[1] is kept
    assert kept.path() == "model.layers[1]"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.layer", "model.layer: Decoder.Config has no field 'layer'. Did you mean 'layers'?"),
        ("model.layers[7]", "model.layers: has no [7]; it has 2 elements."),
        ("sizes.first", "sizes: has no first; it has 2 elements."),
        ("max_steps[0]", "max_steps: has no [0]; it is 100, which has no parts."),
        ("weights['q']", "weights: has no ['q']; it is an empty dict."),
        ("model[0]", "model: has no [0]; it is a Decoder.Config with fields dim, layers, by_name."),
    ],
)
def test_a_path_that_does_not_exist_says_what_is_there(path, message):
    with pytest.raises(UnknownFieldError) as e:
        trainer_config().at(path)
    assert message in str(e.value)


@pytest.mark.parametrize("path", ["a..b", ".a", "a.", "a[", "a[]", "a[0]b", "a b", "a.[0]"])
def test_text_that_is_no_path_is_refused_with_the_place(path):
    with pytest.raises(ConfigError, match="is not a path"):
        trainer_config().at(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("model.layers[0].norm.eps", "x"),
        ("model.layers[5]", 1),
        ("model.layers[0]", FeedForward),
        ("sizes[0]", 0.5),
        ("", 1),
        ("rules[0]", ("a", 1)),
    ],
)
def test_a_failed_set_at_leaves_the_tree_equal(path, value):
    cfg = trainer_config()
    before = cfg.clone()
    with pytest.raises(ConfigError):
        cfg.set_at(path, value)
    assert cfg == before


def test_visit_goes_depth_first_in_order_of_declaration():
    seen = []
    layer = Layer.default_config()
    layer.visit(
        visit_fn=lambda path, value: seen.append(path),
        enter_fn=lambda path, node: seen.append(f"<{path}"),
        exit_fn=lambda path, node: seen.append(f"{path}>"),
    )
    assert seen == [
        "<",
        "input_dim",
        "dtype",
        "<attention",
        "attention.input_dim",
        "attention.dtype",
        "attention.num_heads",
        "attention.dropout",
        "attention.kind",
        "attention>",
        "<feed_forward",
        "feed_forward.input_dim",
        "feed_forward.dtype",
        "feed_forward.hidden_dim",
        "feed_forward.dropout",
        "feed_forward.activation",
        "feed_forward>",
        "<norm",
        "norm.input_dim",
        "norm.dtype",
        "norm.eps",
        "norm>",
        ">",
    ]


def test_enter_may_replace_children_or_pass_them_over():
    def enter(path, node):
        if isinstance(node, Layer.Config):
            node.set(feed_forward=MoE.default_config())
        entered.append(path)
        return not isinstance(node, MoE.Config)

    cfg, entered = trainer_config(), []
    cfg.visit(enter_fn=enter)
    assert "model.layers[0].feed_forward" in entered
    assert "model.layers[0].feed_forward.router" not in entered


@given(trainers())
def test_every_visited_path_leads_back_to_its_value(cfg):
    def enter(path, node):
        assert cfg.at(path) is node
        assert node.path() == path

    def visit(path, value):
        assert cfg.at(path) is value

    cfg.visit(visit_fn=visit, enter_fn=enter)


@given(trainers(), st.data())
def test_changing_a_clone_anywhere_leaves_the_tree_equal(cfg, data):
    before, twin = to_text(cfg), cfg.clone()
    for _, node in nodes(twin):
        node.set(**{name: REQUIRED for name in node.field_names() if data.draw(st.booleans())})
        if isinstance(node, Decoder.Config):
            break
    twin.set(model=Decoder.default_config())
    assert to_text(cfg) == before


def test_a_frozen_tree_refuses_every_change_and_names_the_place():
    cfg = finalize(trainer_config().set(weights={"a": 1.0}))
    changes = {
        "model.layers[0].norm.eps": lambda: setattr(cfg.model.layers[0].norm, "eps", 1.0),
        "model.layers": lambda: cfg.model.layers.append(Norm.default_config()),
        "Trainer.Config.weights": lambda: cfg.weights.update(b=2.0),
        "Trainer.Config.max_steps": lambda: cfg.set(max_steps=1),
    }
    for path, change in changes.items():
        with pytest.raises(FrozenConfigError) as e:
            change()
        assert str(e.value) == f"{path}: the tree is frozen; change a clone() and use that."


def test_a_clone_of_a_frozen_tree_can_be_changed():
    cfg = finalize(trainer_config()).clone()
    cfg.model.layers.append(Layer.default_config())
    cfg.max_steps = 7
    assert len(cfg.model.layers) == 3


def test_trees_survive_pickling():
    for cfg in (trainer_config(), finalize(trainer_config())):
        again = pickle.loads(pickle.dumps(cfg))
        assert again == cfg
        assert again.is_frozen == cfg.is_frozen
        assert again.model.layers[1].path() == "model.layers[1]"


def test_required_refuses_to_be_computed_with():
    for use in (
        lambda x: x + 1,
        lambda x: 8 // x,
        int,
        len,
        list,
        lambda x: x.dim,
        lambda x: x < 1,
    ):
        with pytest.raises(RequiredValueUsedError):
            use(REQUIRED)
    assert not REQUIRED
    assert pickle.loads(pickle.dumps(REQUIRED)) is REQUIRED is copy.deepcopy(REQUIRED)


def test_an_origin_is_the_line_that_set_the_field():
    cfg = trainer_config()
    cfg.model.layers[0].norm.eps = 0.5
    origin = cfg.model.layers[0].norm.origin("eps")
    assert origin.filename.endswith("tree_test.py")
    assert cfg.model.layers[0].attention.origin("num_heads") is None


def test_components_are_built_from_their_config():
    built = Norm.default_config().set(input_dim=4).instantiate()
    assert isinstance(built, Norm)
    assert built.cfg.input_dim == 4
    assert built.cfg.is_frozen


def test_an_error_while_building_tells_the_place():
    class Broken(Configurable):
        class Config(Configurable.Config):
            pass

        def __init__(self, cfg):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError) as e:
        Broken.default_config().instantiate()
    assert "Broken.Config" in e.value.__notes__[0]


def _define(**body):
    return type("Bad", (Config,), {"__module__": __name__, "__qualname__": "Bad", **body})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dim": 4}, "Bad.dim has no annotation; write `dim: TYPE = ...`."),
        ({"__annotations__": {"path": str}}, "Bad.path: 'path' is a method of every config"),
        ({"__annotations__": {"x-y": int}}, "Bad.x-y: a field's name has letters"),
    ],
)
def test_a_badly_written_class_is_refused_at_once(body, message):
    with pytest.raises(ConfigDefinitionError) as e:
        _define(**body)
    assert message in str(e.value)


def test_a_default_of_the_wrong_type_is_refused():
    wrong = _define(__annotations__={"dims": list[int]}, dims=[1, "x"])
    with pytest.raises(ConfigDefinitionError, match=r"Bad.dims\[1\], the default: expected int"):
        wrong()


def test_a_config_must_extend_its_base_component_s():
    with pytest.raises(ConfigDefinitionError, match="must extend Norm.Config"):
        type("Other", (Norm,), {"Config": Attention.Config, "__qualname__": "Other"})
    with pytest.raises(ConfigDefinitionError, match="is the config of Norm already"):
        type("Other", (Norm,), {"Config": Norm.Config})


def test_equality_needs_the_same_class_and_values():
    assert Norm.default_config() == Norm.default_config()
    assert Norm.default_config() != Norm.default_config().set(eps=0.5)
    assert Norm.default_config() != Attention.default_config()
    assert FeedForward.default_config().activation is relu
    assert Trainer.default_config().optimizer == Trainer.default_config().optimizer


def test_dictionary_keys_of_any_kind_have_a_path():
    keys = [Precision.FAST, (1, "b"), 1.5, "it's", "a]b", -3]
    cfg = trainer_config().set(extra=dict.fromkeys(keys, 0))
    cfg.visit(visit_fn=lambda path, value: cfg.at(path))
    cfg.set_at("extra[Precision.FAST]", 1).set_at("extra['it\\'s']", 2)
    assert list(cfg.extra.values()) == [1, 0, 0, 2, 0, 0]
    assert cfg.set(weights={"a": 1.0}).at("weights[a]") == 1.0  # Shells eat quotes.
    with pytest.raises(UnknownFieldError, match=r"weights: has no \[b\]; its keys are 'a'"):
        cfg.set_at("weights[b]", 1.0)
