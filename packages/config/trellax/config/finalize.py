"""Derive and check once: `finalize` turns what was written into what will be built.

Parents hand their children inputs and outputs (`Config.derive`, `Config.provide`), every field is
checked, all missing ones are reported together, and the result is frozen.
"""

from __future__ import annotations

from typing import TypeVar

from trellax.config import paths
from trellax.config.errors import MissingRequiredError, RequiredValueUsedError
from trellax.config.fields import REQUIRED
from trellax.config.tree import Config, children, is_branch, naming
from trellax.config.typecheck import describe

C = TypeVar("C", bound=Config)


def finalize(cfg: C) -> C:
    """Returns a derived, checked and frozen copy of the tree; `cfg` itself stays as it is.

    Raises:
        MissingRequiredError: listing every required field that is still unset.
        ConfigError: from a node's `derive` or `check`, with the node's path.
    """
    if is_final(cfg):
        return cfg
    final = cfg.clone()
    premature = _derive(final)
    missing = _missing(final)
    if missing:
        raise MissingRequiredError(_missing_message(missing))
    if premature is not None:
        raise premature
    _check(final)
    return final.freeze()


def is_final(cfg: Config) -> bool:
    """Whether the tree came from `finalize` (or is a part of one that did)."""
    return cfg.is_frozen and not _missing(cfg, first_only=True)


def _derive(root: Config) -> RequiredValueUsedError | None:
    premature: list[RequiredValueUsedError] = []

    def enter(path: str, node: Config) -> None:
        for name, value in node.items():  # Lists can be changed in place: look again.
            if is_branch(value) and not isinstance(value, Config):
                node._adopt(node._checked(name, value))
        try:
            with naming(node, "derive"):
                node.derive()
        except RequiredValueUsedError as e:
            premature.append(e)  # The missing field itself will be reported, with its path.

    root.visit(enter_fn=enter)
    return premature[0] if premature else None


def _check(root: Config) -> None:
    def leave(path: str, node: Config) -> None:
        with naming(node, "check"):
            node.check()

    root.visit(exit_fn=leave)


def _missing(root: Config, first_only: bool = False) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def search(value: object, path: str, annotation: str) -> None:
        if value is REQUIRED:
            found.append((path, annotation))
        if first_only and found:
            return
        if isinstance(value, Config):
            for name, child in value.items():
                shown = describe(value.field_type(name)) if child is REQUIRED else ""
                search(child, paths.join(path, name), shown)
        elif is_branch(value):
            for step, child in children(value):
                search(child, paths.join(path, step), "an element")

    search(root, root.path(), "")
    return found


def _missing_message(missing: list[tuple[str, str]]) -> str:
    lines = "".join(f"\n  {path}: {annotation}" for path, annotation in missing)
    count = "1 required field is" if len(missing) == 1 else f"{len(missing)} required fields are"
    return f"{count} not set:{lines}"
