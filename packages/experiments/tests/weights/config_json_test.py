"""Every registered model can be written as a Hugging Face config.json, and read back as it was."""

from __future__ import annotations

import json

import pytest

from trellax.config import diff, finalize, format_diff
from trellax.experiments import experiment_names, get_experiment
from trellax.runtime.weights import Architecture, architecture_of_json, config_json

# What the released configs say, where it is no default.
RELEASED = {
    "llama2_7b_tpu": {"model_type": "llama", "num_key_value_heads": 32, "rms_norm_eps": 1e-5},
    "llama3_2_1b": {"tie_word_embeddings": True, "head_dim": 64, "rope_theta": 500_000.0},
    "mixtral_8x7b": {
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.02,
        "rope_theta": 1e6,
        "sliding_window": None,
    },
    "qwen3_0_6b": {"model_type": "qwen3", "head_dim": 128, "rms_norm_eps": 1e-6},
    "qwen3_30b_a3b": {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "intermediate_size": 6144,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "router_aux_loss_coef": 0.001,
    },
    "smollm2_135m": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100_000.0,
        "tie_word_embeddings": True,
        "vocab_size": 49_152,
    },
}


@pytest.mark.parametrize("name", experiment_names())
def test_a_model_comes_back_from_config_json_as_it_was(name: str) -> None:
    cfg = get_experiment(name).model
    file = json.loads(json.dumps(config_json(Architecture.of(cfg), max_length=8192)))
    back = architecture_of_json(file).model_config()
    changes = diff(finalize(cfg), finalize(back))
    assert not changes, format_diff(changes)


@pytest.mark.parametrize("name", RELEASED)
def test_config_json_says_what_the_released_one_says(name: str) -> None:
    file = config_json(Architecture.of(get_experiment(name).model), max_length=8192)
    assert {key: file[key] for key in RELEASED[name]} == RELEASED[name]
