"""The experiments have the published numbers, to the last parameter.

Shapes are those of the papers and the released configs, see the modules of the recipes. The numbers of parameters are
what these shapes come to, by arithmetic that knows nothing of our layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from trellax.config import finalize, select
from trellax.experiments import experiment_names, get_experiment
from trellax.layers import Attention, FeedForwardLayer, MoELayer, RMSNorm, count_parameters, is_spec
from trellax.layers.attention import RotaryPositions


class Shape(NamedTuple):
    """A published architecture: pre-norm decoder, gated feed-forward, no biases."""

    L: int
    D: int
    N: int
    K: int
    H: int
    F: int
    V: int
    theta: float
    parameters: int  # As the releases report them.
    tied: bool = False
    normed_heads: bool = False
    eps: float = 1e-5
    experts: int = 1
    choices: int = 1
    rope_factor: float | None = None

    def count(self, *, experts: int) -> int:
        """Returns the parameters with this number of experts a layer."""
        attention = self.D * self.H * (2 * self.N + 2 * self.K)
        router = self.D * self.experts if self.experts > 1 else 0
        feed_forward = router + experts * 3 * self.D * self.F
        norms = 2 * self.D + (2 * self.H if self.normed_heads else 0)
        embeddings = self.V * self.D * (1 if self.tied else 2)
        return self.L * (attention + feed_forward + norms) + embeddings + self.D


LLAMA3: dict[str, Any] = {"K": 8, "V": 128_256, "theta": 5e5}
SMALL3: dict[str, Any] = LLAMA3 | {"tied": True, "rope_factor": 32.0, "F": 8192}
QWEN3: dict[str, Any] = {"H": 128, "V": 151_936, "theta": 1e6, "normed_heads": True, "eps": 1e-6}
GQA = QWEN3 | {"K": 8}
SHAPES = {
    "llama2_7b_tpu": Shape(32, 4096, 32, 32, 128, 11_008, 32_000, 1e4, 6_738_415_616),
    "llama2_13b": Shape(40, 5120, 40, 40, 128, 13_824, 32_000, 1e4, 13_015_864_320),
    "llama2_70b_tpu": Shape(80, 8192, 64, 8, 128, 28_672, 32_000, 1e4, 68_976_648_192),
    "llama3_8b": Shape(L=32, D=4096, N=32, H=128, F=14_336, parameters=8_030_261_248, **LLAMA3),
    "llama3_1_8b": Shape(
        L=32, D=4096, N=32, H=128, F=14_336, parameters=8_030_261_248, rope_factor=8.0, **LLAMA3
    ),
    "llama3_1_70b": Shape(
        L=80, D=8192, N=64, H=128, F=28_672, parameters=70_553_706_496, rope_factor=8.0, **LLAMA3
    ),
    "llama3_1_405b": Shape(
        L=126,
        D=16_384,
        N=128,
        H=128,
        F=53_248,
        parameters=405_853_388_800,
        rope_factor=8.0,
        **LLAMA3,
    ),
    "llama3_2_1b": Shape(L=16, D=2048, N=32, H=64, parameters=1_235_814_400, **SMALL3),
    "llama3_2_3b": Shape(L=28, D=3072, N=24, H=128, parameters=3_212_749_824, **SMALL3),
    "mixtral_8x7b": Shape(
        32, 4096, 32, 8, 128, 14_336, 32_000, 1e6, 46_702_792_704, experts=8, choices=2
    ),
    "smollm2_135m": Shape(30, 576, 9, 3, 64, 1536, 49_152, 1e5, 134_515_008, tied=True),
    "qwen3_0_6b": Shape(L=28, D=1024, N=16, F=3072, parameters=596_049_920, tied=True, **GQA),
    "qwen3_1_7b": Shape(L=28, D=2048, N=16, F=6144, parameters=1_720_574_976, tied=True, **GQA),
    "qwen3_4b": Shape(L=36, D=2560, N=32, F=9728, parameters=4_022_468_096, tied=True, **GQA),
    "qwen3_8b": Shape(L=36, D=4096, N=32, F=12_288, parameters=8_190_735_360, **GQA),
    "qwen3_14b": Shape(L=40, D=5120, N=40, F=17_408, parameters=14_768_307_200, **GQA),
    "qwen3_32b": Shape(L=64, D=5120, N=64, F=25_600, parameters=32_762_123_264, **GQA),
    "qwen3_30b_a3b": Shape(
        L=48,
        D=2048,
        N=32,
        K=4,
        F=768,
        parameters=30_532_122_624,
        experts=128,
        choices=8,
        **QWEN3,
    ),
}
# Parameters that a token uses, embeddings included. Published: 12.9 B (arXiv:2401.04088), and "A3B", in the release 3.3 B.
ACTIVE = {"mixtral_8x7b": (12_879_925_248, "12.9"), "qwen3_30b_a3b": (3_353_032_704, "3.4")}
# Peak learning rate, steps of warm-up, final fraction, rows of a batch, tokens of a row, steps.
TRAINING = {
    "llama2_7b_tpu": (3e-4, 2000, 0.1, 1024, 4096, 500_000),
    "llama2_13b": (3e-4, 2000, 0.1, 1024, 4096, 500_000),
    "llama2_70b_tpu": (1.5e-4, 2000, 0.1, 1024, 4096, 500_000),
    "llama3_8b": (3e-4, 2000, 0.1, 2048, 8192, 900_000),
    "llama3_1_8b": (3e-4, 8000, 0.01, 2048, 8192, 900_000),
    "llama3_1_70b": (1.5e-4, 8000, 0.01, 2048, 8192, 900_000),
    "llama3_1_405b": (8e-5, 8000, 0.01, 2048, 8192, 1_200_000),
}
TOKENS = {
    "llama2": 2e12,
    "llama3_8b": 15e12,
    "llama3_1_8b": 15e12,
    "llama3_2": 9e12,
    "qwen3": 36e12,
    "smollm2": 2e12,
}


def specs_of(name: str) -> Any:
    return finalize(get_experiment(name).model).instantiate().all_parameter_specs()


def test_every_published_model_is_in_the_table() -> None:
    assert {*SHAPES, "llama_30m_local"} == set(experiment_names())


@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    shape = SHAPES[name]
    assert shape.count(experts=shape.experts) == shape.parameters
    assert count_parameters(specs_of(name)) == shape.parameters


@pytest.mark.parametrize("name", ACTIVE)
def test_a_token_uses_the_published_part_of_the_experts(name: str) -> None:
    shape, (active, billions) = SHAPES[name], ACTIVE[name]
    assert shape.count(experts=shape.choices) == active
    assert f"{active / 1e9:.1f}" == billions
    layer = specs_of(name)["decoder"]["stack"]["layer"]["feed_forward"]["experts"]
    idle = count_parameters(layer) // shape.experts * (shape.experts - shape.choices)
    assert all(is_spec(spec) for spec in layer.values())
    assert count_parameters(specs_of(name)) - idle == active


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_has_the_published_shape(name: str) -> None:
    shape = SHAPES[name]
    decoder = finalize(get_experiment(name).model).decoder
    ((_, attention),) = select(decoder, Attention)
    ((_, positions),) = select(decoder, RotaryPositions)
    assert (decoder.dim, decoder.vocab_size) == (shape.D, shape.V)
    assert decoder.stack.num_layers == shape.L
    assert (attention.num_heads, attention.num_kv_heads) == (shape.N, shape.K)
    assert (attention.head_dim, positions.theta) == (shape.H, shape.theta)
    factor = None if positions.scaling is None else positions.scaling.factor
    assert factor == shape.rope_factor
    assert (decoder.lm_head is None) == shape.tied and decoder.position_embedding is None
    norms = select(decoder, RMSNorm)  # Two in the layer, pre-norm, and the output's.
    assert {norm.eps for _, norm in norms} == {shape.eps}
    assert len(norms) == (5 if shape.normed_heads else 3)


@pytest.mark.parametrize("name", SHAPES)
def test_the_feed_forward_layers_are_gated_or_experts(name: str) -> None:
    shape = SHAPES[name]
    decoder = finalize(get_experiment(name).model).decoder
    kind = MoELayer if shape.experts > 1 else FeedForwardLayer
    ((_, layer),) = select(decoder, kind)
    assert (layer.hidden_dim, layer.activation, layer.gated) == (shape.F, "silu", True)
    if shape.experts > 1:
        assert (layer.num_experts, layer.experts_per_token) == (shape.experts, shape.choices)
        assert layer.router.normalize_weights


@pytest.mark.parametrize("name", TRAINING)
def test_the_optimizer_and_the_batch_are_the_published_ones(name: str) -> None:
    peak, warmup, final, rows, length, steps = TRAINING[name]
    cfg = get_experiment(name)
    adamw, schedule = cfg.learner.optimizer, cfg.learner.schedule
    assert (adamw.beta1, adamw.beta2, adamw.epsilon) == (0.9, 0.95, 1e-5)
    assert (adamw.weight_decay, cfg.learner.max_grad_norm) == (0.1, 1.0)
    assert (schedule.peak, schedule.warmup_steps, schedule.final_fraction) == (peak, warmup, final)
    assert (cfg.input.global_batch_size, cfg.input.sequence_length) == (rows, length)
    assert (cfg.max_steps, cfg.compute_dtype) == (steps, "bfloat16")


@pytest.mark.parametrize("name", [n for n in SHAPES if n.startswith(tuple(TOKENS))])
def test_it_trains_on_as_many_tokens_as_published(name: str) -> None:
    (tokens,) = (count for prefix, count in TOKENS.items() if name.startswith(prefix))
    cfg = get_experiment(name)
    of_a_batch = cfg.input.global_batch_size * cfg.input.sequence_length
    assert cfg.max_steps * of_a_batch == pytest.approx(tokens, rel=0.05)


def test_smollm2_has_the_published_optimizer_and_schedule() -> None:
    cfg = get_experiment("smollm2_135m")
    adamw = cfg.learner.optimizer
    assert (adamw.beta1, adamw.beta2, adamw.epsilon, adamw.weight_decay) == (0.9, 0.95, 1e-8, 0.01)
    assert (cfg.input.global_batch_size, cfg.input.sequence_length) == (1024, 2048)
    assert (cfg.max_steps, cfg.learner.max_grad_norm) == (1_000_000, 1.0)
    rate = finalize(cfg.learner.clone(total_steps=cfg.max_steps)).schedule.instantiate()
    rates = [float(rate(step)) for step in (1000, 2000, 800_000, 900_000, 1_000_000)]
    np.testing.assert_allclose(rates, [1.5e-3, 3e-3, 3e-3, 1.5e-3, 0.0], rtol=2e-3)


def test_the_schedule_warms_up_to_the_peak_and_ends_at_a_tenth() -> None:
    cfg = finalize(get_experiment("llama2_7b_tpu").learner.clone(total_steps=500_000))
    rate = cfg.schedule.instantiate()
    rates = [float(rate(step)) for step in (1000, 2000, 500_000)]
    np.testing.assert_allclose(rates, [1.5e-4, 3e-4, 3e-5], rtol=2e-3)


def test_the_local_llama_has_thirty_million_parameters() -> None:
    assert 29e6 < count_parameters(specs_of("llama_30m_local")) < 31e6
