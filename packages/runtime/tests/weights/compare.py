"""How far logits are from those of transformers, for a folder that `goldens/make_goldens.py` made.

    python -m tests.weights.compare FOLDER …        # in packages/runtime; exits with 1 if a model is too far off

Axes: B batch, S query sequence.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trellax.config import replace_config
from trellax.layers import ScannedStack, TokenInfo, functional
from trellax.runtime.weights import open_pretrained

LARGEST_RELATIVE_ERROR = 2e-5


def error_of(path: Path, golden: Path, stack: Any = ScannedStack) -> float:
    """Returns the largest difference of logits, relative to the largest logit."""
    pretrained = open_pretrained(path)
    cfg = pretrained.model_config()
    if stack is not ScannedStack:
        replace_config(cfg, target=ScannedStack, new_cfg=stack.default_config())
    model = cfg.instantiate(name="root")
    expected = np.load(golden / "logits.npz")

    @jax.jit
    def logits(params: Any, ids_BS: Any) -> Any:
        args = (ids_BS, TokenInfo())
        return functional(model, params=params, args=args, is_training=False, method="logits")[0]

    with jax.default_matmul_precision("highest"):
        found = logits(pretrained.read(model), jnp.asarray(expected["input_ids"]))
    return float(np.abs(found - expected["logits"]).max() / np.abs(expected["logits"]).max())


def main() -> None:
    errors = {Path(folder).name: error_of(Path(folder), Path(folder)) for folder in sys.argv[1:]}
    for name, error in errors.items():
        print(f"{name}: largest relative error {error:.1e}")
    sys.exit(any(error > LARGEST_RELATIVE_ERROR for error in errors.values()))


if __name__ == "__main__":
    main()
