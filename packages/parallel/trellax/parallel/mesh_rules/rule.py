"""Mesh rules: what an experiment changes on which hardware, as data that rides in its config.

rule = select_mesh_rule(trainer_cfg.mesh_rules, detect_hardware().name)
trainer_cfg, changes = apply_mesh_rule(trainer_cfg, rule)
print(format_diff(changes))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from trellax.config import (
    REQUIRED,
    ChainModifier,
    Change,
    Config,
    InstantiableConfig,
    NoMatchError,
    Required,
    SetModifier,
    diff,
)
from trellax.parallel.mesh import MeshShape
from trellax.parallel.sharding import LogicalAxisRules

C = TypeVar("C", bound=Config)


class MeshRule(Config):
    """
    Fields:
        pattern: a regular expression that the whole name of the hardware must match.
        mesh_shape: how the devices are arranged; None leaves the experiment's.
        axis_rules: which mesh axes split each logical axis; None leaves the experiment's.
        modifiers: further changes, in order; two that change one place are an error.
        description: why, in a line for the user.
    """

    pattern: Required[str] = REQUIRED
    mesh_shape: MeshShape | None = None
    axis_rules: LogicalAxisRules | None = None
    modifiers: tuple[InstantiableConfig, ...] = ()
    description: str = ""

    def check(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as e:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {e}.") from e

    def matches(self, hardware_name: str) -> bool:
        """Whether the rule is for hardware of this name."""
        return re.fullmatch(self.pattern, hardware_name) is not None


def select_mesh_rule(rules: Sequence[MeshRule], hardware_name: str) -> MeshRule:
    """Returns the first rule that matches, so order them from special to general.

    Raises:
        NoMatchError: listing the patterns, if none does.
    """
    for rule in rules:
        rule.check()  # Rules are selected before the tree is finalized.
        if rule.matches(hardware_name):
            return rule
    patterns = "".join(f"\n  {rule.pattern}" for rule in rules) or " none."
    raise NoMatchError(
        f"No mesh rule matches hardware {hardware_name!r}; add one to the experiment's mesh_rules "
        f"(pattern '.*' matches anything). Patterns:{patterns}"
    )


def apply_mesh_rule(cfg: C, rule: MeshRule) -> tuple[C, list[Change]]:
    """Returns a copy of a trainer's config as the rule wants it, and what the rule changed.

    Args:
        cfg: the root of a tree, with `mesh_shape` and `axis_rules`; stays as it is.
        rule: what to change.

    Returns:
        The changed copy, and its differences from `cfg`, field by field.

    Raises:
        ConfigConflictError: if two modifiers, or the rule and a modifier, change one place.
        UnknownFieldError: if the tree has no such field.
    """
    own = {"mesh_shape": rule.mesh_shape, "axis_rules": rule.axis_rules}
    settings = {name: value for name, value in own.items() if value is not None}
    modifiers = [SetModifier.default_config().set(values=settings), *rule.modifiers]
    chain = ChainModifier.default_config().set(modifiers=modifiers)
    changed = chain.instantiate()(cfg)
    return changed, diff(cfg, changed)
