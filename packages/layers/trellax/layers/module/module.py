"""`Module`: a stateless tree of components whose methods run inside invocation contexts.

    class Mlp(Module):
        def __init__(self, cfg, *, name="mlp", parent=None):
            super().__init__(cfg, name=name, parent=parent)
            self.add_child("up", cfg.up)

        def forward(self, x_BD):
            return self.up(x_BD)

Public methods are wrapped once, when the class is made: called on a child, they run in the child's
context. Methods that need no context (they describe structure) are marked `@structural`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from trellax.config import Configurable
from trellax.layers.module.context import InvocationContext, current_context, entered
from trellax.layers.module.outputs import WeightedScalar

F = TypeVar("F", bound=Callable[..., Any])

_CHILD_NAME = re.compile(r"[a-z][a-z0-9_]*")


def structural(method: F) -> F:
    """Marks a public method that describes the module and needs no invocation context."""
    method._is_structural = True  # type: ignore[attr-defined]
    return method


class Module(Configurable):
    """A node of the tree. Holds children and its frozen config, never arrays."""

    class Config(Configurable.Config):
        """Fields of every module: none."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in list(vars(cls).items()):
            inherited = getattr(super(cls, cls), name, None)
            if getattr(inherited, "_is_structural", False):
                member._is_structural = True  # An override of a structural method is one too.
            if _runs_in_context(name, member):
                setattr(cls, name, _in_context(member))

    def __init__(self, cfg: Any, *, name: str = "root", parent: Module | None = None):
        super().__init__(cfg)
        self.name = name
        self.parent = parent
        self.children: dict[str, Module] = {}
        self._shared: dict[str, Module] = {}

    # ---- structure ------------------------------------------------------------------------------

    @structural
    def add_child(self, name: str, cfg: Any) -> Any:
        """Builds a child from its config, and sets it as attribute `name`.

        Args:
            name: a new lower_case name.
            cfg: the child's config; None, for an optional child, sets the attribute to None.

        Raises:
            ValueError: if the name is taken or not a lower-case identifier.
        """
        taken = name in self.__dict__ or hasattr(type(self), name)
        if taken or not _CHILD_NAME.fullmatch(name):
            raise ValueError(
                f"{self.path()}: a child cannot be called {name!r}; use a new lower_case name."
            )
        if cfg is None:
            setattr(self, name, None)
            return None
        child = cfg.instantiate(name=name, parent=self)
        self.children[name] = child
        setattr(self, name, child)
        return child

    @structural
    def share(self, name: str, module: Module) -> None:
        """Lets every descendant find `module` (a child of this one) by `shared(name)`."""
        assert module.parent is self, f"{self.path()} shares {module.path()}, not a child of it."
        self._shared[name] = module

    @structural
    def shared(self, name: str) -> Any:
        """Returns the module that the nearest ancestor shares as `name`; calls on it use its own
        parameters.

        Raises:
            LookupError: if no ancestor shares such a module.
        """
        node: Module | None = self
        while node is not None:
            if name in node._shared:
                return node._shared[name]
            node = node.parent
        raise LookupError(f"{self.path()}: no ancestor shares a module called {name!r}.")

    @structural
    def path(self) -> str:
        """Returns the path from the root, for example "decoder.stack.layer.attention"."""
        if self.parent is None or self.parent.parent is None and self.parent.name == "root":
            return self.name
        return f"{self.parent.path()}.{self.name}"

    @structural
    def forward_flops_per_token(self, sequence_length: int) -> float:
        """Returns the matmul FLOPs (2 per multiply-add) of one token's forward pass.

        Args:
            sequence_length: tokens that attention sees, in full (causal masks are not discounted).
        """
        return sum(c.forward_flops_per_token(sequence_length) for c in self.children.values())

    # ---- inside a call --------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module; subclasses say on what."""
        raise NotImplementedError(f"{type(self).__qualname__} has no forward.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    @property
    def context(self) -> InvocationContext:
        """The context of the running call of this module."""
        context = current_context()
        if context is None or context.module is not self:
            raise RuntimeError(
                f"{self.path()} is not being called; call it through `functional` or its parent."
            )
        return context

    @property
    def is_training(self) -> bool:
        return self.context.is_training

    @property
    def parameters(self) -> dict[str, Any]:
        """The module's own parameter arrays (children's are in nested dicts)."""
        return self.context.params

    @property
    def state(self) -> dict[str, Any] | None:
        """The module's own state arrays, or None where the call carries no state."""
        return self.context.state

    @property
    def prng_key(self) -> jax.Array:
        """A key for this call, derived from the names on the path to it."""
        key = self.context.prng_key()
        if key is None:
            raise ValueError(f"{self.path()} needs randomness: give `functional` a prng_key.")
        return key

    @structural
    def add_summary(self, name: str, value: jax.Array | WeightedScalar) -> None:
        """Adds a scalar to be logged as "path/of/module/name"."""
        self._add("summaries", name, value)

    @structural
    def add_module_output(self, name: str, value: Any) -> None:
        """Adds an array for tests and probes; the trainer drops it."""
        self._add("module_outputs", name, value)

    @structural
    def add_state_update(self, name: str, value: Any) -> None:
        """Sets the new value of the state entry `name` of this module."""
        self._add("state_updates", name, value)

    @structural
    def add_loss(self, name: str, value: jax.Array) -> None:
        """Adds an auxiliary loss term (float32 scalar, mean per target, already scaled)."""
        self._add("losses", name, value)

    def _invoke(
        self, method: Callable[..., Any], context: InvocationContext, args: Any, kwargs: Any
    ) -> Any:
        """Runs a method in its context; a layer may wrap it (remat)."""
        return method(self, *args, **kwargs)

    def _add(self, kind: str, name: str, value: Any) -> None:
        tree = getattr(self.context.outputs, kind)
        if name in tree:
            raise ValueError(f"{self.path()}: {name!r} is already among the call's {kind}.")
        tree[name] = value


def _runs_in_context(name: str, member: Any) -> bool:
    if name.startswith("_") or not inspect.isfunction(member):
        return False
    return not getattr(member, "_is_structural", False)


def _in_context(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Module, *args: Any, **kwargs: Any) -> Any:
        caller = current_context()
        if caller is None:
            raise RuntimeError(
                f"{self.path()}.{method.__name__} runs only inside `functional(...)`."
            )
        if caller.module is self:
            return method(self, *args, **kwargs)
        return _call_child(caller, self, method, args, kwargs)

    return call


def _call_child(
    caller: InvocationContext, module: Module, method: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    context = caller.child(module)
    # Named scopes lead from an operation in a profile, or in a compiler's message, to the module.
    with entered(context), jax.named_scope(context.name):
        result = module._invoke(method, context, args, kwargs)
    if module.parent is not caller.module and context.outputs.state_updates:
        raise ValueError(f"{module.path()} is shared and cannot update state from elsewhere.")
    # Outputs go to the caller: the owner may live outside of a scan that the caller is in.
    caller.outputs.adopt(context.name, context.outputs, state_name=module.name)
    return result
