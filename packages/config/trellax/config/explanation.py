"""Where a value comes from: `print(explain(cfg, "model.decoder.dim"))`.

    model.decoder.dim = 64
      type     int, required
      default  REQUIRED
      set      override on the command line, model.decoder.dim=64
      in       trellax.layers:Decoder: A stack of transformer layers.

A field's last setting is a line of code, an override, a parent that provided it, or a modifier.
"""

from __future__ import annotations

import typing
from typing import Any

from trellax.config import paths
from trellax.config.component import component_of
from trellax.config.defaults import baseline, below
from trellax.config.fields import REQUIRED
from trellax.config.text import class_label, label, opened
from trellax.config.tree import Config
from trellax.config.typecheck import describe


def explain(cfg: Config, path: str) -> str:
    """Returns what a field or node is: value, type, default, where it was last set, its class.

    Raises:
        UnknownFieldError: if there is nothing at `path`, with near names.
    """
    value = cfg.at(path)
    steps = [step for step, _ in cfg._walk(paths.parse(path))]
    lines = [f"{path or '(root)'} = {label(value)}"]
    if steps:
        lines += _field_lines(cfg, steps)
    if isinstance(value, Config):
        lines.append(f"  class    {_described(value)}")
    return "\n".join(lines)


def _field_lines(cfg: Config, steps: list[paths.Step]) -> list[str]:
    owner, name, default = cfg, "", _Defaults(cfg)
    inner: list[paths.Step] = []
    for step in steps:
        if isinstance(step, str):
            owner, name, inner = default.node, step, []
        else:
            inner.append(step)
        default.enter(step)
    lines = [f"  type     {_type_of(owner, name, inner)}", f"  default  {label(default.slot)}"]
    origin = owner.origin(name)
    place = str(origin) if origin else "nowhere: it is the class's default"
    lines.append(f"  set      {place}")
    lines.append(f"  in       {_described(owner)}")
    return lines


class _Defaults:
    """Walks a tree and its defaults side by side."""

    def __init__(self, cfg: Config) -> None:
        self.node: Any = cfg
        self.default: Any = baseline(cfg, None)
        self.slot: Any = None

    def enter(self, step: paths.Step) -> None:
        """Goes down one step."""
        self.slot = below(self.default, step)
        self.node = opened(
            self.node.__dict__[step] if isinstance(step, str) else self.node[step[0]]
        )
        self.default = (
            baseline(self.node, opened(self.slot)) if isinstance(self.node, Config) else self.slot
        )
        if not isinstance(self.slot, Config) and type(self.slot) is object:
            self.slot = REQUIRED


def _type_of(owner: Config, name: str, inner: list[paths.Step]) -> str:
    annotation = owner.field_type(name)
    required = "required" in getattr(annotation, "__metadata__", ())
    suffix = f", element {paths.format_steps(inner)}" if inner else ""
    shown = typing.get_args(annotation)[0] if required else annotation
    return f"{describe(shown)}{', required' if required else ''}{suffix}"


def _described(node: Config) -> str:
    target = component_of(node) or type(node)
    doc = (getattr(target, "__doc__", None) or "").strip().partition("\n")[0]
    return f"{class_label(node)}{': ' + doc if doc else ''}"
