"""What a value is compared with to say that it differs from the default.

The baseline of a child is what its parent's class puts in the slot; where the child is of another
class, it is that class's own default config.
"""

from __future__ import annotations

from typing import Any

from trellax.config.component import component_of
from trellax.config.containers import is_container
from trellax.config.fields import REQUIRED
from trellax.config.template import Template
from trellax.config.tree import Config

NOTHING = object()
"""The baseline of an element that the default does not have."""


def class_default(node: Config) -> Config:
    """Returns a new config like `node`, every field at its default."""
    component = component_of(node)
    if hasattr(component, "default_config"):
        made = component.default_config()
        if type(made) is type(node):
            return made
    return type(node)()


def baseline(node: Config, slot_default: Any) -> Config:
    """Returns the config that `node` is compared with, given what its slot holds by default."""
    return slot_default if type(slot_default) is type(node) else class_default(node)


def below(default: Any, step: Any) -> Any:
    """Returns the default one step below `default`, or NOTHING."""
    if isinstance(default, Config):
        return default.__dict__.get(step, NOTHING)
    if is_container(default) and isinstance(step, tuple):
        try:
            return default[step[0]]
        except (LookupError, TypeError):
            return NOTHING
    return NOTHING


def same(a: Any, b: Any) -> bool:
    """Whether two values mean the same: types count (1 is not True), NaN equals itself."""
    if a is b:
        return True
    if isinstance(a, Config) or isinstance(b, Config):
        return type(a) is type(b) and all(same(v, b.__dict__[k]) for k, v in a.items())
    if isinstance(a, Template) and isinstance(b, Template):
        return same(a.cfg, b.cfg)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(v, b[k]) for k, v in a.items())
    if is_container(a) and is_container(b):
        alike = isinstance(a, tuple) == isinstance(b, tuple) and len(a) == len(b)
        return alike and all(map(same, a, b))
    if type(a) is not type(b) or a is REQUIRED:
        return False
    return bool(_equal(a, b) or (a != a and b != b))


def _equal(a: Any, b: Any) -> bool:
    result = a == b
    return bool(result.all()) if hasattr(result, "all") else bool(result)
