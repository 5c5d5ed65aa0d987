"""Finding and replacing nodes by type, by path glob, or both.

    replace_config(trainer_cfg, target=FeedForwardLayer, new_cfg=MoELayer.default_config())

A type matches a component or its config, subclasses included; a glob matches paths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trellax.config import paths
from trellax.config.component import component_of
from trellax.config.containers import children, is_branch, nodes_in
from trellax.config.errors import ConfigError, FieldTypeError, NoMatchError, did_you_mean
from trellax.config.fields import REQUIRED
from trellax.config.provenance import Origin, caller_origin
from trellax.config.tree import Config, all_or_nothing

Target = type | str | tuple[type, str]
"""A component or config class (subclasses match too), a path glob, or both."""


def select(cfg: Config, target: Target) -> list[tuple[str, Config]]:
    """Returns (path, node) of the nodes below and including `cfg` that match, in tree order."""
    wanted, glob = _split(target)
    steps = None if glob is None else paths.parse(glob)
    found: list[tuple[str, Config]] = []

    def enter(path: str, node: Config) -> None:
        if _is_a(node, wanted) and (steps is None or paths.match_steps(steps, paths.parse(path))):
            found.append((path, node))

    cfg.visit(enter_fn=enter)
    return found


def nodes(cfg: Config) -> Iterator[tuple[str, Config]]:
    """Yields (path, node) of every config in the tree, parents first."""
    yield from select(cfg, Config)


def values(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yields (path, value) of everything below `cfg`: fields and elements, parents first."""

    def below(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        for step, child in children(value):
            here = paths.join(path, step)
            yield here, child
            if is_branch(child):
                yield from below(child, here)

    yield from below(cfg, "")


def expand(cfg: Config, path: str) -> list[str]:
    """Returns the paths below `cfg` that a glob selects; a path without wildcards is itself.

    Raises:
        NoMatchError: if the glob selects nothing.
    """
    if not paths.is_glob(path):
        return [path]
    pattern = paths.parse(path)
    known = [p for p, _ in values(cfg)]
    found = [p for p in known if paths.match_steps(pattern, paths.parse(p))]
    if not found:
        last = str(pattern[-1])
        names = {str(paths.parse(p)[-1]) for p in known}
        near = "" if last in names else did_you_mean(last, sorted(names))
        raise NoMatchError(f"{path}: nothing in the tree matches this glob.{near}")
    return found


def replace_config(cfg: Config, target: Target, new_cfg: Config) -> list[str]:
    """Replaces every node that matches `target` by a copy of `new_cfg`, in place.

    A same-named field that the replaced node had set and `new_cfg` leaves unset is carried over,
    where its type fits. Replacements are not searched again. All or nothing is replaced.

    Args:
        cfg: the tree to change.
        target: which nodes (see `Target`).
        new_cfg: what to put there.

    Returns:
        The paths of the replaced nodes, in tree order.

    Raises:
        NoMatchError: if nothing matched.
        FieldTypeError: if a slot does not take this kind of config; nothing was changed.
    """
    found = _outermost(select(cfg, target))
    if not found:
        raise NoMatchError(
            f"Nothing below {cfg._where()} matches {_shown(target)}; it holds {_held(cfg)}."
        )
    if found[0][0] == "":
        raise ConfigError(f"{_shown(target)} is the root itself, which cannot replace itself.")
    origin = caller_origin()
    with all_or_nothing(cfg):
        for path, node in found:
            cfg._set_at(path, carried_over(node, new_cfg), origin)
    return [path for path, _ in found]


def carried_over(old: Config, new_cfg: Config) -> Config:
    """Returns a copy of `new_cfg` with the same-named fields that only `old` had set."""
    merged = new_cfg.clone()
    for name, value in merged.items():
        if name not in old or merged.is_set(name) or _is_touched(value):
            continue
        kept = getattr(old, name)
        fills = value is REQUIRED and kept is not REQUIRED
        if old.is_set(name) or fills or _is_touched(kept):
            with contextlib.suppress(FieldTypeError):
                merged._set({name: kept}, old.origin(name) or caller_origin())
    return merged


def set_matching(cfg: Config, path: str, value: Any, origin: Origin) -> list[str]:
    """Sets every place that a path or glob selects, all or none, and returns their paths."""
    found = expand(cfg, path)
    with all_or_nothing(cfg):
        for each in found:
            cfg._set_at(each, value, origin)
    return found


def _is_touched(value: Any) -> bool:
    """Whether somebody set a field at or below a config in `value`."""
    return any(
        node._origins or any(_is_touched(v) for _, v in node.items()) for node in nodes_in(value)
    )


def _outermost(found: list[tuple[str, Config]]) -> list[tuple[str, Config]]:
    kept: list[tuple[str, Config]] = []
    for path, node in found:
        if not (kept and paths.is_within(path, kept[-1][0])):
            kept.append((path, node))
    return kept


def _held(cfg: Config) -> str:
    names = {getattr(component_of(n) or type(n), "__qualname__", "?"): 0 for _, n in nodes(cfg)}
    shown = ", ".join(list(names)[:12])
    return f"{shown} and {len(names) - 12} other classes" if len(names) > 12 else shown


def _split(target: Target) -> tuple[type | None, str | None]:
    if isinstance(target, tuple):
        return target
    return (None, target) if isinstance(target, str) else (target, None)


def _is_a(node: Config, wanted: Any) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, type) and issubclass(wanted, Config):
        return isinstance(node, wanted)
    component = component_of(node)
    if isinstance(component, type) and isinstance(wanted, type):
        return issubclass(component, wanted)
    return component is wanted


def _shown(target: Target) -> str:
    wanted, glob = _split(target)
    parts = [getattr(wanted, "__qualname__", str(wanted))] if wanted else []
    return " at ".join(parts + ([repr(glob)] if glob else []))
