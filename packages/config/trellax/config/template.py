"""`Template`: a config that is data in another tree, not a part of it.

    class Config(Configurable.Config):
        new_cfg: Required[Template] = REQUIRED  # .set(new_cfg=MoELayer.default_config())

A modifier that puts MoE layers into a tree carries the MoE layer's config, some of whose required
fields only its future parent can provide. A template is therefore a leaf: traversal, selection and
`finalize` pass it by; it is compared, saved and shown like any other value.
"""

from __future__ import annotations

from typing import Any

from trellax.config.tree import Config
from trellax.config.typecheck import Mismatch


class Template:
    """A config kept as a value. Also an annotation: such a field takes the config itself."""

    __slots__ = ("_cfg",)

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg.clone().freeze()

    @property
    def cfg(self) -> Config:
        """The config, frozen."""
        return self._cfg

    def __deepcopy__(self, memo: object) -> Template:
        return self  # Nothing in it can change.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self._cfg == other._cfg

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Template({self._cfg!r})"

    @classmethod
    def _conform(cls, value: Any, suffix: str) -> Template:
        if isinstance(value, Config):
            return cls(value)
        if not isinstance(value, cls):
            hint = ""
            if isinstance(value, type) and hasattr(value, "default_config"):
                hint = f" Write {value.__qualname__}.default_config()."
            raise Mismatch(suffix, value, "a config", hint)
        return value
