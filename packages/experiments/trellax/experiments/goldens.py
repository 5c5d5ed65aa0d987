"""Golden texts of an experiment: what a reviewer sees when its config, parameters or placement change.

./pants run packages/experiments/tests/refresh_goldens.py
"""

from __future__ import annotations

import re
from typing import Any

import jax

from trellax.config import finalize, format_diff, format_path, to_python, to_text
from trellax.experiments.registry import get_experiment
from trellax.experiments.resolve import Resolved, resolve
from trellax.experiments.shardings import shardings_of, shardings_text
from trellax.layers import count_parameters, is_spec
from trellax.parallel import MeshRule, hardware_named

GOLDEN_HARDWARE = (
    "tpu-v4-1024",
    "tpu-v5e-256-4",
    "tpu-v5p-512",
    "tpu-v6e-256",
    "tpu-7x-256",
    "gpu-a100-256",
    "gpu-h100-256",
    "gpu-h200-256",
    "gpu-b200-256",
    "trn2-64",
    "cpu",
)
"""One of each chip."""


def golden_texts(name: str) -> dict[str, str]:
    """Returns {file suffix: text} of an experiment: its config, parameters, and their placement on each hardware."""
    cfg = get_experiment(name)
    rules = "\n".join(map(rule_text, cfg.mesh_rules))
    return {
        "config.txt": f"{to_text(cfg.clone(mesh_rules=()))}\n{rules}\n",
        "parameters.txt": parameter_text(cfg.model),
        "shardings.txt": "\n".join(
            placement_text(resolve(name, hardware=hardware_named(hardware)))
            for hardware in GOLDEN_HARDWARE
        ),
    }


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


def rule_text(rule: MeshRule) -> str:
    """Returns a mesh rule as Python in one line: what it sets, without defaults."""
    _, _, expression = to_python(rule).partition("cfg = ")
    expression, _, _ = expression.rpartition("return cfg")
    return re.sub(r"(?<=[(\[{]) | (?=[)\]}])", "", " ".join(expression.split()))


def placement_text(resolved: Resolved) -> str:
    """Returns what an experiment becomes on some hardware: the rule, its changes, and where arrays lie."""
    shardings = shardings_of(resolved.cfg, num_devices=resolved.hardware.num_devices)
    return (
        f"== {resolved.hardware_text}, rule {resolved.rule_text}\n"
        f"{format_diff(resolved.rule_changes)}\n{shardings_text(shardings)}\n"
    )
