"""Block sizes of implementations, read from `blocks.json`: measured, data, one entry a platform and length.

    block_sizes("xla_chunked", call)      # {"query": 128, "key": 1024}

The file maps implementation → platform ("*" for the rest) → entries, of which the first whose `max_length` is not
exceeded by max(S, T) applies (the last has none).
"""

from __future__ import annotations

import functools
import importlib.resources
import json

from trellax.kernels import placement
from trellax.kernels.attention.call import AttentionCall


@functools.cache
def _table() -> dict:
    source = importlib.resources.files(__package__).joinpath("blocks.json")
    return json.loads(source.read_text())


def block_sizes(implementation: str, call: AttentionCall) -> dict[str, int]:
    """Returns the block sizes that suit the call on the platform it is traced for."""
    platforms = _table()[implementation]
    entries = platforms.get(placement.platform(), platforms["*"])
    length = max(call.q_BSNH.shape[1], call.k_BTKH.shape[1])
    fits = (entry for entry in entries if length <= entry.get("max_length", length))
    return next(fits)["blocks"]


def dividing_block_sizes(implementation: str, call: AttentionCall, length: int) -> dict[str, int]:
    """Returns the block sizes of a call, reduced to what divides `length`."""
    sizes = block_sizes(implementation, call)
    largest = lambda size: max(d for d in range(1, min(size, length) + 1) if length % d == 0)
    return {name: largest(size) for name, size in sizes.items()}
