"""The Llama experiments have the published numbers, to the last parameter.

Llama 2: arXiv:2307.09288, section 2.2 and table 1. Llama 3: arXiv:2407.21783, table 3.
"""

from __future__ import annotations

import numpy as np
import pytest

from trellax.config import finalize, select
from trellax.experiments import get_experiment
from trellax.layers import Attention, FeedForwardLayer, RMSNorm, count_parameters
from trellax.layers.attention import RotaryPositions

# L layers, D model, N heads, K kv heads, F feed-forward, V vocabulary, base of RoPE.
SHAPES = {
    "llama2_7b_tpu": (32, 4096, 32, 32, 11_008, 32_000, 10_000.0),
    "llama2_70b_tpu": (80, 8192, 64, 8, 28_672, 32_000, 10_000.0),
    "llama3_8b": (32, 4096, 32, 8, 14_336, 128_256, 500_000.0),
}
# Peak learning rate, rows of a batch, tokens of a row, parameters.
TRAINING = {
    "llama2_7b_tpu": (3e-4, 1024, 4096, 6_738_415_616),
    "llama2_70b_tpu": (1.5e-4, 1024, 4096, 68_976_648_192),
    "llama3_8b": (3e-4, 2048, 8192, 8_030_261_248),
}


@pytest.mark.parametrize("name", TRAINING)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    model = finalize(get_experiment(name).model).instantiate()
    assert count_parameters(model.all_parameter_specs()) == TRAINING[name][-1]


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_has_the_published_shape(name: str) -> None:
    num_layers, dim, num_heads, num_kv_heads, hidden_dim, vocab_size, theta = SHAPES[name]
    decoder = finalize(get_experiment(name).model).decoder
    ((_, attention),) = select(decoder, Attention)
    ((_, feed_forward),) = select(decoder, FeedForwardLayer)
    ((_, positions),) = select(decoder, RotaryPositions)
    assert (decoder.dim, decoder.vocab_size, decoder.stack.num_layers) == (
        dim,
        vocab_size,
        num_layers,
    )
    assert (attention.num_heads, attention.num_kv_heads) == (num_heads, num_kv_heads)
    assert (attention.head_dim, positions.theta) == (128, theta)
    assert (feed_forward.hidden_dim, feed_forward.activation, feed_forward.gated) == (
        hidden_dim,
        "silu",
        True,
    )
    assert decoder.lm_head is not None and decoder.position_embedding is None
    assert {norm.eps for _, norm in select(decoder, RMSNorm)} == {1e-5}
    assert len(select(decoder, RMSNorm)) == 3  # Two in the layer, pre-norm, and the output's.


@pytest.mark.parametrize("name", TRAINING)
def test_the_optimizer_is_the_published_one(name: str) -> None:
    peak, *_ = TRAINING[name]
    learner = get_experiment(name).learner
    adamw = learner.optimizer
    assert (adamw.beta1, adamw.beta2, adamw.epsilon) == (0.9, 0.95, 1e-5)
    assert (adamw.weight_decay, learner.max_grad_norm) == (0.1, 1.0)
    assert (learner.schedule.peak, learner.schedule.warmup_steps) == (peak, 2000)
    assert learner.schedule.final_fraction == 0.1


@pytest.mark.parametrize("name", ("llama2_7b_tpu", "llama2_70b_tpu"))
def test_llama_2_trains_on_two_trillion_tokens_in_batches_of_four_million(name: str) -> None:
    _, rows, length, _ = TRAINING[name]
    cfg = get_experiment(name)
    assert (cfg.input.global_batch_size, cfg.input.sequence_length) == (rows, length)
    assert rows * length == 4 * 2**20
    assert cfg.max_steps * rows * length == pytest.approx(2e12, rel=0.05)
    assert cfg.compute_dtype == "bfloat16"


def test_the_schedule_warms_up_to_the_peak_and_ends_at_a_tenth() -> None:
    cfg = finalize(get_experiment("llama2_7b_tpu").learner.clone(total_steps=500_000))
    rate = cfg.schedule.instantiate()
    rates = [float(rate(step)) for step in (1000, 2000, 500_000)]
    np.testing.assert_allclose(rates, [1.5e-4, 3e-4, 3e-5], rtol=2e-3)


def test_the_local_llama_has_thirty_million_parameters() -> None:
    model = finalize(get_experiment("llama_30m_local").model).instantiate()
    assert 29e6 < count_parameters(model.all_parameter_specs()) < 31e6
