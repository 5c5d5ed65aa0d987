"""A run of nothing but saves, to be killed: `saving_process.py FOLDER`.

It prints "restored N", then "begun N" when the save of step N has returned, and "committed N".
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np

from trellax.runtime.checkpoint import Checkpointer


def state_at(step: int) -> dict[str, Any]:
    """The state after `step` steps, known without the ones before."""
    rng = np.random.default_rng(step)
    return {
        "params": {f"w{i}": jnp.array(rng.standard_normal((64, 64), np.float32)) for i in range(8)},
        "step": jnp.int32(step),
    }


def say(word: str, step: int) -> None:
    print(word, step, flush=True)


def main(folder: str) -> None:
    cfg = Checkpointer.default_config().set(save_every_steps=1, keep_last=1)
    checkpointer = cfg.instantiate(directory=folder)
    step, state = checkpointer.restore(state_at(0)) or (0, state_at(0))
    for name, expected in state_at(step)["params"].items():
        np.testing.assert_array_equal(state["params"][name], expected)
    assert int(state["step"]) == step
    say("restored", step)
    for later in itertools.count(step + 1):
        say("begun", later)
        checkpointer.save(later, state_at(later))
        say("committed", later - 1)  # `save` waits for the save before.


if __name__ == "__main__":
    main(sys.argv[1])
