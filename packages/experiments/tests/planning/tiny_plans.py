"""The command line's plans of a model that compiles in seconds.

if HAS_LIBTPU:
    (plan,) = planned("--hardware=tpu-v5e-4")
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from typing import Any

import pytest

from trellax.experiments.cli import run
from trellax.experiments.resolve import Resolved, resolve
from trellax.parallel import hardware_named

NAME = "llama3_8b"
ROWS, LENGTH, DIM, VOCAB, HIDDEN, LAYERS = 16, 128, 128, 512, 256, 2
HEADS, KV_HEADS, HEAD_DIM = 2, 1, 64
TINY = (
    f"input.global_batch_size={ROWS}",
    f"input.sequence_length={LENGTH}",
    f"model.decoder.dim={DIM}",
    f"model.decoder.vocab_size={VOCAB}",
    f"model.decoder.stack.num_layers={LAYERS}",
    f"model.**.num_heads={HEADS}",
    f"model.**.num_kv_heads={KV_HEADS}",
    f"model.**.hidden_dim={HIDDEN}",
    "accumulation_steps=1",
)
NUM_PARAMETERS = (
    2 * VOCAB * DIM
    + DIM
    + LAYERS * (2 * DIM + DIM * HEAD_DIM * (2 * HEADS + 2 * KV_HEADS) + 3 * DIM * HIDDEN)
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed: pip install "jax[tpu]"',
)


def output_of(verb: str, *argv: str) -> tuple[int, str]:
    """Runs a verb on the tiny model and returns its exit code and output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run([verb, NAME, *TINY, *argv])
    return code, printed.getvalue()


def planned(*argv: str) -> list[dict[str, Any]]:
    """Returns the plans as `--json` prints them."""
    code, text = output_of("plan", "--json", *argv)
    assert code in (0, 3)
    return list(json.loads(text))


def tiny_resolved(hardware: str, *overrides: str) -> Resolved:
    """Returns the tiny model's config for some hardware."""
    return resolve(NAME, hardware=hardware_named(hardware), overrides=(*TINY, *overrides))
