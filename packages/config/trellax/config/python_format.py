"""Trees as Python source: `to_python(cfg)` is a module whose `config()` makes the tree anew.

    def config():
        cfg = CausalLM.default_config()
        cfg.set(vocab_size=32_000)
        cfg.decoder.layer.set(feed_forward=MoELayer.default_config().set(num_experts=8))
        return cfg

Only what differs from the classes' defaults is written.
"""

from __future__ import annotations

import enum
import math
from typing import Any

from trellax.config import paths
from trellax.config.component import Configurable, component_of
from trellax.config.containers import children, is_container
from trellax.config.defaults import NOTHING, below, class_default, same
from trellax.config.errors import SerializationError
from trellax.config.fields import REQUIRED
from trellax.config.function import CallConfig
from trellax.config.imports import import_path
from trellax.config.json_format import is_dtype, is_record, record_fields
from trellax.config.source import Call, Imports, Items, Source, flat, layout
from trellax.config.template import Template
from trellax.config.text import is_open
from trellax.config.tree import Config


def to_python(cfg: Config, *, name: str = "config") -> str:
    """Returns Python source with a function `name()` that returns a tree equal to `cfg`.

    Raises:
        SerializationError: naming the path of a value that cannot be written (a lambda).
    """
    writer = _Writer()
    root = f"    cfg = {layout(writer.new(cfg, ''), indent=4, used=6)}"
    rest = writer.statements(cfg, class_default(cfg), "cfg", "", made=True)
    body = [root, *rest, "    return cfg"]
    # Black puts a top-level function two blank lines below the imports.
    head = writer.imports.lines()
    return "\n".join([*head, "", "", f"def {name}():", *body]) + "\n"


class _Writer:
    """Collects the imports of the expressions that it writes."""

    def __init__(self) -> None:
        self.imports = Imports()

    def statements(
        self, node: Any, default: Any, target: str, path: str, *, made: bool = False
    ) -> list[str]:
        """Returns statements that turn `default` into `node`.

        Args:
            node: a config, or a container with configs in it.
            default: what is there before.
            target: the expression by which the statements reach it.
            path: its path, for errors.
            made: whether an expression made it just now, with its own fields set (see `new`).
        """
        lines = []
        fields = [] if made else self._assigned(node, default, path)
        if fields:
            lines.append(f"    {layout(Call(f'{target}.set', fields), indent=4, used=0)}")
        for step, child in children(node):
            if not is_open(child) or isinstance(child, Template):
                continue
            slot = below(default, step)
            is_new = not self._reachable(child, slot) or (made and is_container(node))
            start = _made(child) if is_new else slot
            name = self._target(target, step, path)
            lines += self.statements(child, start, name, paths.join(path, step), made=is_new)
        return lines

    def new(self, node: Config, path: str, *, whole: bool = False) -> Source:
        """Returns an expression that makes a config of `node`'s class and sets its own fields.

        Fields of its children are left to `statements`, unless the expression must do it all.
        """
        default = class_default(node)
        made = Call(self._maker(node, path), self._maker_arguments(node, path))
        if whole:
            differing = [(k, v) for k, v in node.items() if not same(v, below(default, k))]
            fields = [
                (k, self.expression(v, paths.join(path, k), whole=True)) for k, v in differing
            ]
        else:
            fields = self._assigned(node, default, path)
        if fields and component_of(node) is None:
            return Call(made.function, fields)  # A plain config has no component: it is called.
        return Call(made, fields, method="set") if fields else made

    def expression(self, value: Any, path: str, *, whole: bool = False) -> Source:
        """Returns an expression for any value of a field."""
        if isinstance(value, Config):
            return self.new(value, path, whole=whole)
        if isinstance(value, Template):
            template = self.imports.name("trellax.config:Template")
            return Call(template, [("", self.new(value.cfg, path, whole=True))])
        if is_container(value):
            return self._container(value, path, whole)
        if is_record(value):
            fields = [(k, self.expression(v, path)) for k, v in record_fields(value)]
            return Call(self._name(type(value), path), fields)
        return self._atom(value, path)

    def _container(self, value: Any, path: str, whole: bool) -> Source:
        parts = []
        for step, child in children(value):
            key = self.expression(step[0], path) if isinstance(value, dict) else ""
            parts.append((key, self.expression(child, paths.join(path, step), whole=whole)))
        brackets = "{}" if isinstance(value, dict) else "()" if isinstance(value, tuple) else "[]"
        return Items(brackets, parts)

    def _atom(self, value: Any, path: str) -> str:
        if value is REQUIRED:
            return self.imports.name("trellax.config:REQUIRED")
        if isinstance(value, enum.Enum):
            return f"{self._name(type(value), path)}.{value.name}"
        if isinstance(value, str):
            return quoted(value)
        if isinstance(value, float):
            text = repr(float(value))
            return text if math.isfinite(value) else f'float("{text}")'
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        if is_dtype(value):
            return f"{self.imports.name('numpy:dtype')}({quoted(value.name)})"
        if callable(value) and (hasattr(value, "__qualname__") or hasattr(value, "__name__")):
            return self._name(value, path)
        raise SerializationError(
            f"{path}: a value of type {type(value).__qualname__} cannot be written as Python."
        )

    def _assigned(self, node: Any, default: Any, path: str) -> list[tuple[str, Source]]:
        """Returns the fields that must be assigned, as opposed to changed inside."""
        if not isinstance(node, Config):
            return []
        return [
            (name, self.expression(value, paths.join(path, name)))
            for name, value in node.items()
            if not self._reachable(value, below(default, name))
        ]

    def _reachable(self, value: Any, default: Any) -> bool:
        """Whether `default` is `value`, or can be made so by changing fields inside it."""
        if isinstance(value, Config):
            return type(default) is type(value)
        if is_container(value) and is_open(value):
            return self._same_shape(value, default)
        return default is not NOTHING and same(value, default)

    def _same_shape(self, value: Any, default: Any) -> bool:
        """Whether two containers have the same keys and nodes of the same classes in them."""
        if not is_container(default) or isinstance(value, tuple) != isinstance(default, tuple):
            return False
        if isinstance(value, dict) != isinstance(default, dict) or len(value) != len(default):
            return False
        return all(self._reachable(child, below(default, step)) for step, child in children(value))

    def _maker(self, node: Config, path: str) -> str:
        if isinstance(node, CallConfig):
            kind = "class" if isinstance(component_of(node), type) else "function"
            return self.imports.name(f"trellax.config:config_for_{kind}")
        component = component_of(node)
        if isinstance(component, type) and issubclass(component, Configurable):
            return f"{self._name(component, path)}.default_config"
        return self._name(type(node), path)

    def _maker_arguments(self, node: Config, path: str) -> list[tuple[str, Source]]:
        return [("", self._name(component_of(node), path))] if isinstance(node, CallConfig) else []

    def _target(self, target: str, step: paths.Step, path: str) -> str:
        if isinstance(step, str):
            return f"{target}.{step}"
        return f"{target}[{flat(self.expression(step[0], path))}]"

    def _name(self, obj: Any, path: str) -> str:
        try:
            return self.imports.name(import_path(obj))
        except SerializationError as e:
            raise SerializationError(f"{path or '(root)'}: {e}") from None


def _made(value: Any) -> Any:
    """Returns the baseline of what an expression just made: defaults of the classes in it."""
    if isinstance(value, Config):
        return class_default(value)
    if isinstance(value, dict):
        return {k: _made(v) for k, v in value.items()}
    if is_container(value):
        items = [_made(v) for v in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value


def quoted(text: str) -> str:
    """Returns a string literal as black writes it: in double quotes where that needs no escapes."""
    literal = repr(text)
    if literal[0] == "'" and '"' not in literal:
        return f'"{literal[1:-1]}"'
    return literal
