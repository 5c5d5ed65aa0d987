"""Agreement between the processes of one run, which all restore the same step.

step = same_everywhere(step)  # the first process decides
"""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process is the one that names, marks and removes steps."""
    return jax.process_index() == 0


def same_everywhere(value: int) -> int:
    """Returns the first process's `value` on every process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def true_everywhere(value: bool) -> bool:
    """Returns whether `value` holds on all processes."""
    if jax.process_count() == 1:
        return value
    return bool(np.all(multihost_utils.process_allgather(np.int32(value))))
