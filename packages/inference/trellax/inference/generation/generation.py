"""Autoregressive generation with the training modules themselves.

    generator = Generator(model, sampling=Sampling.default_config())
    completions = generator(params, [[1, 2, 3]], max_new_tokens=32, key=jax.random.key(0))

Prompts of different lengths are padded on the right; the padding (segment 0) is neither attended to
nor cached, so a row's result does not depend on its neighbours. Axes: B prompts, S tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trellax.config import Configurable
from trellax.layers import BaseLayer, TokenInfo, functional, with_updates

Tree = dict[str, Any]


class Sampling(Configurable):
    """How the next token is drawn from the logits."""

    class Config(Configurable.Config):
        """
        Fields:
            temperature: logits are divided by it; 0 takes the most likely token.
            top_k: draw from the k most likely tokens only; None: from all.
        """

        temperature: float = 1.0
        top_k: int | None = None

        def check(self) -> None:
            if self.temperature < 0:
                raise ValueError(f"temperature={self.temperature} must be at least 0.")
            if self.top_k is not None and self.top_k < 1:
                raise ValueError(f"top_k={self.top_k} must be at least 1, or None.")

    def __call__(self, logits_BV: Float[Array, "B V"], key: jax.Array) -> Int[Array, " B"]:
        """Returns one int32 token a row."""
        if self.cfg.temperature == 0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        logits_BV = logits_BV.astype(jnp.float32) / self.cfg.temperature
        if self.cfg.top_k is not None:
            least = jax.lax.top_k(logits_BV, min(self.cfg.top_k, logits_BV.shape[-1]))[0][:, -1:]
            logits_BV = jnp.where(logits_BV < least, -jnp.inf, logits_BV)
        return jax.random.categorical(key, logits_BV).astype(jnp.int32)


class Generator:
    """Continues prompts with a model; compiles once for each shape of prompts."""

    def __init__(self, model: BaseLayer, *, sampling: Sampling.Config | None = None):
        """
        Args:
            model: has `logits(input_ids_BS, tokens) -> [B, S, V]`.
            sampling: how tokens are drawn.
        """
        self._model = model
        self._sampling = (sampling or Sampling.default_config()).instantiate()
        self._run = jax.jit(self._prefill_and_decode, static_argnums=(4, 5))

    def __call__(
        self,
        params: Tree,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        key: jax.Array,
        eos_id: int | None = None,
    ) -> list[list[int]]:
        """Returns the new tokens of each prompt, up to and without `eos_id`.

        Args:
            params: the model's parameters.
            prompts: token ids, at least one a prompt.
            max_new_tokens: how many tokens to draw for each.
            key: of the draws.
            eos_id: ends a completion.

        Raises:
            ValueError: if a prompt is empty, or no tokens are asked for.
        """
        if not prompts or any(not p for p in prompts):
            raise ValueError("Every prompt needs at least one token; start with the BOS token.")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1.")
        lengths = np.asarray([len(p) for p in prompts], np.int32)
        ids = np.zeros((len(prompts), int(lengths.max())), np.int32)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = prompt
        max_length = ids.shape[1] + max_new_tokens
        drawn = jax.device_get(self._run(params, ids, lengths, key, max_new_tokens, max_length))
        return [_until(row.tolist(), eos_id) for row in drawn]

    def _prefill_and_decode(
        self, params: Tree, ids_BS: Any, lengths_B: Any, key: Any, num_new: int, max_length: int
    ) -> Int[Array, "B new"]:
        batch_size, length = ids_BS.shape
        state = self._model.init_state(batch_size=batch_size, max_length=max_length)
        positions_BS = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), ids_BS.shape)
        is_token_BS = positions_BS < lengths_B[:, None]
        tokens = TokenInfo(positions_BS, is_token_BS.astype(jnp.int32))
        logits_BSV, state = self._logits(params, state, ids_BS, tokens)
        last_BV = jnp.take_along_axis(logits_BSV, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        first_key, key = jax.random.split(key)
        first_B = self._sampling(last_BV, first_key)

        def decode(carry: Any, step_key: Any) -> tuple[Any, Any]:
            state, token_B, position_B = carry
            tokens = TokenInfo.contiguous(batch_size, 1, start=position_B)
            logits_B1V, state = self._logits(params, state, token_B[:, None], tokens)
            next_B = self._sampling(logits_B1V[:, 0], step_key)
            return (state, next_B, position_B + 1), next_B

        keys = jax.random.split(key, max(num_new - 1, 0))
        _, rest = jax.lax.scan(decode, (state, first_B, lengths_B), keys)
        return jnp.concatenate([first_B[:, None], rest.T.reshape(batch_size, -1)], axis=1)

    def _logits(self, params: Tree, state: Tree, ids_BS: Any, tokens: TokenInfo) -> Any:
        logits_BSV, collection = functional(
            self._model,
            params=params,
            args=(ids_BS, tokens),
            state=state,
            is_training=False,
            method="logits",
        )
        return logits_BSV, with_updates(state, collection.state_updates)


def _until(ids: list[int], eos_id: int | None) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
