"""Values of GGUF's tensor types, block by block, as float32.

    dequantized(raw_bytes, "Q4_1")  # float32, flat

A quantized tensor is a row of blocks of equal size, each with its own scales. `w` is a weight, `q` the small integer
that is stored for it. Formats: ggml's documentation of its block structures.

Axes: X blocks, Q weights of a block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np


@dataclasses.dataclass(frozen=True)
class BlockType:
    """How a tensor type stores weights.

    Attributes:
        num_weights: of a block.
        num_bytes: of a block.
        values: from bytes [X, num_bytes] to float32 [X, num_weights].
    """

    num_weights: int
    num_bytes: int
    values: Callable[[np.ndarray], np.ndarray]


def dequantized(raw: np.ndarray, name: str) -> np.ndarray:
    """Returns the weights, float32, flat.

    Args:
        raw: bytes of whole blocks, flat.
        name: of `BLOCK_TYPES`.
    """
    block = BLOCK_TYPES[name]
    return block.values(raw.reshape(-1, block.num_bytes)).reshape(-1)


def _halves(blocks_XB: np.ndarray, start: int) -> np.ndarray:
    """Returns the float16 at a byte of each block, as float32 [X, 1]."""
    two = np.ascontiguousarray(blocks_XB[:, start : start + 2])
    return two.view(np.float16).astype(np.float32)


def _stored_as(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda blocks: np.ascontiguousarray(blocks).view(dtype).astype(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """w = d · q, q of 8 bits."""
    return blocks[:, 2:].view(np.int8) * _halves(blocks, 0)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    """w = d · (q - 8), q of 4 bits."""
    w = _nibbles(blocks[:, 2:])
    w -= 8.0
    w *= _halves(blocks, 0)
    return w


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """w = d · q + m, q of 4 bits."""
    w = _nibbles(blocks[:, 4:])
    w *= _halves(blocks, 0)
    w += _halves(blocks, 2)
    return w


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """Returns the low halves of some bytes, then the high halves, float32."""
    half = packed.shape[-1]
    w = np.empty((*packed.shape[:-1], 2 * half), np.float32)
    w[..., :half] = packed & 15
    w[..., half:] = packed >> 4
    return w


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    """w = (d · s) · q - (d_min · m): 8 groups of 32, s and m of 6 bits a group, q of 4 bits.

    Of the 12 bytes of scales the first 4 hold s of groups 0 to 3 in their low 6 bits, the next 4 hold m of these; the
    last 4 hold the low 4 bits of s and m of groups 4 to 7, whose upper 2 are the top bits of the first 8 bytes.
    """
    X = len(blocks)
    low_s, low_m, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale = np.concatenate([low_s & 63, (rest & 15) | (low_s >> 6 << 4)], axis=1)
    minimum = np.concatenate([low_m & 63, (rest >> 4) | (low_m >> 6 << 4)], axis=1)
    w = _nibbles(blocks[:, 16:].reshape(X, 4, 32)).reshape(X, 8, 32)
    w *= (_halves(blocks, 0) * scale.astype(np.float32))[..., None]
    w -= (_halves(blocks, 2) * minimum.astype(np.float32))[..., None]
    return w.reshape(X, 256)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """w = (d · s) · (q - 32): 16 groups of 16, s of 8 bits a group, q of 6 bits.

    In each half of a block 64 bytes hold the low 4 bits of 128 weights, 32 bytes their upper 2: those of weight
    32 j + i are bits 2 j and 2 j + 1 of byte i.
    """
    X = len(blocks)
    low = _nibbles(blocks[:, :128].reshape(X, 2, 64)).astype(np.uint8)
    high = blocks[:, 128:192].reshape(X, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    q = low | (high.reshape(X, 2, 128) & 3) << 4
    w = q.astype(np.float32)
    w -= 32.0
    scale = blocks[:, 192:208].view(np.int8).astype(np.float32) * _halves(blocks, 208)
    w = w.reshape(X, 16, 16)
    w *= scale[..., None]
    return w.reshape(X, 256)


BLOCK_TYPES = {
    "F32": BlockType(1, 4, _stored_as(np.float32)),
    "F16": BlockType(1, 2, _stored_as(np.float16)),
    "BF16": BlockType(1, 2, _stored_as(ml_dtypes.bfloat16)),
    "Q8_0": BlockType(32, 34, _q8_0),
    "Q4_0": BlockType(32, 18, _q4_0),
    "Q4_1": BlockType(32, 20, _q4_1),
    "Q4_K": BlockType(256, 144, _q4_k),
    "Q6_K": BlockType(256, 210, _q6_k),
}
"""The types that can be read."""
