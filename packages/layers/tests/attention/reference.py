"""Attention once more, in float64 NumPy and the plainest way, and how tests build and call layers.

Axes: S query sequence, T key sequence, D model, N heads, K kv heads, H head dim. One row at a time.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from trellax.layers.attention import Attention, TokenInfo
from trellax.layers.module import functional

TOLERANCE = {
    "float32": {"rtol": 1e-5, "atol": 1e-5},
    "bfloat16": {"rtol": 3e-2, "atol": 3e-2},
}
"""Of results of order one, against float64 or against another order of the same sums."""


def small_config(**fields: Any) -> Any:
    """Returns the config of a small attention layer: D = 32, N = 4, K = 2, H = 8."""
    return Attention.default_config().set(input_dim=32, num_heads=4, num_kv_heads=2).set(**fields)


def built(cfg: Any, seed: int = 0) -> tuple[Any, Any]:
    """Returns (layer, parameters)."""
    layer = cfg.instantiate(name="attention")
    return layer, layer.init(jax.random.key(seed))


def called(layer: Any, params: Any, x: Any, tokens: TokenInfo, state: Any = None) -> Any:
    """Returns the layer's output, and with a state also the state after the call."""
    y, collection = functional(
        layer, params=params, args=(x, tokens), state=state, is_training=state is None
    )
    return y if state is None else (y, collection.state_updates)


def reference_row(
    params: Any, x_SD: Any, positions_S: Any, *, rotary: Any = None, slopes_N: Any = None, mask: Any
) -> np.ndarray:
    """Self-attention of one row.

    Args:
        params: the layer's parameters.
        x_SD: inputs.
        positions_S: places of the tokens.
        rotary: function of (head, position) that turns a head of H dims; None for no turn.
        slopes_N: ALiBi's slopes; None for no bias.
        mask: function of (query position, key position) to whether the key is read.
    """
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    x_SD = np.asarray(x_SD, np.float64)
    q, k, v = (
        np.einsum("sd,dnh->snh", x_SD, p["projection"][name]["weight"])
        for name in ("query", "key", "value")
    )
    (S, N, H), K = q.shape, k.shape[1]
    context = np.zeros((S, N, H))
    for n in range(N):
        kv = n // (N // K)
        for s in range(S):
            scores = np.full(S, -np.inf)
            for t in range(S):
                if not mask(positions_S[s], positions_S[t]):
                    continue
                query, key = q[s, n], k[t, kv]
                if rotary is not None:
                    query, key = rotary(query, positions_S[s]), rotary(key, positions_S[t])
                scores[t] = query @ key / np.sqrt(H)
                if slopes_N is not None:
                    scores[t] -= slopes_N[n] * (positions_S[s] - positions_S[t])
            weights = np.exp(scores - scores.max())
            context[s, n] = weights / weights.sum() @ v[:, kv]
    return np.einsum("snh,nhd->sd", context, p["output"]["weight"])


def turned(head: np.ndarray, position: int, theta: float = 10_000.0) -> np.ndarray:
    """RoPE as a product of complex numbers: dims r and r + H/2 are one, times e^(i·position·f_r)."""
    R = len(head) // 2
    numbers = (head[:R] + 1j * head[R:]) * np.exp(1j * position * theta ** -(np.arange(R) / R))
    return np.concatenate([numbers.real, numbers.imag])
