"""From a name to the config that runs here: recipe, hardware, mesh rule, the user's changes.

    resolved = resolve("llama2_7b_tpu", hardware=detect_hardware(), overrides=["seed=3"])

The order is fixed: the rule of the hardware changes the recipe, and the user has the last word.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from trellax.config import Change, apply_overrides, diff, path_is_within
from trellax.experiments.registry import get_experiment, recipe_summary
from trellax.parallel import Hardware, MeshRule, apply_mesh_rule, select_mesh_rule
from trellax.runtime.input import use_text


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A config, not finalized, and how it came about.

    Attributes:
        name: of the experiment.
        cfg: the trainer config.
        summary: one line about the experiment.
        hardware: what it is resolved for.
        rule: the mesh rule that matched.
        rule_changes: what the rule changed in the recipe.
        user_changes: what flags and overrides changed after that.
    """

    name: str
    cfg: Any
    summary: str
    hardware: Hardware
    rule: MeshRule
    rule_changes: list[Change]
    user_changes: list[Change]

    @property
    def is_rehearsal(self) -> bool:
        return self.hardware.platform == "cpu" and bool(self.rule_changes)

    @property
    def title(self) -> str:
        return "Rehearsal" if self.is_rehearsal else "Training"

    @property
    def hardware_text(self) -> str:
        count = self.hardware.num_devices
        return f"{self.hardware.name} ({count} device{'s' if count != 1 else ''})"

    @property
    def rule_text(self) -> str:
        return f"{self.rule.pattern!r}: {self.rule.description}"


def resolve(
    name: str,
    *,
    hardware: Hardware,
    overrides: Sequence[str] = (),
    steps: int | None = None,
    seed: int | None = None,
    text: Sequence[str] = (),
) -> Resolved:
    """Returns the experiment's config for `hardware`, with the user's changes.

    Raises:
        UnknownExperimentError, ConfigError, InputError: and nothing was written.
    """
    recipe = get_experiment(name)
    rule = select_mesh_rule(recipe.mesh_rules, hardware.name)
    ruled, rule_changes = apply_mesh_rule(recipe, rule)
    cfg = ruled.clone()
    if text:
        use_text(cfg, [os.path.abspath(path) for path in text])  # Resuming may start elsewhere.
    if steps is not None:
        cfg.set(max_steps=steps)
    if seed is not None:
        cfg.set(seed=seed)
    apply_overrides(cfg, overrides)
    return Resolved(
        name=name,
        cfg=cfg,
        summary=recipe_summary(name),
        hardware=hardware,
        rule=rule,
        rule_changes=outermost(rule_changes),
        user_changes=outermost(diff(ruled, cfg)),
    )


def outermost(changes: Sequence[Change]) -> list[Change]:
    """Drops the changes inside a node that was replaced by another kind: the replacement says it."""
    kept: list[Change] = []
    for change in changes:
        last = kept[-1] if kept else None
        if not (last and last.kind != "changed" and path_is_within(change.path, last.path)):
            kept.append(change)
    return kept
