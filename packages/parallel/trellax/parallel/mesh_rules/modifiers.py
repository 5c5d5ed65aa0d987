"""Changes of a trainer's config that hardware asks for, as data that a mesh rule can carry.

    MeshRule(pattern="tpu-v5e-.*", modifiers=(
        RematModifier.Config(target="TransformerLayer", policy=save_names("q_proj")),
        AccumulationModifier.Config(steps=4),
    ))

They work on the tree by names of fields and components and import no layer: the root has
`mesh_shape`, `axis_rules`, `compute_dtype` and `accumulation_steps`, a layer has `remat`.
"""

from __future__ import annotations

import re
from typing import Any

from trellax.config import (
    REQUIRED,
    Config,
    ConfigModifier,
    DType,
    NoMatchError,
    Required,
    component_of,
    nodes,
    select,
)
from trellax.parallel.mesh import MeshShape
from trellax.parallel.remat import RematPolicy

_CLASS_NAME = re.compile(r"[A-Z]\w*")  # Names of fields begin in lower case.


class MeshShapeModifier(ConfigModifier):
    """Arranges the devices differently."""

    class Config(ConfigModifier.Config):
        """The root's `mesh_shape`."""

        mesh_shape: Required[MeshShape] = REQUIRED

    def apply(self, cfg: Any) -> None:
        cfg.mesh_shape = self.cfg.mesh_shape


class AxisRulesModifier(ConfigModifier):
    """Maps some logical axes differently, or new ones; the other rules stay."""

    class Config(ConfigModifier.Config):
        """What is merged into the root's `axis_rules`."""

        rules: Required[dict[str, str | tuple[str, ...] | None]] = REQUIRED

    def apply(self, cfg: Any) -> None:
        cfg.axis_rules = cfg.axis_rules.override(**self.cfg.rules)


class AccumulationModifier(ConfigModifier):
    """Splits each batch into microbatches whose gradients are summed: less memory, same result."""

    class Config(ConfigModifier.Config):
        """The root's `accumulation_steps`."""

        steps: Required[int] = REQUIRED

        def check(self) -> None:
            if self.steps < 1:
                raise ValueError(f"steps={self.steps} must be at least 1.")

    def apply(self, cfg: Any) -> None:
        cfg.accumulation_steps = self.cfg.steps


class DTypeModifier(ConfigModifier):
    """Computes in another type; parameters keep theirs."""

    class Config(ConfigModifier.Config):
        """The root's `compute_dtype`."""

        compute_dtype: Required[DType] = REQUIRED

    def apply(self, cfg: Any) -> None:
        cfg.compute_dtype = self.cfg.compute_dtype


class RematModifier(ConfigModifier):
    """Sets the remat policy of some layers."""

    class Config(ConfigModifier.Config):
        """
        Fields:
            target: which layers: the name of a component's class, subclasses included
                ("TransformerLayer"), or a path glob ("model.decoder.**.layer").
            policy: what they keep; None keeps everything.
        """

        target: Required[str] = REQUIRED
        policy: Required[RematPolicy.Config | None] = REQUIRED

    def apply(self, cfg: Any) -> None:
        found = [node for node in _targets(cfg, self.cfg.target) if "remat" in node]
        if not found:
            known = sorted({_class_names(node)[0] for _, node in nodes(cfg) if "remat" in node})
            raise NoMatchError(
                f"RematModifier: no layer with a `remat` field is a {self.cfg.target!r}, "
                f"by class or by path. Such layers: {', '.join(known) or 'none'}."
            )
        for node in found:
            node.set(remat=self.cfg.policy)


def _targets(cfg: Config, target: str) -> list[Config]:
    if _CLASS_NAME.fullmatch(target):
        return [node for _, node in nodes(cfg) if target in _class_names(node)]
    return [node for _, node in select(cfg, target)]


def _class_names(node: Config) -> list[str]:
    component = component_of(node)
    return [cls.__name__ for cls in getattr(component, "__mro__", [type(node)])]
