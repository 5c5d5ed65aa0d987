"""Generation with caches says what the training forward pass says, for one prompt or many."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.generation.models import KINDS, VOCAB_SIZE, built, llama
from trellax.config import ConfigError
from trellax.inference import Generator, Sampling
from trellax.layers import TokenInfo, functional

KEY = jax.random.key(0)
PROMPTS = [[5, 9, 2, 40, 11], [7], [33, 1, 60], [5, 9, 2, 40, 11, 3, 8, 20]]
GREEDY = Sampling.default_config().set(temperature=0.0)


@pytest.fixture(scope="module")
def model_and_params() -> tuple[Any, Any]:
    return built(llama(num_kv_heads=2))


def predictions(model: Any, params: Any, rows: list[list[int]]) -> list[list[int]]:
    """Returns the most likely token after each, by one forward pass over whole rows, uncached."""
    length = max(map(len, rows))
    ids_BS = jnp.asarray([row + [0] * (length - len(row)) for row in rows], jnp.int32)

    @jax.jit
    def logits(params: Any, ids_BS: jax.Array) -> jax.Array:
        args = (ids_BS, TokenInfo.contiguous(*ids_BS.shape))
        return functional(model, params=params, args=args, is_training=False, method="logits")[0]

    return (
        logits(params, ids_BS).argmax(axis=-1).tolist()
    )  # Causal: what follows a row is not seen.


# ---- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_the_argmax_of_the_full_forward_pass(kind: str) -> None:
    model, params = built(KINDS[kind]())
    generator = Generator(model, sampling=GREEDY)
    completions = generator(params, PROMPTS, max_new_tokens=12, key=KEY)
    rows = [prompt + new for prompt, new in zip(PROMPTS, completions, strict=True)]
    for prompt, new, predicted in zip(
        PROMPTS, completions, predictions(model, params, rows), strict=True
    ):
        assert new == predicted[len(prompt) - 1 : len(prompt) + 11]
        assert len(set(new)) > 1, "the model says more than one thing"


def test_a_prompt_in_a_batch_is_continued_as_if_alone(model_and_params: Any) -> None:
    model, params = model_and_params
    generator = Generator(model, sampling=Sampling.default_config().set(top_k=1))
    together = generator(params, PROMPTS, max_new_tokens=10, key=KEY)
    for i in (1, 2):
        assert generator(params, [PROMPTS[i]], max_new_tokens=10, key=KEY) == [together[i]]


# ---- sampling -----------------------------------------------------------------------------------


def test_draws_follow_the_softmax_of_the_logits_over_the_temperature() -> None:
    logits_V = jnp.asarray([0.0, 1.0, 2.0, -1.0])
    draw = Sampling.default_config().set(temperature=2.0).instantiate()
    drawn = np.asarray(draw(jnp.tile(logits_V, (40_000, 1)), KEY))
    shares = np.bincount(drawn, minlength=4) / drawn.size
    np.testing.assert_allclose(shares, jax.nn.softmax(logits_V / 2.0), atol=0.01)


@pytest.mark.parametrize("top_k", [1, 3, 10, VOCAB_SIZE, 1000])
def test_only_the_k_most_likely_are_drawn(top_k: int) -> None:
    logits_BV = jax.random.normal(jax.random.key(1), (16, VOCAB_SIZE))
    draw = Sampling.default_config().set(top_k=top_k, temperature=5.0).instantiate()
    drawn_NB = np.stack([draw(logits_BV, jax.random.key(i)) for i in range(50)])
    rank_BV = np.argsort(np.argsort(-np.asarray(logits_BV), axis=-1), axis=-1)
    ranks_NB = np.take_along_axis(rank_BV, drawn_NB.T, axis=1)
    assert ranks_NB.max() < top_k
    assert len(np.unique(ranks_NB)) >= min(top_k, 5), "and more than the first few of them"


def test_the_draws_depend_on_the_key_alone(model_and_params: Any) -> None:
    model, params = model_and_params
    generator = Generator(model)
    first, again, other = (
        generator(params, PROMPTS, max_new_tokens=12, key=jax.random.key(seed))
        for seed in (1, 1, 2)
    )
    assert first == again != other
    rows = generator(params, [PROMPTS[0]] * 3, max_new_tokens=12, key=KEY)
    assert len({tuple(row) for row in rows}) == 3, "rows draw on their own"


def test_within_one_completion_each_step_draws_anew() -> None:
    """A model that finds all tokens equally likely does not repeat one."""
    model, params = built(llama())
    params = jax.tree.map(jnp.zeros_like, params)
    (new,) = Generator(model)(params, [[1]], max_new_tokens=40, key=KEY)
    assert len(set(new)) > 20


# ---- ends and mistakes --------------------------------------------------------------------------


def test_a_completion_ends_before_the_end_token(model_and_params: Any) -> None:
    model, params = model_and_params
    generator = Generator(model, sampling=GREEDY)
    full = generator(params, PROMPTS, max_new_tokens=12, key=KEY)
    eos_id = full[0][6]
    ended = generator(params, PROMPTS, max_new_tokens=12, key=KEY, eos_id=eos_id)
    for row, cut in zip(full, ended, strict=True):
        assert cut == (row[: row.index(eos_id)] if eos_id in row else row)
    assert eos_id not in ended[0] and len(ended[0]) < 12


def test_the_number_of_new_tokens_is_what_was_asked_for(model_and_params: Any) -> None:
    model, params = model_and_params
    for count in (1, 3):
        completions = Generator(model)(params, PROMPTS, max_new_tokens=count, key=KEY)
        assert [len(row) for row in completions] == [count] * len(PROMPTS)
        assert all(0 <= token < VOCAB_SIZE for row in completions for token in row)


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_a_prompt_without_tokens_is_refused(model_and_params: Any, prompts: Any) -> None:
    model, params = model_and_params
    with pytest.raises(ValueError, match="at least one token; start with the BOS token"):
        Generator(model)(params, prompts, max_new_tokens=1, key=KEY)


def test_no_new_tokens_are_refused(model_and_params: Any) -> None:
    model, params = model_and_params
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        Generator(model)(params, [[1]], max_new_tokens=0, key=KEY)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0."),
        ({"top_k": 0}, "top_k=0 must be at least 1, or None."),
    ],
)
def test_sampling_that_means_nothing_is_refused(fields: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling.default_config().set(**fields).instantiate()
