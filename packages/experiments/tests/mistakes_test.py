"""Each kind of config mistake, made on a real experiment, gives its one clear error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from trellax.config import (
    ChainModifier,
    ConfigConflictError,
    ConfigError,
    FieldTypeError,
    MissingRequiredError,
    NoMatchError,
    OverrideError,
    ReplaceModifier,
    SetModifier,
    UnknownFieldError,
    apply_overrides,
    finalize,
    replace_config,
    to_text,
)
from trellax.experiments import get_experiment
from trellax.layers import FeedForwardLayer, MoELayer, SequentialStack, TransformerLayer
from trellax.layers.attention import RotaryPositions
from trellax.parallel import RematModifier, save_names

STACK = "model.decoder.stack"


def unknown_field(cfg: Any) -> None:
    cfg.model.decoder.stack.layer.attention.set(num_head=8)


def wrong_type_deep_in_a_list(cfg: Any) -> None:
    layer = TransformerLayer.default_config()
    cfg.model.decoder.stack = SequentialStack.default_config().set(layers=[layer, layer])
    cfg.model.decoder.stack.layers[1].feed_forward.hidden_dim = "11008"


def wrong_class_deep_in_a_list(cfg: Any) -> None:
    layer = TransformerLayer.default_config()
    cfg.model.decoder.stack = SequentialStack.default_config().set(layers=[layer, layer])
    cfg.model.decoder.stack.layers[1].attention_norm = FeedForwardLayer


def wrong_element_of_a_list(cfg: Any) -> None:
    names = cfg.input.dataset.documents
    names.paths = ["/data/a.parquet", "/data/b.parquet", 3]


def missing_required(cfg: Any) -> None:
    replace_config(cfg, FeedForwardLayer, MoELayer.default_config())
    finalize(cfg)


def bad_override(cfg: Any) -> None:
    apply_overrides(cfg, [f"{STACK}.layer.attention.num_heads=many"])


def override_of_no_field(cfg: Any) -> None:
    apply_overrides(cfg, ["learner.schedule.peek=1e-3"])


def two_modifiers_on_one_node(cfg: Any) -> None:
    replacement = MoELayer.default_config().set(num_experts=8)
    modifiers = [
        ReplaceModifier.default_config().set(target=FeedForwardLayer, new_cfg=replacement),
        SetModifier.default_config().set(values={f"{STACK}.layer.feed_forward.hidden_dim": 64}),
    ]
    ChainModifier.default_config().set(modifiers=modifiers).instantiate()(cfg)


def two_modifiers_on_one_field(cfg: Any) -> None:
    steps = [SetModifier.default_config().set(values={"max_steps": n}) for n in (10, 20)]
    ChainModifier.default_config().set(modifiers=steps).instantiate()(cfg)


def nothing_to_replace(cfg: Any) -> None:
    replace_config(cfg, SequentialStack, RotaryPositions.default_config())


def a_layer_that_does_not_fit(cfg: Any) -> None:
    cfg.model.decoder.stack.layer.feed_forward = RotaryPositions.default_config()
    finalize(cfg.model)


def a_child_that_disagrees(cfg: Any) -> None:
    cfg.model.decoder.stack.layer.attention_norm.input_dim = 64
    finalize(cfg.model)


def dims_that_do_not_divide(cfg: Any) -> None:
    finalize(cfg.model.clone().set_at("decoder.dim", 100))


def remat_of_no_layer(cfg: Any) -> None:
    modifier = RematModifier.default_config().set(
        target="EncoderLayer", policy=save_names("q_proj")
    )
    modifier.instantiate()(cfg)


MISTAKES: list[tuple[Callable[[Any], None], type[ConfigError], str]] = [
    (
        unknown_field,
        UnknownFieldError,
        f"{STACK}.layer.attention.num_head: Attention.Config has no field 'num_head'. "
        "Did you mean 'num_heads' or 'num_kv_heads'? Its fields: param_dtype, initializer, remat, "
        "input_dim, num_heads, num_kv_heads, head_dim, projection, query_norm, key_norm, positions, "
        "mask, core, cache, output.",
    ),
    (
        wrong_type_deep_in_a_list,
        FieldTypeError,
        f"{STACK}.layers[1].feed_forward.hidden_dim: expected int | InstantiableConfig, "
        "got '11008' (str).",
    ),
    (
        wrong_class_deep_in_a_list,
        FieldTypeError,
        f"{STACK}.layers[1].attention_norm: expected BaseLayer.Config | None, got the class "
        "FeedForwardLayer. Write FeedForwardLayer.default_config() for its config.",
    ),
    (
        wrong_element_of_a_list,
        FieldTypeError,
        "input.dataset.documents.paths[2]: expected str, got 3 (int).",
    ),
    (
        missing_required,
        MissingRequiredError,
        "4 required fields are not set:\n"
        f"  {STACK}.layer.feed_forward.num_experts: int\n"
        "  input.dataset.documents.paths: list[str]\n"
        "  input.tokenizer.file: str\n"
        "  input.tokenizer.eos_token: str",
    ),
    (
        bad_override,
        OverrideError,
        f"{STACK}.layer.attention.num_heads=many: expected int, got 'many'.",
    ),
    (
        override_of_no_field,
        OverrideError,
        "learner.schedule.peek=1e-3: learner.schedule (CosineSchedule.Config) has no field 'peek'. "
        "Did you mean 'peak'?",
    ),
    (
        two_modifiers_on_one_node,
        ConfigConflictError,
        f"{STACK}.layer.feed_forward.hidden_dim: modifier 1, SetModifier("
        f"values={{'{STACK}.layer.feed_forward.hidden_dim': 64}}), changes it but modifier 0, "
        "ReplaceModifier(target=trellax.layers:FeedForwardLayer, "
        f"new_cfg=template of trellax.layers:MoELayer), replaces {STACK}.layer.feed_forward as a "
        "whole. Put the change into the replacement.",
    ),
    (
        two_modifiers_on_one_field,
        ConfigConflictError,
        "max_steps: modifier 0, SetModifier(values={'max_steps': 10}), makes it 10 but modifier 1, "
        "SetModifier(values={'max_steps': 20}), makes it 20. Drop one of them, or merge them into "
        "one modifier.",
    ),
    (
        nothing_to_replace,
        NoMatchError,
        "Nothing below Trainer.Config matches SequentialStack; it holds Trainer, CausalLM, "
        "VarianceScalingInitializer, Decoder, Embedding, NormalInitializer, Dropout, ScannedStack, "
        "TransformerLayer, Attention, QKVProjection, Projection and ",
    ),
    (
        a_layer_that_does_not_fit,
        UnknownFieldError,
        "decoder.stack.layer.feed_forward: TransformerLayer.Config gives this child its 'input_dim', "
        "but RotaryPositions.Config has no such field; it does not fit here.",
    ),
    (
        a_child_that_disagrees,
        ConfigConflictError,
        "decoder.stack.layer.attention_norm.input_dim: set to 64 but its parent "
        "decoder.stack.layer provides 4096. Leave it unset, or change the parent.",
    ),
    (
        dims_that_do_not_divide,
        ConfigError,
        "decoder.stack.layer.attention: input_dim=100 does not divide into num_heads=32; "
        "set head_dim. (in Attention.Config.derive)",
    ),
    (
        remat_of_no_layer,
        NoMatchError,
        "RematModifier: no layer with a `remat` field is a 'EncoderLayer', by class or by path. "
        "Such layers: Attention, CausalLM, ",
    ),
]


@pytest.mark.parametrize(("mistake", "kind", "message"), MISTAKES)
def test_a_mistake_gives_its_one_clear_error(
    mistake: Callable[[Any], None], kind: type[ConfigError], message: str
) -> None:
    cfg = get_experiment("llama2_7b_tpu")
    with pytest.raises(kind) as e:
        mistake(cfg)
    said = re.sub(r" Last set at .*$", "", str(e.value))  # A line of this file or of a recipe.
    assert said == message or (message.endswith((" ", "and ")) and said.startswith(message))


@pytest.mark.parametrize("mistake", [bad_override, override_of_no_field, two_modifiers_on_one_node])
def test_a_mistake_leaves_the_experiment_as_it_was(mistake: Callable[[Any], None]) -> None:
    cfg = get_experiment("llama2_7b_tpu")
    before = to_text(cfg)
    with pytest.raises(ConfigError):
        mistake(cfg)
    assert to_text(cfg) == before


def test_a_type_error_says_where_the_recipe_set_the_field() -> None:
    cfg = get_experiment("llama2_7b_tpu")
    with pytest.raises(
        FieldTypeError, match=r"got 'big' \(str\)\. Last set at .*pre_norm\.py:\d+\."
    ):
        cfg.model.decoder.dim = "big"
