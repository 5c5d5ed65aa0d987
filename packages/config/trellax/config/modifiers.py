"""Modifiers: changes of a tree that are themselves configs, so that a mesh rule can carry them.

    class HalveBatch(ConfigModifier):
        def apply(self, cfg):
            cfg.input.batch_size //= 2

    smaller = HalveBatch.default_config().instantiate()(trainer_cfg)  # trainer_cfg stays as it is

A subclass overrides `apply(cfg)`, which changes the private copy that it is given. Everything else
is done here: the input is never touched, an error leaves nothing half applied, and each changed
field remembers which modifier changed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from trellax.config import paths
from trellax.config.component import Configurable, InstantiableConfig
from trellax.config.containers import is_branch
from trellax.config.difference import Change, diff
from trellax.config.errors import ConfigConflictError
from trellax.config.fields import REQUIRED, Required
from trellax.config.provenance import caller_origin
from trellax.config.selection import nodes, replace_config, set_matching
from trellax.config.template import Template
from trellax.config.text import format_value
from trellax.config.tree import Config

C = TypeVar("C", bound=Config)


class ConfigModifier(Configurable):
    """Turns a tree into another: `modifier(cfg)` returns a changed copy of `cfg`."""

    class Config(Configurable.Config):
        """Fields of every modifier: none."""

    def __call__(self, cfg: C) -> C:
        """Returns a changed, unfrozen copy of `cfg`.

        Raises:
            ConfigError: whatever `apply` raises; `cfg` is untouched in any case.
        """
        changed = cfg.clone()
        known = {id(origin) for _, node in nodes(cfg) for origin in node._origins.values()}
        other = self.apply(changed)
        changed = changed if other is None else other
        _note_changes(changed, known, f"by {self.label()}")
        return changed

    def apply(self, cfg: Any) -> Any:
        """Changes `cfg`, a private copy, in place; subclasses override this.

        Returns:
            None, or another tree to use instead.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not override apply.")

    def label(self) -> str:
        """Returns the modifier's name for messages: its class and the fields that were set."""
        shown = [f"{k}={format_value(v)}" for k, v in self.cfg.items() if self.cfg.is_set(k)]
        text = ", ".join(shown)
        return f"{type(self).__qualname__}({text if len(text) <= 100 else text[:97] + '...'})"


class SetModifier(ConfigModifier):
    """Sets fields by path or glob: `values={"model.**.dropout": 0.0}`.

    A config that is to be set is given as a `Template`.
    """

    class Config(ConfigModifier.Config):
        """Values by path; a glob must match something, a plain path must exist."""

        values: Required[dict[str, Any]] = REQUIRED

    def apply(self, cfg: Any) -> None:
        for path, value in self.cfg.values.items():
            value = value.cfg if isinstance(value, Template) else value
            set_matching(cfg, path, value, caller_origin())


class ReplaceModifier(ConfigModifier):
    """Replaces nodes as `replace_config` does."""

    class Config(ConfigModifier.Config):
        """Which nodes (see `Target`), and what to put there."""

        target: Required[type | str | tuple[type, str]] = REQUIRED
        new_cfg: Required[Template] = REQUIRED

    def apply(self, cfg: Any) -> None:
        replace_config(cfg, self.cfg.target, self.cfg.new_cfg.cfg)


class FunctionModifier(ConfigModifier):
    """A function as a modifier: it changes the copy that it is given, or returns another tree."""

    class Config(ConfigModifier.Config):
        """`fn(cfg, **arguments)`."""

        fn: Required[Callable[..., Any]] = REQUIRED
        arguments: dict[str, Any] = {}

    def apply(self, cfg: Any) -> Any:
        return self.cfg.fn(cfg, **self.cfg.arguments)


class ChainModifier(ConfigModifier):
    """Applies modifiers in order and refuses two that change the same place."""

    class Config(ConfigModifier.Config):
        """Modifiers, or other configs that build a function from tree to tree."""

        modifiers: list[InstantiableConfig] = []

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.modifiers = [each.instantiate() for each in cfg.modifiers]

    def apply(self, cfg: Any) -> Any:
        """Returns `cfg` changed by every modifier.

        Raises:
            ConfigConflictError: naming both modifiers and the path, if one changes what another
                did, or something inside a node that another replaced.
        """
        claims: list[tuple[str, Change]] = []
        tree = cfg
        for index, modifier in enumerate(self.modifiers):
            after = modifier(tree)
            label = f"modifier {index}, {_label(modifier)},"
            changes = _outermost(diff(tree, after))
            for change in changes:
                _refuse_conflict(change, label, claims)
            claims += [(label, change) for change in changes]
            tree = after
        return tree


def modifier_for_function(fn: Callable[..., Any], **arguments: Any) -> Any:
    """Returns the config of a modifier that calls `fn(cfg, **arguments)` on a copy of the tree."""
    return FunctionModifier.default_config().set(fn=fn, arguments=arguments)


def _refuse_conflict(change: Change, label: str, claims: list[tuple[str, Change]]) -> None:
    for other, earlier in claims:
        if change.path == earlier.path:
            raise ConfigConflictError(
                f"{change.path}: {other} makes it {format_value(earlier.new)} but {label} makes it "
                f"{format_value(change.new)}. Drop one of them, or merge them into one modifier."
            )
        for outer, inner, who, whose in (
            (earlier, change, label, other),
            (change, earlier, other, label),
        ):
            if _replaces_node(outer) and paths.is_within(inner.path, outer.path):
                raise ConfigConflictError(
                    f"{inner.path}: {who} changes it but {whose} replaces {outer.path or 'the root'}"
                    f" as a whole. Put the change into the replacement."
                )


def _replaces_node(change: Change) -> bool:
    """Whether the change puts a whole node in place or takes one away, as None to a policy does."""
    return change.kind != "changed" or is_branch(change.old) or is_branch(change.new)


def _outermost(changes: list[Change]) -> list[Change]:
    """Drops what lies inside a node that was replaced: the replacement claims it all."""
    kept: list[Change] = []
    for change in changes:
        last = kept[-1] if kept else None
        if not (last and last.kind == "retyped" and paths.is_within(change.path, last.path)):
            kept.append(change)
    return kept


def _note_changes(tree: Config, known: set[int], note: str) -> None:
    for _, node in nodes(tree):
        for name, origin in node._origins.items():
            if id(origin) not in known and not origin.note.startswith("by "):
                node._origins[name] = origin.noting(note)


def _label(modifier: Any) -> str:
    if isinstance(modifier, ConfigModifier):
        return modifier.label()
    return getattr(modifier, "__qualname__", type(modifier).__qualname__)
