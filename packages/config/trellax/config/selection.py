"""Finding and replacing nodes by type, by path glob, or both.

    replace_config(trainer_cfg, target=FeedForwardLayer, new_cfg=MoELayer.default_config())
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trellax.config import paths
from trellax.config.component import component_of
from trellax.config.errors import FieldTypeError, NoMatchError
from trellax.config.fields import REQUIRED
from trellax.config.provenance import caller_origin
from trellax.config.tree import Config

Target = type | str | tuple[type, str]
"""A component or config class (subclasses match too), a path glob, or both."""


def select(cfg: Config, target: Target) -> list[tuple[str, Config]]:
    """Returns (path, node) of the nodes below and including `cfg` that match, in tree order."""
    wanted, glob = _split(target)
    found: list[tuple[str, Config]] = []

    def enter(path: str, node: Config) -> None:
        if _is_a(node, wanted) and (glob is None or paths.matches(glob, path)):
            found.append((path, node))

    cfg.visit(enter_fn=enter)
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
            f"Nothing below {cfg.path() or type(cfg).__qualname__} matches {_shown(target)}; "
            f"print the tree to see what it holds."
        )
    trial = cfg.clone()
    origin = caller_origin()
    for path, node in found:
        trial._set_at(path, _carry_over(node, new_cfg), origin)
    for path, node in found:
        cfg._set_at(path, _carry_over(node, new_cfg), origin)
    return [path for path, _ in found]


def _outermost(found: list[tuple[str, Config]]) -> list[tuple[str, Config]]:
    kept: list[tuple[str, Config]] = []
    for path, node in found:
        if not any(paths.is_within(path, outer) for outer, _ in kept):
            kept.append((path, node))
    return kept


def _carry_over(old: Config, new_cfg: Config) -> Config:
    merged = new_cfg.clone()
    for name in merged.keys():
        if merged.is_set(name) or name not in old:
            continue
        value = getattr(old, name)
        fills = getattr(merged, name) is REQUIRED and value is not REQUIRED
        if old.is_set(name) or fills:
            with contextlib.suppress(FieldTypeError):
                merged._set({name: value}, old.origin(name) or caller_origin())
    return merged


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
    parts = [wanted.__qualname__] if wanted else []
    return " at ".join(parts + ([repr(glob)] if glob else []))


def nodes(cfg: Config) -> Iterator[tuple[str, Config]]:
    """Yields (path, node) of every config in the tree, parents first."""
    yield from select(cfg, Config)
