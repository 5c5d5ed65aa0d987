"""Flags of XLA for each platform and chip: `xla_flags.json`, read and applied.

for flag in apply_xla_flags():  # Before JAX's first use.
    print(flag.name, flag.value, flag.reason)
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import json
import sys
from collections.abc import Mapping
from typing import Any

from trellax.parallel.environment import add_flags, likely_platform
from trellax.parallel.hardware.names import Hardware

_VARIABLE = {"tpu": "LIBTPU_INIT_ARGS", "gpu": "XLA_FLAGS"}


@dataclasses.dataclass(frozen=True)
class XlaFlag:
    """A flag, and why it is set."""

    name: str
    value: str
    reason: str
    chips: tuple[str, ...] = ()
    """Chips that it is for; all of the platform if empty."""

    def __str__(self) -> str:
        return f"--{self.name}={self.value}"


def xla_flags(hardware: Hardware) -> tuple[XlaFlag, ...]:
    """Returns the flags that programs on this hardware should be compiled with."""
    return tuple(
        f for f in _flags_of(hardware.platform) if not f.chips or hardware.chip.name in f.chips
    )


def compiler_options(hardware: Hardware) -> Mapping[str, Any]:
    """Returns the same flags as options of a single compilation, for programs that are only planned."""
    return {flag.name: _parsed(flag.value) for flag in xla_flags(hardware)}


def apply_xla_flags(hardware: Hardware | None = None) -> tuple[XlaFlag, ...]:
    """Sets the flags in this process' environment; those that the user has set keep the user's value.

    Args:
        hardware: what the program will run on. None, as a rule, since JAX must not start before the flags are set: then the
            platform is guessed by what is cheap to see (`likely_platform`), and only flags for all its chips are set.

    Returns:
        What was set, to be logged.

    Raises:
        RuntimeError: if JAX's backend is running already, for which flags would come too late.
    """
    if hardware is None:
        flags = tuple(flag for flag in _flags_of(likely_platform()) if not flag.chips)
        platform = likely_platform()
    else:
        flags, platform = xla_flags(hardware), hardware.platform
    if not flags:
        return ()
    if _backend_is_running():
        raise RuntimeError(
            "XLA flags were to be applied after JAX's backend had started, which would have no effect; call "
            "apply_xla_flags() before anything asks for devices or makes an array."
        )
    added = add_flags(_VARIABLE[platform], map(str, flags))
    return tuple(flag for flag in flags if str(flag) in added)


@functools.cache
def _flags_of(platform: str) -> tuple[XlaFlag, ...]:
    text = importlib.resources.files(__package__).joinpath("xla_flags.json").read_text()
    return tuple(
        XlaFlag(facts["name"], facts["value"], facts["reason"], tuple(facts.get("chips", ())))
        for facts in json.loads(text).get(platform, ())
    )


def _backend_is_running() -> bool:
    jax = sys.modules.get("jax")
    if jax is None:
        return False
    setting = jax.config.jax_num_cpu_devices
    try:  # JAX tells nobody, but refuses to change this setting once a backend runs.
        jax.config.update("jax_num_cpu_devices", max(setting, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", setting)
    return False


def _parsed(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    return int(value)
