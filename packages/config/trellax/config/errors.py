"""Errors of the config tree. Each names the path, the value, what was expected and how to mend it."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(ValueError):
    """Base of every error that a config tree raises; the message stands on its own."""


class ConfigDefinitionError(ConfigError):
    """A `Config` class is written wrongly (a field without annotation, an unusable name)."""


class UnknownFieldError(ConfigError, AttributeError):
    """A field, index or key that the node does not have."""


class FieldTypeError(ConfigError, TypeError):
    """A value whose type does not fit the field's annotation."""


class MissingRequiredError(ConfigError):
    """Required fields that nobody set; lists all of them at once."""


class FrozenConfigError(ConfigError):
    """A change of a tree that was frozen."""


class ConfigConflictError(ConfigError):
    """Two parties claim one node: a parent and an explicit setting, or two modifiers."""


class NoMatchError(ConfigError, LookupError):
    """A target or path that selects nothing."""


class RequiredValueUsedError(ConfigError, TypeError, AttributeError):
    """Something computed with a required field before it was set."""


class OverrideError(ConfigError):
    """Override texts that cannot be applied; lists all of them, and nothing was changed."""


class SerializationError(ConfigError):
    """A value that cannot be written, or text that cannot be read back into a tree."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean 'x' or 'y'?" for names near to `name`, or an empty string."""
    import difflib  # Costs a quarter of this package's import time and serves errors only.

    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    if not near:
        return ""
    return f" Did you mean {' or '.join(repr(n) for n in near)}?"
