"""Trees of typed configs: define them beside components, change them by selection, check them once.

    from trellax.config import REQUIRED, Configurable, Required, replace_config

What only serves people and files (text, diff, JSON, code, HTML, overrides) is imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellax.config.component import Configurable, InstantiableConfig, component_of
from trellax.config.errors import (
    ConfigConflictError,
    ConfigDefinitionError,
    ConfigError,
    FieldTypeError,
    FrozenConfigError,
    MissingRequiredError,
    NoMatchError,
    OverrideError,
    RequiredValueUsedError,
    SerializationError,
    UnknownFieldError,
    did_you_mean,
)
from trellax.config.fields import REQUIRED, DType, Required
from trellax.config.finalize import finalize, is_final
from trellax.config.function import CallConfig, config_for_class, config_for_function
from trellax.config.paths import format_steps as format_path
from trellax.config.paths import is_within as path_is_within
from trellax.config.paths import matches as path_matches
from trellax.config.selection import Target, nodes, replace_config, select
from trellax.config.template import Template
from trellax.config.tree import Config

if TYPE_CHECKING:
    from trellax.config.difference import Change, diff, format_diff
    from trellax.config.explanation import explain
    from trellax.config.html_view import diff_html, to_html
    from trellax.config.imports import DEFAULT_ROOTS
    from trellax.config.json_format import from_json, to_json
    from trellax.config.modifiers import (
        ChainModifier,
        ConfigModifier,
        FunctionModifier,
        ReplaceModifier,
        SetModifier,
        modifier_for_function,
    )
    from trellax.config.overrides import apply_overrides
    from trellax.config.python_format import to_python
    from trellax.config.text import format_value, show, to_text

__all__ = [
    "DEFAULT_ROOTS",
    "REQUIRED",
    "CallConfig",
    "ChainModifier",
    "Change",
    "Config",
    "ConfigConflictError",
    "ConfigDefinitionError",
    "ConfigError",
    "ConfigModifier",
    "Configurable",
    "DType",
    "FieldTypeError",
    "FrozenConfigError",
    "FunctionModifier",
    "InstantiableConfig",
    "MissingRequiredError",
    "NoMatchError",
    "OverrideError",
    "ReplaceModifier",
    "Required",
    "RequiredValueUsedError",
    "SerializationError",
    "SetModifier",
    "Target",
    "Template",
    "UnknownFieldError",
    "apply_overrides",
    "component_of",
    "config_for_class",
    "config_for_function",
    "did_you_mean",
    "diff",
    "diff_html",
    "explain",
    "finalize",
    "format_diff",
    "format_path",
    "format_value",
    "from_json",
    "is_final",
    "modifier_for_function",
    "nodes",
    "path_is_within",
    "path_matches",
    "replace_config",
    "select",
    "show",
    "to_html",
    "to_json",
    "to_python",
    "to_text",
]

_LAZY = {
    "difference": ("Change", "diff", "format_diff"),
    "explanation": ("explain",),
    "html_view": ("diff_html", "to_html"),
    "imports": ("DEFAULT_ROOTS",),
    "json_format": ("from_json", "to_json"),
    "modifiers": (
        "ChainModifier",
        "ConfigModifier",
        "FunctionModifier",
        "ReplaceModifier",
        "SetModifier",
        "modifier_for_function",
    ),
    "overrides": ("apply_overrides",),
    "python_format": ("to_python",),
    "text": ("format_value", "show", "to_text"),
}


if not TYPE_CHECKING:  # A type checker knows the names from the imports above, and no others.

    def __getattr__(name: str) -> Any:
        for module, names in _LAZY.items():
            if name in names:
                import importlib

                value = getattr(importlib.import_module(f"trellax.config.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
