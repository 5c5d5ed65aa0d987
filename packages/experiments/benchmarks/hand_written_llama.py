"""A Llama and its train step in plain JAX and optax: what one writes by hand for one model and one machine.

    step_fn = jax.jit(make_train_step(shape, recipe), donate_argnums=(0, 1))
    params, optimizer_state, metrics = step_fn(params, optimizer_state, batch)

The yardstick of `train_step.py`, so it is written to be fast: parameters stacked over layers, one scan, the
mask and the rotary tables computed once a step, nothing that this model does not need (no guard against
non-finite gradients, no shardings, no accumulation).

Axes: B batch, S query sequence, T key sequence, D model, N heads, K kv heads, H head dim, F feed-forward,
L layers, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LlamaShape:
    """What the parameters' shapes do not tell."""

    theta: float = 10_000.0
    eps: float = 1e-5
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Clipped AdamW with linear warm-up and a cosine."""

    peak: float
    warmup_steps: int
    total_steps: int
    final_fraction: float
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    max_grad_norm: float


# ---- the model ------------------------------------------------------------------------------------


def loss_fn(params: Params, batch: dict[str, jax.Array], shape: LlamaShape) -> jax.Array:
    """Returns the mean cross-entropy over targets; target -1 is none, segment 0 is padding."""
    x_BSD = params["embed_VD"][batch["input_ids"]]
    segments_BS = batch["segment_ids"]
    length = segments_BS.shape[1]
    causal_ST = jnp.tril(jnp.ones((length, length), jnp.bool_))
    mask_BST = (segments_BS[:, :, None] == segments_BS[:, None, :]) & causal_ST
    head_dim = params["layers"]["query_DNH"].shape[-1]
    turn = rotary_tables(batch["positions"], head_dim, shape.theta)

    def block(x_BSD: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        y_BSD = rms_norm(x_BSD, layer["attention_norm_D"], shape.eps)
        x_BSD = x_BSD + attention(y_BSD, layer, mask_BST[:, None], turn)
        y_BSD = rms_norm(x_BSD, layer["mlp_norm_D"], shape.eps)
        return x_BSD + swiglu(y_BSD, layer), None

    body = jax.checkpoint(block, prevent_cse=False) if shape.remat else block
    x_BSD, _ = jax.lax.scan(body, x_BSD, params["layers"])
    x_BSD = rms_norm(x_BSD, params["norm_D"], shape.eps)
    return cross_entropy(x_BSD @ params["head_DV"], batch["target_ids"])


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def rotary_tables(positions_BS: jax.Array, head_dim: int, theta: float) -> tuple[Any, Any]:
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions_BS[:, :, None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BSNH: jax.Array, turn: tuple[Any, Any]) -> jax.Array:
    cos, sin = turn
    a, b = jnp.split(x_BSNH, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(x_BSD: jax.Array, layer: Params, mask: jax.Array, turn: tuple[Any, Any]) -> Any:
    q_BSNH = rotate(jnp.einsum("BSD,DNH->BSNH", x_BSD, layer["query_DNH"]), turn)
    k_BSKH = rotate(jnp.einsum("BSD,DKH->BSKH", x_BSD, layer["key_DKH"]), turn)
    v_BSKH = jnp.einsum("BSD,DKH->BSKH", x_BSD, layer["value_DKH"])
    y_BSNH = jax.nn.dot_product_attention(q_BSNH, k_BSKH, v_BSKH, mask=mask)
    return jnp.einsum("BSNH,NHD->BSD", y_BSNH, layer["output_NHD"])


def swiglu(x_BSD: jax.Array, layer: Params) -> jax.Array:
    return (jax.nn.silu(x_BSD @ layer["gate_DF"]) * (x_BSD @ layer["up_DF"])) @ layer["down_FD"]


def cross_entropy(logits_BSV: jax.Array, targets_BS: jax.Array) -> jax.Array:
    losses_BS = optax.softmax_cross_entropy_with_integer_labels(
        logits_BSV, jnp.maximum(targets_BS, 0)
    )
    is_target_BS = targets_BS >= 0
    return jnp.sum(losses_BS * is_target_BS) / jnp.maximum(is_target_BS.sum(), 1)


# ---- the step -------------------------------------------------------------------------------------


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Norms are not decayed."""
    cosine_steps = max(recipe.total_steps - recipe.warmup_steps, 1)
    cosine = optax.cosine_decay_schedule(recipe.peak, cosine_steps, recipe.final_fraction)

    def schedule(step: jax.Array) -> jax.Array:
        warmup = jnp.minimum((step + 1) / max(recipe.warmup_steps, 1), 1.0)
        return warmup * cosine(jnp.maximum(step - recipe.warmup_steps, 0))

    def is_decayed(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: "norm" not in path[-1].key, params)

    return optax.chain(
        optax.clip_by_global_norm(recipe.max_grad_norm),
        optax.adamw(
            schedule,
            recipe.beta1,
            recipe.beta2,
            recipe.epsilon,
            weight_decay=recipe.weight_decay,
            mask=is_decayed,
        ),
    )


def make_train_step(shape: LlamaShape, recipe: Recipe) -> Callable[..., Any]:
    """Returns `step(params, optimizer_state, batch) -> (params, optimizer_state, metrics)`."""
    optimizer = make_optimizer(recipe)

    def train_step(params: Params, optimizer_state: Any, batch: dict[str, jax.Array]) -> Any:
        loss, grads = jax.value_and_grad(loss_fn)(params, batch, shape)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return optax.apply_updates(params, updates), optimizer_state, metrics

    return train_step
