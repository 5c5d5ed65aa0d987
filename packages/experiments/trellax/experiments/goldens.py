"""Golden texts of an experiment: what a reviewer sees when its config or parameters change.

./pants run packages/experiments/tests/refresh_goldens.py
"""

from __future__ import annotations

from typing import Any

import jax

from trellax.config import finalize, format_path, to_text
from trellax.experiments.registry import get_experiment
from trellax.layers import count_parameters, is_spec


def golden_texts(name: str) -> dict[str, str]:
    """Returns {file suffix: text} of an experiment: its config, and its parameters."""
    cfg = get_experiment(name)
    return {"config.txt": to_text(cfg), "parameters.txt": parameter_text(cfg.model)}


def parameter_text(model_cfg: Any) -> str:
    """Returns one line a parameter: path, shape, dtype, logical axes; and their number."""
    specs = finalize(model_cfg).instantiate().all_parameter_specs()
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec)
    lines = [
        f"{format_path([key.key for key in path])}: {spec.dtype}{list(spec.shape)} "
        f"({', '.join(str(axis) for axis in spec.logical_axes)})"
        for path, spec in leaves
    ]
    return "\n".join([*lines, f"total: {count_parameters(specs):,}"]) + "\n"
