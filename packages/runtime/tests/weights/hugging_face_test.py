"""config.json: every family there and back, and nothing that we do not compute passes unnoticed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.weights.samples import MAX_LENGTH, hf_folder, model_of, tiny
from trellax.config import replace_config
from trellax.layers import (
    LayerNorm,
    RMSNorm,
    ScannedStack,
    SequentialStack,
    TransformerLayer,
    UnrolledStack,
)
from trellax.layers.attention import LinearRopeScaling, Llama3RopeScaling, SlidingWindow
from trellax.layers.weight_names import FAMILIES, Family
from trellax.runtime.weights import (
    Architecture,
    UnsupportedWeightsError,
    WeightsFormatError,
    WeightsMismatchError,
    architecture_of_json,
    check_same_architecture,
    config_json,
    open_pretrained,
)

SCALINGS = [
    None,
    LinearRopeScaling.default_config().set(factor=2.0),
    Llama3RopeScaling.default_config().set(factor=32.0, original_length=64),
]


def json_of(architecture: Architecture, **changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(config_json(architecture, max_length=MAX_LENGTH))) | changes


# ---- parity ------------------------------------------------------------------------------------------


def test_a_released_llama_3_2_config_is_read() -> None:
    file = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    }
    found: Any = architecture_of_json(file)
    assert dataclasses.replace(found, rope_scaling=None) == Architecture(
        family="llama",
        num_layers=16,
        dim=2048,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        hidden_dim=8192,
        vocab_size=128256,
        norm_eps=1e-5,
        rope_theta=5e5,
        tied=True,
    )
    assert (found.rope_scaling.factor, found.rope_scaling.original_length) == (32.0, 8192)


def test_defaults_are_those_of_transformers() -> None:
    file = json_of(tiny("llama"))
    for key in (
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "rope_theta",
        "tie_word_embeddings",
    ):
        del file[key]
    found = architecture_of_json(file)
    assert (found.num_kv_heads, found.head_dim) == (4, 6)
    assert (found.norm_eps, found.rope_theta, found.tied) == (1e-6, 1e4, False)


@pytest.mark.parametrize("style", ["rope_parameters", "type"])
def test_older_and_newer_spellings_of_rope_are_the_same(style: str) -> None:
    architecture = tiny("llama", rope_scaling=SCALINGS[1], rope_theta=5e5)
    file = json_of(architecture)
    scaling = file.pop("rope_scaling")
    if style == "type":
        file["rope_scaling"] = {"type": scaling["rope_type"], "factor": scaling["factor"]}
    else:
        file["rope_parameters"] = scaling | {"rope_theta": file.pop("rope_theta")}
    check_equal(architecture_of_json(file), architecture)


# ---- properties --------------------------------------------------------------------------------------


def check_equal(a: Architecture, b: Architecture) -> None:
    assert (
        a.model_config().instantiate(name="root").cfg
        == b.model_config().instantiate(name="root").cfg
    )
    assert a.family == b.family


@pytest.mark.parametrize("scaling", SCALINGS, ids=["none", "linear", "llama3"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_comes_back_from_json_as_it_was(family: Family, tied: bool, scaling: Any) -> None:
    architecture = tiny(family, tied=tied, rope_scaling=scaling)
    check_equal(architecture_of_json(json_of(architecture)), architecture)
    check_equal(Architecture.of(architecture.model_config()), architecture)


def test_weights_of_experts_that_do_not_sum_to_one_are_told() -> None:
    architecture = tiny("qwen3_moe", normalize_weights=False)
    assert json_of(architecture)["norm_topk_prob"] is False
    check_equal(Architecture.of(architecture.model_config()), architecture)


def test_how_a_model_is_trained_and_computed_is_no_part_of_its_architecture() -> None:
    cfg = tiny("llama").model_config()
    replace_config(cfg, target=ScannedStack, new_cfg=UnrolledStack.default_config())
    cfg.param_dtype = "bfloat16"
    cfg.loss.z_loss_scale = 1.0
    check_equal(Architecture.of(cfg), tiny("llama"))


# ---- mistakes ----------------------------------------------------------------------------------------

REFUSED = [
    ("llama", {"attention_bias": True}, "attention_bias = True is not implemented"),
    ("llama", {"mlp_bias": True}, "mlp_bias"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"residual_multiplier": 2.0}, "residual_multiplier = 2.0 is not known here"),
    ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn' is not implemented"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "extra": 1}}, "extra"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("mixtral", {"sliding_window": 64}, "sliding_window = 64"),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 64}, "sliding_window = 64"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("qwen3_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step"),
    ("llama", {"model_type": "llama4"}, "model_type is 'llama4'.*llama"),
]


@pytest.mark.parametrize(("family", "change", "message"), REFUSED)
def test_what_we_do_not_compute_is_refused_by_name(
    family: Family, change: Any, message: str
) -> None:
    with pytest.raises(UnsupportedWeightsError, match=message):
        architecture_of_json(json_of(tiny(family), **change))


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mixtral", {"sliding_window": MAX_LENGTH}),
        ("qwen3", {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1}),
        ("qwen3", {"layer_types": ["full_attention"] * 3}),
        ("llama", {"_attn_implementation": "eager", "transformers.js_config": {}}),
    ],
)
def test_what_changes_nothing_is_accepted(family: Family, change: Any) -> None:
    check_equal(architecture_of_json(json_of(tiny(family), **change)), tiny(family))


def test_a_missing_key_is_named() -> None:
    file = json_of(tiny("llama"))
    del file["hidden_size"]
    with pytest.raises(WeightsFormatError, match="hidden_size"):
        architecture_of_json(file)


def test_a_model_that_such_files_cannot_describe_is_refused_by_path() -> None:
    cfg = tiny("llama").model_config()
    cfg.decoder.logit_soft_cap = 30.0
    cfg.decoder.stack.layer.attention.mask = SlidingWindow.default_config().set(window=16)
    with pytest.raises(UnsupportedWeightsError) as caught:
        Architecture.of(cfg)
    assert "decoder.logit_soft_cap" in str(caught.value)
    assert "decoder.stack.layer.attention.mask" in str(caught.value)


def test_a_norm_of_another_kind_is_refused_by_path() -> None:
    cfg = tiny("llama").model_config()
    replace_config(cfg, target=RMSNorm, new_cfg=LayerNorm.default_config())
    with pytest.raises(UnsupportedWeightsError, match="attention_norm"):
        Architecture.of(cfg)


def test_a_model_without_a_repeated_layer_is_refused() -> None:
    cfg = tiny("llama").model_config()
    cfg.decoder.stack = SequentialStack.default_config().set(
        layers=[TransformerLayer.default_config().set(attention=cfg.decoder.stack.layer.attention)]
    )
    cfg.decoder.stack.layers[0].feed_forward.hidden_dim = 8
    with pytest.raises(UnsupportedWeightsError, match="layer"):
        Architecture.of(cfg)


# ---- weights and an experiment -----------------------------------------------------------------------


def test_differing_hyperparameters_are_listed_by_path(tmp_path: Path) -> None:
    theirs = tiny("llama", num_layers=2, norm_eps=1e-5, tied=True)
    hf_folder(tmp_path, theirs, {})
    check_same_architecture(theirs.model_config(), tmp_path)
    with pytest.raises(WeightsMismatchError) as caught:
        check_same_architecture(tiny("llama").model_config(), tmp_path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == [
        "decoder.stack.num_layers: 2 in the weights, 3 in the config",
        "decoder.stack.layer.attention_norm.eps: 1e-05 in the weights, 1e-06 in the config",
        "decoder.lm_head: None in the weights, a head of its own in the config",
    ]


def test_numbers_that_were_float32_are_equal(tmp_path: Path) -> None:
    hf_folder(tmp_path, tiny("llama", norm_eps=9.999999974752427e-07), {})
    check_same_architecture(tiny("llama").model_config(), tmp_path)


def test_another_family_is_told(tmp_path: Path) -> None:
    hf_folder(tmp_path, tiny("qwen3"), {})
    with pytest.raises(WeightsMismatchError, match="family qwen3, the config describes a llama"):
        check_same_architecture(tiny("llama").model_config(), open_pretrained(tmp_path))


def test_a_tiny_model_has_the_parameters_of_its_config() -> None:
    specs = model_of(tiny("qwen3_moe")).all_parameter_specs()
    assert specs["decoder"]["stack"]["layer"]["feed_forward"]["experts"]["up"].shape == (
        3,
        4,
        24,
        40,
    )
