"""Overrides from text: `apply_overrides(cfg, ["model.decoder.dim=64", "model.**.dropout=0.1"])`.

The left side is a path or glob, the right side is read by the field's annotation (see `parsing`).
All overrides apply, in order, or none does; what is wrong is reported for all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trellax.config import paths
from trellax.config.errors import ConfigError, OverrideError, did_you_mean
from trellax.config.parsing import BadText, element_type, parse_value
from trellax.config.provenance import Origin
from trellax.config.selection import carried_over, expand, values
from trellax.config.tree import Config, all_or_nothing

COMMAND_LINE = "override on the command line"


def apply_overrides(
    cfg: Config, overrides: Iterable[str], *, note: str = COMMAND_LINE
) -> list[str]:
    """Applies `path=value` texts to the tree, in place.

    A component's slot takes `module:Component`: that component's default config, to which
    same-named fields are carried over as by `replace_config`.

    Args:
        cfg: the tree to change.
        overrides: the texts; later ones see what earlier ones did.
        note: what `explain` tells of the fields set here.

    Returns:
        The paths that were set, in order.

    Raises:
        OverrideError: one line for each text that is wrong; nothing was changed.
    """
    problems: list[str] = []
    changed: list[str] = []
    with all_or_nothing(cfg):
        for text in overrides:
            try:
                changed += _apply(cfg, text, note)
            except (ConfigError, BadText) as e:
                problems.append(_one_line(text, str(e)))
        if problems:
            raise OverrideError(_message(problems))
    return changed


def _apply(cfg: Config, text: str, note: str) -> list[str]:
    path, value_text = _split(text)
    found = expand(cfg, path)
    for each in found:
        present, annotation = _place(cfg, each)
        value = parse_value(value_text, annotation)
        if isinstance(value, Config) and isinstance(present, Config):
            value = carried_over(present, value)
        cfg._set_at(each, value, Origin("", 0, f"{note}, {text}"))
    return found


def _split(text: str) -> tuple[str, str]:
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "[") - (c == "]")
        if c == "=" and depth <= 0:
            if i == 0:
                break
            return text[:i].strip(), text[i + 1 :]
    raise BadText("write path=value.")


def _place(cfg: Config, path: str) -> tuple[Any, Any]:
    """Returns the value at `path` and the annotation of the place."""
    steps = paths.parse(path)
    value: Any = cfg
    annotation: Any = type(cfg)
    for i, named in enumerate(steps):
        step = paths.actual_step(value, named)
        new_key = isinstance(value, dict) and isinstance(step, tuple) and step[0] not in value
        if isinstance(step, tuple):
            annotation = element_type(annotation, value, step[0])
        elif isinstance(value, Config) and step in value:
            annotation = value.field_type(step)
        else:
            raise BadText(_no_such_place(cfg, steps, i))
        if new_key and i == len(steps) - 1:
            return None, annotation
        value = cfg.at(paths.format_steps(steps[: i + 1]))
    return value, annotation


def _no_such_place(cfg: Config, steps: list[paths.Step], i: int) -> str:
    above = paths.format_steps(steps[:i])
    node = cfg.at(above)
    name = str(steps[i])
    holder = f"{above} ({type(node).__qualname__})" if above else type(node).__qualname__
    tail = "." + paths.format_steps(steps)
    elsewhere = [p for p, _ in values(cfg) if p.endswith(tail)]
    if elsewhere:
        return f"{holder} has no field {name!r}. Did you mean {elsewhere[0]!r}?"
    near = did_you_mean(name, node.keys()) if isinstance(node, Config) else ""
    known = f" Its fields: {', '.join(node.keys())}." if isinstance(node, Config) else ""
    return f"{holder} has no field {name!r}.{near or known}"


def _one_line(text: str, problem: str) -> str:
    path = text.partition("=")[0]
    problem = problem.removeprefix(f"{path}: ").replace("\n", "; ")
    return f"{text}: {problem}"


def _message(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    listed = "".join(f"\n  {problem}" for problem in problems)
    return f"{len(problems)} overrides are wrong, and none was applied:{listed}"
