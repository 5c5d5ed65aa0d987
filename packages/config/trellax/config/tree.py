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
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NoReturn, Self, dataclass_transform

from trellax.config import paths
from trellax.config.errors import (
    ConfigConflictError,
    ConfigError,
    FieldTypeError,
    FrozenConfigError,
    UnknownFieldError,
    did_you_mean,
)
from trellax.config.fields import REQUIRED, field_types, own_fields
from trellax.config.provenance import Origin, caller_origin
from trellax.config.typecheck import Mismatch, by_value, conform

_HIDDEN = ("_origins", "_parent", "_frozen")


@dataclass_transform(kw_only_default=True)
class Config:
    """A node of a config tree. Subclass it and annotate fields; a field without default is required."""

    _field_defaults: ClassVar[dict[str, Any]] = {}
    _field_types: ClassVar[dict[str, Any] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherited: dict[str, Any] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("_field_defaults", {})
        cls._field_defaults = inherited  # `own_fields` looks here for re-defaulted names.
        cls._field_defaults = inherited | own_fields(cls)
        cls._field_types = None  # Resolved on first use: annotations may name later classes.

    def __init__(self, **values: Any) -> None:
        state = self.__dict__
        state["_origins"], state["_parent"], state["_frozen"] = {}, None, False
        for name, default in type(self)._field_defaults.items():
            state[name] = self._adopt(by_value(default))
        if values:
            self.set(**values)

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
        if cls._field_types is None:
            cls._field_types = field_types(cls)
        return cls._field_types[name]

    def keys(self) -> tuple[str, ...]:
        return self.field_names()

    def items(self) -> list[tuple[str, Any]]:
        """Returns (name, value) of each field, in order of declaration."""
        return [(name, self.__dict__[name]) for name in self.field_names()]

    def __contains__(self, name: object) -> bool:
        return name in self._field_defaults

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._unknown(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(**{name: value})

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
            self.__dict__[name] = self._adopt(value)
            self._origins[name] = origin
        return self

    def _checked(self, name: str, value: Any) -> Any:
        if name not in self._field_defaults:
            raise self._unknown(name)
        if self._frozen:
            raise FrozenConfigError(
                f"{self._where(name)}: the tree is frozen; change a clone() and use that."
            )
        try:
            return conform(value, self.field_type(name))
        except Mismatch as e:
            raise FieldTypeError(
                f"{self._where(name)}{e.suffix}: expected {e.expected}, "
                f"got {e.value!r} ({type(e.value).__qualname__}).{e.hint}{self._last_set(name)}"
            ) from None

    def _adopt(self, value: Any) -> Any:
        for child in _configs_in(value):
            child.__dict__["_parent"] = self
        return value

    # ---- place in the tree --------------------------------------------------------------------

    def path(self) -> str:
        """Returns this node's path from the root of its tree ("" for the root itself)."""
        parent = self.__dict__.get("_parent")
        if parent is None:
            return ""
        for steps, node in _located(parent):
            if node is self:
                return paths.format_steps([*paths.parse(parent.path()), *steps])
        return ""  # Removed from its parent: a root of its own.

    def at(self, path: str) -> Any:
        """Returns the value at `path`, for example `cfg.at("decoder.layers[3].norm.eps")`.

        Raises:
            UnknownFieldError: naming the step that does not exist, with near names.
        """
        node: Any = self
        for step in paths.parse(path):
            node = _descend(node, step, self, path)
        return node

    def set_at(self, path: str, value: Any) -> Self:
        """Sets the field, list element or dictionary entry at `path`."""
        self._set_at(path, value, caller_origin())
        return self

    def _set_at(self, path: str, value: Any, origin: Origin) -> None:
        steps = paths.parse(path)
        if not steps:
            raise ConfigError("An empty path names the root, which cannot be replaced in place.")
        last = max(i for i, step in enumerate(steps) if isinstance(step, str))
        owner = self.at(paths.format_steps(steps[:last]))
        name = steps[last]
        if not isinstance(owner, Config):
            raise UnknownFieldError(f"{path}: {type(owner).__qualname__} has no fields.")
        if last + 1 < len(steps):
            self.at(path if not isinstance(self.at(paths.format_steps(steps[:-1])), dict) else
                    paths.format_steps(steps[:-1]))
            value = _with_element(getattr(owner, str(name)), steps[last + 1 :], value)
        owner._set({str(name): value}, origin)

    # ---- whole trees --------------------------------------------------------------------------

    def clone(self, **values: Any) -> Self:
        """Returns an unfrozen copy of the tree below this node, with `values` set on its root."""
        copy = type(self).__new__(type(self))
        state = copy.__dict__
        state["_origins"], state["_parent"], state["_frozen"] = dict(self._origins), None, False
        for name, value in self.items():
            state[name] = copy._adopt(by_value(value))
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
        for name, value in self.items():
            self.__dict__[name] = _frozen(value)
        self.__dict__["_frozen"] = True
        return self

    @property
    def is_frozen(self) -> bool:
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
        conflict, and a child without the field does not fit its slot; both are errors.
        """
        if child is None:
            return
        for name, value in values.items():
            if name not in child:
                raise UnknownFieldError(
                    f"{child._where()}: {type(self).__qualname__} gives this child its {name!r}, "
                    f"but {type(child).__qualname__} has no such field; it does not fit here."
                )
            present = child.__dict__[name]
            if present is REQUIRED or present is None:
                child._set({name: value}, Origin("", 0, f"provided by {self._where()}"))
            elif present != value:
                raise ConfigConflictError(
                    f"{child._where(name)}: set to {present!r}{child._last_set(name)} but its parent "
                    f"{self._where()} provides {value!r}. Leave it unset, or change the parent."
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

    def _unknown(self, name: str) -> UnknownFieldError:
        near = did_you_mean(name, self._field_defaults)
        return UnknownFieldError(
            f"{self._where(name)}: {type(self).__qualname__} has no field {name!r}.{near} "
            f"Its fields: {', '.join(self._field_defaults) or 'none'}."
        )


def children(value: Any) -> Iterator[tuple[paths.Step, Any]]:
    """Yields (step, value) of what lies directly below a config, list, tuple or dict."""
    if isinstance(value, Config):
        yield from value.items()
    elif isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        yield from (((i,), v) for i, v in enumerate(value))
    elif isinstance(value, dict):
        yield from (((k,), v) for k, v in value.items())


def is_branch(value: Any) -> bool:
    """Whether `value` is a node that traversal enters: a config or a container."""
    return isinstance(value, (Config, list, dict)) or (
        isinstance(value, tuple) and not hasattr(value, "_fields")
    )


class FrozenList(list[Any]):
    """A list of a frozen tree: equal to a list, but refuses changes."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise FrozenConfigError("The tree is frozen; change a clone() and use that.")

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse  # type: ignore[assignment]
    append = extend = insert = pop = remove = clear = sort = reverse = _refuse  # type: ignore


class FrozenDict(dict[Any, Any]):
    """A dict of a frozen tree: equal to a dict, but refuses changes."""

    __setitem__ = __delitem__ = __ior__ = FrozenList._refuse  # type: ignore[assignment]
    pop = popitem = clear = update = setdefault = FrozenList._refuse  # type: ignore[assignment]


@contextlib.contextmanager
def naming(node: Config, hook: str) -> Iterator[None]:
    """Prefixes errors of a node's own hook with its path, unless they carry one already."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as e:
        raise ConfigError(f"{node._where()}: {e} (in {type(node).__qualname__}.{hook})") from e


def _visit(
    value: Any, path: str, visit_fn: Any, enter_fn: Any, exit_fn: Any
) -> None:
    if not is_branch(value):
        if visit_fn is not None:
            visit_fn(path, value)
        return
    is_node = isinstance(value, Config)
    if is_node and enter_fn is not None and enter_fn(path, value) is False:
        return
    for step, child in list(children(value)):
        _visit(child, paths.join(path, step), visit_fn, enter_fn, exit_fn)
    if is_node and exit_fn is not None:
        exit_fn(path, value)


def _configs_in(value: Any) -> Iterator[Config]:
    if isinstance(value, Config):
        yield value
    elif is_branch(value):
        for _, child in children(value):
            yield from _configs_in(child)


def _located(node: Config) -> Iterator[tuple[list[paths.Step], Config]]:
    def search(value: Any, steps: list[paths.Step]) -> Iterator[tuple[list[paths.Step], Config]]:
        if isinstance(value, Config):
            yield steps, value
        elif is_branch(value):
            for step, child in children(value):
                yield from search(child, [*steps, step])

    for name, value in node.items():
        yield from search(value, [name])


def _frozen(value: Any) -> Any:
    if isinstance(value, Config):
        return value.freeze()
    if isinstance(value, list):
        return FrozenList(_frozen(v) for v in value)
    if isinstance(value, dict):
        return FrozenDict({k: _frozen(v) for k, v in value.items()})
    if is_branch(value):
        return tuple(_frozen(v) for v in value)
    return value


def _descend(node: Any, step: paths.Step, root: Config, path: str) -> Any:
    if isinstance(node, Config) and isinstance(step, str):
        if step in node:
            return getattr(node, step)
        raise node._unknown(step)
    known = dict(children(node)) if not isinstance(node, Config) else {}
    if isinstance(step, tuple) and isinstance(node, (list, tuple)) and isinstance(step[0], int):
        step = (step[0] % len(node),) if -len(node) <= step[0] < len(node) else step
    if step in known:
        return known[step]
    shown = ", ".join(str(k[0]) for k in known) or "nothing"
    raise UnknownFieldError(
        f"{root._where()}: no {paths.join('', step)!r} in {path!r}; "
        f"there {type(node).__qualname__} holds {shown}."
    )


def _with_element(container: Any, steps: list[paths.Step], value: Any) -> Any:
    """Returns a copy of `container` in which the element at `steps` is `value`."""
    key = steps[0][0]
    if len(steps) > 1:
        value = _with_element(container[key], steps[1:], value)
    if isinstance(container, dict):
        return {**container, key: value}
    items = list(container)
    items[key] = value
    return type(container)(items) if type(container) is tuple else items
