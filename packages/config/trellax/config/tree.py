"""`Config`: a node of a typed tree with by-value semantics.

    class Optimizer(Config):
        learning_rate: Required[float] = REQUIRED
        betas: tuple[float, float] = (0.9, 0.95)

    cfg = Optimizer().set(learning_rate=3e-4)

A node owns its children: what is assigned is copied, so no two trees share a part. Names and types
are checked at each assignment, and each error names the path from the root.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, Self, dataclass_transform

from trellax.config import paths
from trellax.config.containers import (
    ATOMS,
    Node,
    children,
    frozen,
    is_branch,
    is_container,
    nodes_in,
    steps_to,
    with_item,
)
from trellax.config.errors import (
    ConfigConflictError,
    ConfigDefinitionError,
    ConfigError,
    FieldTypeError,
    FrozenConfigError,
    UnknownFieldError,
    did_you_mean,
)
from trellax.config.fields import REQUIRED, field_types, note_awaited, own_fields
from trellax.config.provenance import Origin, caller_origin
from trellax.config.typecheck import Mismatch, brief, by_value, conform


@dataclass_transform(kw_only_default=True)
class Config(Node):
    """A node of a config tree. Subclass it and annotate fields; a field without default is required."""

    _field_defaults: ClassVar[dict[str, Any]] = {}
    _field_types: ClassVar[dict[str, Any] | None] = None
    _defaults_checked: ClassVar[bool] = True

    _origins: dict[str, Origin]
    _parent: Config | None
    _frozen: bool
    _final: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherited: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("_field_defaults", {})
        cls._field_defaults = inherited | own_fields(cls, inherited)
        # Types are resolved at first use: annotations may name classes that come later.
        cls._field_types, cls._defaults_checked = None, False

    def __init__(self, **values: Any) -> None:
        cls, state = type(self), self.__dict__
        if not cls._defaults_checked:
            cls._check_defaults()
        state["_origins"], state["_parent"] = {}, None
        state["_frozen"] = state["_final"] = False
        for name, default in cls._field_defaults.items():
            state[name] = default if type(default) in ATOMS else self._adopt(by_value(default))
        if values:
            self._set(values, caller_origin())

    # ---- fields -------------------------------------------------------------------------------

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Returns the names of all fields, inherited ones first."""
        return tuple(cls._field_defaults)

    @classmethod
    def field_default(cls, name: str) -> Any:
        """Returns a copy of the default that the class gives `name` (`REQUIRED` if none)."""
        return by_value(cls._field_defaults[name])

    @classmethod
    def field_type(cls, name: str) -> Any:
        """Returns the resolved annotation of `name`."""
        return cls._types()[name]

    @classmethod
    def _types(cls) -> dict[str, Any]:
        if cls._field_types is None:
            cls._field_types = field_types(cls)
        return cls._field_types

    def keys(self) -> tuple[str, ...]:
        """Returns the names of all fields, in order of declaration."""
        return self.field_names()

    def items(self) -> list[tuple[str, Any]]:
        """Returns (name, value) of each field, in order of declaration."""
        state = self.__dict__
        return [(name, state[name]) for name in self._field_defaults]

    def __contains__(self, name: object) -> bool:
        return name in self._field_defaults

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._set({name: value}, caller_origin())

    def __delattr__(self, name: str) -> NoReturn:
        raise ConfigError(f"{self._where(name)}: fields cannot be deleted; set REQUIRED or None.")

    def set(self, **values: Any) -> Self:
        """Sets fields, all or none, and returns the node itself.

        Raises:
            UnknownFieldError, FieldTypeError, FrozenConfigError: and nothing was changed.
        """
        return self._set(values, caller_origin())

    def _set(self, values: dict[str, Any], origin: Origin) -> Self:
        stored = {name: self._checked(name, value) for name, value in values.items()}
        for name, value in stored.items():
            self._store(name, value, origin)
            if value is REQUIRED:
                note_awaited(self, name)
        return self

    def _store(self, name: str, value: Any, origin: Origin) -> None:
        """Puts a checked value in its place."""
        self.__dict__[name] = self._adopt(value)
        self._origins[name] = origin

    def _checked(self, name: str, value: Any, where: str = "") -> Any:
        """Returns `value` in stored form; `where` replaces the field's path in errors."""
        if name not in self._field_defaults:
            raise self._unknown(name, where)
        if self._frozen:
            raise FrozenConfigError(
                f"{where or self._where(name)}: the tree is frozen; change a clone() and use that."
            )
        try:
            return conform(value, self._types()[name])
        except Mismatch as e:
            raise FieldTypeError(
                f"{where or self._where(name)}{e.suffix}: {e}{self._last_set(name)}"
            ) from None

    def _adopt(self, value: Any) -> Any:
        if type(value) not in ATOMS:
            for child in nodes_in(value):
                child.__dict__["_parent"] = self
        return value

    @classmethod
    def _check_defaults(cls, *, strict: bool = False) -> None:
        """Checks the class's own defaults once and keeps them in stored form.

        Unless `strict`, annotations that name classes yet to come put it off.
        """
        try:
            types = cls._types()
        except ConfigDefinitionError:
            if strict:
                raise
            return
        for name, default in cls._field_defaults.items():
            try:
                cls._field_defaults[name] = conform(default, types[name])
            except Mismatch as e:
                raise ConfigDefinitionError(
                    f"{cls.__qualname__}.{name}{e.suffix}, the default: {e}"
                ) from None
        cls._defaults_checked = True

    # ---- place in the tree --------------------------------------------------------------------

    def path(self) -> str:
        """Returns this node's path from the root of its tree ("" for the root itself)."""
        parent = self._parent
        steps = None if parent is None else steps_to(parent, self)
        if parent is None or steps is None:
            return ""  # A root, or removed from its parent and so a root of its own.
        path = parent.path()
        for step in steps:
            path = paths.join(path, step)
        return path

    def at(self, path: str) -> Any:
        """Returns the value at `path`, for example `cfg.at("decoder.layers[3].norm.eps")`.

        Raises:
            UnknownFieldError: naming the step that does not exist, with near names.
        """
        return [self, *(value for _, value in self._walk(paths.parse(path)))][-1]

    def _walk(self, steps: list[paths.Step]) -> Iterator[tuple[paths.Step, Any]]:
        """Yields each step, its key resolved, with the value that it leads to."""
        value: Any = self
        seen = self.path()
        for step in steps:
            actual = paths.actual_step(value, step)
            value = _child(value, actual, seen or type(self).__qualname__)
            seen = paths.join(seen, actual)
            yield actual, value

    def set_at(self, path: str, value: Any) -> Self:
        """Sets the field, list element or dictionary entry at `path`; a new key makes an entry.

        Raises:
            UnknownFieldError, FieldTypeError, FrozenConfigError: and nothing was changed.
        """
        self._set_at(path, value, caller_origin())
        return self

    def _set_at(self, path: str, value: Any, origin: Origin) -> None:
        *above, last = paths.parse(path) or [""]
        if not last:
            raise ConfigError("An empty path names the root, which cannot be replaced in place.")
        walked = [("", self), *self._walk(above)]
        target = walked[-1][1]
        last = paths.actual_step(target, last)
        is_new_key = isinstance(target, dict) and isinstance(last, tuple)
        if not is_new_key or isinstance(last[0], paths.KeyText):
            _child(target, last, paths.format_steps(above) or type(self).__qualname__)
        if isinstance(last, str):
            target._set({last: value}, origin)
            return
        cut = max(i for i, (step, _) in enumerate(walked) if isinstance(step, str))
        name, keys = walked[cut][0], [step[0] for step, _ in walked[cut + 1 :]]
        walked[cut - 1][1]._set_element(name, [*keys, last[0]], value, origin)

    def _set_element(self, name: str, keys: list[Any], value: Any, origin: Origin) -> None:
        """Sets `self.name[key]...[key]`; the other elements stay the same objects."""
        containers = [self.__dict__[name]]
        for key in keys[:-1]:
            containers.append(containers[-1][key])

        def rebuilt(element: Any) -> Any:
            for container, key in zip(reversed(containers), reversed(keys), strict=True):
                element = with_item(container, key, element)
            return element

        element = self._checked(name, rebuilt(value))
        for key in keys:
            element = element[key]
        self._store(name, rebuilt(element), origin)

    # ---- whole trees --------------------------------------------------------------------------

    def clone(self, **values: Any) -> Self:
        """Returns an unfrozen copy of the tree below this node, with `values` set on its root."""
        copy = object.__new__(type(self))
        state = copy.__dict__
        state["_origins"], state["_parent"] = dict(self._origins), None
        state["_frozen"] = state["_final"] = False
        for name, value in self.items():
            state[name] = value if type(value) in ATOMS else copy._adopt(by_value(value))
        return copy._set(values, caller_origin()) if values else copy

    def __deepcopy__(self, memo: object) -> Self:
        return self.clone()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.items() == other.items()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self.items())
        return f"{type(self).__qualname__}({fields})"

    def freeze(self) -> Self:
        """Forbids changes of the whole tree below this node, and returns it."""
        if not self._frozen:
            for name, value in self.items():
                if type(value) not in ATOMS:
                    self.__dict__[name] = frozen(value, functools.partial(self._where, name))
            self.__dict__["_frozen"] = True
        return self

    @property
    def is_frozen(self) -> bool:
        """Whether changes are refused."""
        return self._frozen

    def visit(
        self,
        visit_fn: Callable[[str, Any], None] | None = None,
        enter_fn: Callable[[str, Config], bool | None] | None = None,
        exit_fn: Callable[[str, Config], None] | None = None,
    ) -> None:
        """Walks the tree depth first, fields in order of declaration.

        Args:
            visit_fn: called as `visit_fn(path, value)` with each leaf.
            enter_fn: called as `enter_fn(path, node)` before a node's children, which are read
                after it returns, so it may replace them with `node.set(...)`. If it returns
                False the children are passed over.
            exit_fn: called as `exit_fn(path, node)` after the children.
        """
        _visit(self, "", visit_fn, enter_fn, exit_fn)

    # ---- agreements between parent and child, settled by `finalize` -----------------------------

    def derive(self) -> None:
        """Called once, top-down, by `finalize`: fill own unset fields, `provide` the children's."""

    def check(self) -> None:
        """Called once by `finalize` on the complete tree: raise ValueError on a bad combination."""

    def provide(self, child: Config | None, **values: Any) -> None:
        """Gives a child the inputs and outputs that this node agrees on with it.

        Unset fields (REQUIRED or None) are filled. A field that somebody set to another value is a
        conflict, and a child without the field does not fit its slot; both are errors. A value
        that this node itself lacks provides nothing.
        """
        if child is None or child is REQUIRED:
            return
        for name, value in values.items():
            if name not in child:
                raise UnknownFieldError(
                    f"{child._where()}: {type(self).__qualname__} gives this child its {name!r}, "
                    f"but {type(child).__qualname__} has no such field; it does not fit here."
                )
            self._provide(child, name, value)

    def _provide(self, child: Config, name: str, value: Any) -> None:
        present = child.__dict__[name]
        if value is REQUIRED:
            if present is REQUIRED:
                note_awaited(child, name)
        elif present is REQUIRED or present is None:
            child._set({name: value}, caller_origin(f"provided by {type(self).__qualname__}"))
        elif value is not None and child._checked(name, value) != present:
            raise ConfigConflictError(
                f"{child._where(name)}: set to {brief(present)} but its parent {self._where()} "
                f"provides {brief(value)}. Leave it unset, or change the parent."
                f"{child._last_set(name)}"
            )

    # ---- messages -----------------------------------------------------------------------------

    def origin(self, name: str) -> Origin | None:
        """Returns where field `name` was last set, or None for a class default."""
        return self._origins.get(name)

    def is_set(self, name: str) -> bool:
        """Whether somebody set `name`, as opposed to the class's default."""
        return name in self._origins

    def _where(self, name: str = "") -> str:
        path = self.path()
        if name:
            return paths.join(path, name) if path else f"{type(self).__qualname__}.{name}"
        return path or type(self).__qualname__

    def _last_set(self, name: str) -> str:
        origin = self._origins.get(name)
        return f" Last set at {origin}." if origin else ""

    def _unknown(self, name: str, where: str = "") -> UnknownFieldError:
        near = did_you_mean(name, self._field_defaults)
        return UnknownFieldError(
            f"{where or self._where(name)}: {type(self).__qualname__} has no field {name!r}.{near} "
            f"Its fields: {', '.join(self._field_defaults) or 'none'}."
        )


@contextlib.contextmanager
def all_or_nothing(root: Config) -> Iterator[None]:
    """Puts the tree below `root` back as it was if the block raises; nodes stay the same objects."""
    saved: list[tuple[Config, dict[str, Any]]] = []

    def save(path: str, node: Config) -> None:
        saved.append((node, node.__dict__ | {"_origins": dict(node._origins)}))

    root.visit(enter_fn=save)
    try:
        yield
    except BaseException:
        for node, state in saved:
            node.__dict__.clear()
            node.__dict__.update(state)
        raise


@contextlib.contextmanager
def naming(node: Config, hook: str) -> Iterator[None]:
    """Prefixes errors of a node's own hook with its path, unless they carry one already."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"{node._where()}: {e} (in {type(node).__qualname__}.{hook})") from e
    except Exception as e:
        e.add_note(f"In {type(node).__qualname__}.{hook} of {node._where()}.")
        raise


def _visit(value: Any, path: str, visit_fn: Any, enter_fn: Any, exit_fn: Any) -> None:
    if not is_branch(value):
        if visit_fn is not None:
            visit_fn(path, value)
        return
    is_node = isinstance(value, Config)
    if is_node and enter_fn is not None and enter_fn(path, value) is False:
        return
    for step, child in list(children(value)):
        if visit_fn is not None or is_branch(child):
            _visit(child, paths.join(path, step), visit_fn, enter_fn, exit_fn)
    if is_node and exit_fn is not None:
        exit_fn(path, value)


def _child(node: Any, step: paths.Step, path: str) -> Any:
    """Returns the value one step below `node`, which lies at `path`."""
    if isinstance(node, Config):
        if isinstance(step, str):
            if step in node:
                return node.__dict__[step]
            raise node._unknown(step)
    elif isinstance(step, tuple) and is_container(node):
        with contextlib.suppress(LookupError, TypeError):
            return node[step[0]]
    raise UnknownFieldError(f"{path}: has no {paths.join('', step)}; {_holdings(node)}.")


def _holdings(node: Any) -> str:
    if isinstance(node, Config):
        return f"it is a {type(node).__qualname__} with fields {', '.join(node.keys())}"
    if isinstance(node, dict):
        return f"its keys are {', '.join(map(repr, node))}" if node else "it is an empty dict"
    if is_container(node):
        return f"it has {len(node)} elements"
    return f"it is {brief(node)}, which has no parts"
