"""Derive and check once: `finalize` turns what was written into what will be built.

    final = finalize(cfg)  # `cfg.instantiate()` does this by itself

Parents hand their children inputs and outputs (`Config.derive`, `Config.provide`), every field is
checked, all missing ones are reported together, and the result is frozen.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

from trellax.config import paths
from trellax.config.containers import children, is_branch, is_container
from trellax.config.errors import MissingRequiredError, RequiredValueUsedError
from trellax.config.fields import REQUIRED, tracing_required
from trellax.config.tree import Config, naming
from trellax.config.typecheck import describe

C = TypeVar("C", bound=Config)

_Missing = list[tuple[str, str]]


def finalize(cfg: C) -> C:
    """Returns a derived, checked and frozen copy of the tree; `cfg` itself stays as it is.

    Raises:
        MissingRequiredError: listing every required field that somebody must still set.
        ConfigError: from a node's `derive` or `check`, with the node's path.
    """
    if is_final(cfg):
        return cfg
    final = cfg.clone()
    premature = _derive(final)
    missing = _missing(final)
    if missing:
        raise MissingRequiredError(_missing_message(_root_causes(cfg) or missing))
    if premature is not None:
        raise premature
    _check(final)
    final.freeze()
    final.visit(enter_fn=_mark_final)
    return final


def is_final(cfg: Config) -> bool:
    """Whether the tree came from `finalize` (or is a part of one that did)."""
    return cfg._final


def _mark_final(path: str, node: Config) -> None:
    node.__dict__["_final"] = True


def _derive(root: Config) -> RequiredValueUsedError | None:
    premature: list[RequiredValueUsedError] = []

    def enter(path: str, node: Config) -> None:
        _look_again(node)
        try:
            with naming(node, "derive"):
                node.derive()
        except RequiredValueUsedError as e:
            premature.append(e)  # The missing field itself will be reported, with its path.

    root.visit(enter_fn=enter)
    return premature[0] if premature else None


def _look_again(node: Config) -> None:
    """Checks what was never checked: lists changed in place, defaults of a forward-typed class."""
    if not node._defaults_checked:
        node._check_defaults(strict=True)
    for name, value in node.items():
        if is_container(value):
            node.__dict__[name] = node._adopt(node._checked(name, value))


def _check(root: Config) -> None:
    def leave(path: str, node: Config) -> None:
        with naming(node, "check"):
            node.check()

    root.visit(exit_fn=leave)


def _root_causes(cfg: Config) -> _Missing:
    """Returns the missing fields that no parent would fill if its own fields were set."""
    trial = cfg.clone()

    def enter(path: str, node: Config) -> None:
        with contextlib.suppress(Exception):  # The values are made up: only what flows matters.
            node.derive()

    with tracing_required() as awaited:
        trial.visit(enter_fn=enter)
    return _missing(trial, awaited)


def _missing(root: Config, awaited: set[tuple[int, str]] = frozenset()) -> _Missing:  # type: ignore
    found: _Missing = []

    def search(value: Any, path: str) -> None:
        for step, child in children(value):
            below = paths.join(path, step)
            if is_branch(child):
                search(child, below)
            elif child is REQUIRED and (id(value), step) not in awaited:
                is_field = isinstance(value, Config) and isinstance(step, str)
                found.append((below, describe(value.field_type(step)) if is_field else "element"))

    search(root, root.path())
    return found


def _missing_message(missing: _Missing) -> str:
    lines = "".join(f"\n  {path}: {annotation}" for path, annotation in missing)
    count = "1 required field is" if len(missing) == 1 else f"{len(missing)} required fields are"
    return f"{count} not set:{lines}"
