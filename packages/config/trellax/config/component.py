"""Components and their configs: `Foo.Config`, `Foo.default_config()`, `.set()`, `.instantiate()`.

class Linear(Configurable):
    class Config(Configurable.Config):
        output_dim: Required[int] = REQUIRED

    def __init__(self, cfg: Config, *, name: str): ...

Linear.default_config().set(output_dim=8).instantiate(name="proj")
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

from trellax.config.errors import ConfigDefinitionError, ConfigError
from trellax.config.finalize import finalize, is_final
from trellax.config.tree import Config

T = TypeVar("T")


class InstantiableConfig(Config, Generic[T]):
    """A config that can build what it describes."""

    def instantiate(self, **runtime: Any) -> Any:
        """Builds the described object.

        A tree that is not final yet is finalized first (see `finalize`), so a child that a parent
        builds from its own config costs nothing more.

        Args:
            **runtime: what is known only when the object is built (a parent, a mesh), never a
                hyperparameter.

        Raises:
            MissingRequiredError: listing every required field below this node that is unset.
        """
        cfg = self if is_final(self) else finalize(self)
        try:
            return cfg._build(**runtime)
        except Exception as e:
            if not isinstance(e, ConfigError) and not getattr(e, "__notes__", ()):
                e.add_note(f"While building {cfg._where()} ({type(cfg).__qualname__}).")
            raise

    def _build(self, **runtime: Any) -> Any:
        raise NotImplementedError(f"{type(self).__qualname__} does not say what it builds.")


class Configurable:
    """An object that is built from a config of its own class.

    Each subclass has its own nested `Config`; one that adds no field gets an empty one, so that a
    config's class always tells which component it builds.
    """

    class Config(InstantiableConfig["Configurable"]):
        """Fields of every component: none."""

        _component: ClassVar[type[Configurable]]

        def _build(self, **runtime: Any) -> Any:
            return self._component(self, **runtime)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" not in cls.__dict__:
            body = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}.Config"}
            cls.Config = type("Config", (cls.Config,), body)  # type: ignore[assignment, misc]
        _check_config_class(cls)
        cls.Config._component = cls

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    @classmethod
    def default_config(cls) -> Any:
        """Returns a new config of this class with every field at its default."""
        return cls.Config()


Configurable.Config._component = Configurable


def component_of(cfg: object) -> Any:
    """Returns the class that a component's config builds, or None for other values."""
    return getattr(type(cfg), "_component", None)


def _check_config_class(cls: type[Configurable]) -> None:
    name = f"{cls.__qualname__}.Config"
    for base in cls.__bases__:
        expected = getattr(base, "Config", None)
        if expected is not None and not issubclass(cls.Config, expected):
            raise ConfigDefinitionError(f"{name} must extend {base.__qualname__}.Config.")
    if "_component" in cls.Config.__dict__:
        raise ConfigDefinitionError(
            f"{name} is the config of {cls.Config._component.__qualname__} already; "
            f"write `class Config({cls.Config.__qualname__})`."
        )
