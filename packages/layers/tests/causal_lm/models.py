"""Small language models for tests, and a Llama in plain JAX that they must equal.

Axes: B batch, S sequence, D model, N heads, H head dim, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from trellax.layers.attention import RotaryPositions
from trellax.layers.causal_lm import CausalLM
from trellax.layers.stack import ScannedStack
from trellax.layers.transformer import TransformerLayer

B, S, D, N, F, V, L = 2, 12, 16, 2, 24, 40, 2


def small_config(stack: Any = ScannedStack, **fields: Any) -> Any:
    """Returns a Llama-like model: RoPE, RMSNorm, SwiGLU; `fields` are of its decoder."""
    layer = TransformerLayer.default_config()
    layer.attention.set(num_heads=N, positions=RotaryPositions.default_config())
    layer.feed_forward.set(hidden_dim=F)
    layers = stack.default_config().set(layer=layer, num_layers=L)
    cfg = CausalLM.default_config()
    cfg.decoder.set(vocab_size=V, dim=D, stack=layers).set(**fields)
    return cfg


def small_batch(seed: int = 3) -> dict[str, jax.Array]:
    """Returns tokens, and the next token as the target of each but the last of a row."""
    ids_BS = jax.random.randint(jax.random.key(seed), (B, S), 0, V)
    return {"input_ids": ids_BS, "target_ids": jnp.roll(ids_BS, -1, axis=1).at[:, -1].set(-1)}


def plain_logits(params: Any, ids_BS: jax.Array) -> jax.Array:
    """Returns a Llama's logits, written out (Touvron et al. 2023, arXiv:2307.09288)."""
    params = params["decoder"]
    x = params["embedding"]["weight"][ids_BS]
    for i in range(L):
        w = jax.tree.map(lambda p, i=i: p[i], params["stack"]["layer"])
        x += _attention(w["attention"], _rms(x, w["attention_norm"]))
        h, f = _rms(x, w["feed_forward_norm"]), w["feed_forward"]
        gated = jax.nn.silu(h @ f["gate"]["weight"]) * (h @ f["up"]["weight"])
        x += gated @ f["down"]["weight"]
    return _rms(x, params["output_norm"]) @ params["lm_head"]["weight"]


def plain_losses(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Returns each position's cross-entropy, 0 without a target, and its log-normaliser."""
    logits, targets = plain_logits(params, batch["input_ids"]), batch["target_ids"]
    lse = jax.nn.logsumexp(logits, axis=-1)
    at_target = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
    return jnp.where(targets < 0, 0.0, lse - at_target), lse


def _rms(x: jax.Array, p: Any) -> jax.Array:
    return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * p["scale"]


def _attention(p: Any, x: jax.Array) -> jax.Array:
    q, k, v = (
        jnp.einsum("bsd,dnh->bnsh", x, p["projection"][name]["weight"])
        for name in ("query", "key", "value")
    )
    scores = _rope(q) @ _rope(k).mT / jnp.sqrt(q.shape[-1])
    probs = jax.nn.softmax(jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -jnp.inf))
    return jnp.einsum("bnsh,nhd->bsd", probs @ v, p["output"]["weight"])


def _rope(x: jax.Array) -> jax.Array:
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[-2])[:, None] * 10_000.0 ** (-jnp.arange(half) / half)
    first, second, cos, sin = x[..., :half], x[..., half:], jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
