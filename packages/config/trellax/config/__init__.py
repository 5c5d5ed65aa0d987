"""Trees of typed configs: define them beside components, change them by selection, check them once.

    from trellax.config import REQUIRED, Configurable, Required, replace_config
"""

from trellax.config.component import Configurable, InstantiableConfig, component_of
from trellax.config.errors import (
    ConfigConflictError,
    ConfigDefinitionError,
    ConfigError,
    FieldTypeError,
    FrozenConfigError,
    MissingRequiredError,
    NoMatchError,
    RequiredValueUsedError,
    UnknownFieldError,
    did_you_mean,
)
from trellax.config.fields import REQUIRED, DType, Required
from trellax.config.finalize import finalize, is_final
from trellax.config.function import CallConfig, config_for_class, config_for_function
from trellax.config.selection import Target, nodes, replace_config, select
from trellax.config.tree import Config

__all__ = [
    "REQUIRED",
    "CallConfig",
    "Config",
    "ConfigConflictError",
    "ConfigDefinitionError",
    "ConfigError",
    "Configurable",
    "DType",
    "FieldTypeError",
    "FrozenConfigError",
    "InstantiableConfig",
    "MissingRequiredError",
    "NoMatchError",
    "Required",
    "RequiredValueUsedError",
    "Target",
    "UnknownFieldError",
    "component_of",
    "config_for_class",
    "config_for_function",
    "did_you_mean",
    "finalize",
    "is_final",
    "nodes",
    "replace_config",
    "select",
]
