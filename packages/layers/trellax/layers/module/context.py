"""The invocation context: what a module may use while one of its methods runs.

A context belongs to one call of one module. It holds the module's own part of the parameters and of
the state, and derives random keys from names, so that adding a module never changes the randomness
of another.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax

from trellax.layers.module.outputs import OutputCollection

if TYPE_CHECKING:
    from trellax.layers.module.module import Module

Tree = dict[str, Any]
PRNGKey = jax.Array | Callable[[], jax.Array | None] | None


@dataclasses.dataclass
class InvocationContext:
    """The surroundings of one call.

    Attributes:
        module: whose call this is.
        params: the module's part of the parameter tree.
        state: the module's part of the mutable state; None outside of decoding and the like.
        is_training: whether dropout, remat and the like are on.
        parent: the context that the call was made from; None at the root.
        key: a key given for this very context (at the root, or one a layer inside a scan), or a
            function that computes it when somebody asks.
        name: names the call's outputs, and is folded into the parent's key where no `key` is given.
        in_loop: whether the call runs in the body of a loop (`lax.scan`) of an ancestor.
        outputs: what the call has added so far.
        calls: how often each module was called from here, to tell the calls apart.
    """

    module: Module
    params: Tree
    state: Tree | None
    is_training: bool
    parent: InvocationContext | None = None
    key: PRNGKey = None
    name: str = ""
    in_loop: bool = False
    outputs: OutputCollection = dataclasses.field(default_factory=OutputCollection)
    calls: dict[str, int] = dataclasses.field(default_factory=dict)

    def prng_key(self) -> jax.Array | None:
        """Returns this context's key, or None if the root was given none.

        Derived anew at each use: a cached key could outlive the trace that made it, and a call that
        draws nothing random should trace nothing.
        """
        if callable(self.key):
            return self.key()
        if self.key is not None or self.parent is None:
            return self.key
        key = self.parent.prng_key()
        return None if key is None else fold_in_name(key, self.name)

    def child(self, module: Module) -> InvocationContext:
        """Returns a context for a call of `module` from here, with its owner's parameters.

        Args:
            module: a child of this context's module, or one that an ancestor shares.

        Raises:
            RuntimeError: if the module is neither.
        """
        owner = self._owner(module)
        count = self.calls.get(module.name, 0)
        self.calls[module.name] = count + 1
        return InvocationContext(
            module=module,
            params=owner.params.get(module.name, {}),
            state=None if owner.state is None else owner.state.get(module.name, {}),
            is_training=self.is_training,
            parent=self,
            name=f"{module.name}_{count}" if count else module.name,
            in_loop=self.in_loop,
        )

    def repeated(self, *, params: Tree, state: Tree | None) -> InvocationContext:
        """Returns this context, yet without outputs, for a trace of the call on other arrays."""
        return dataclasses.replace(
            self, params=params, state=state, outputs=OutputCollection(), calls={}
        )

    def _owner(self, module: Module) -> InvocationContext:
        context: InvocationContext | None = self
        while context is not None:
            if context.module is module.parent:
                return context
            context = context.parent
        raise RuntimeError(
            f"{self.module.path()} calls {module.path()}, which is neither its child nor shared by "
            f"an ancestor."
        )


_current: contextvars.ContextVar[InvocationContext | None] = contextvars.ContextVar(
    "trellax_invocation_context", default=None
)


def current_context() -> InvocationContext | None:
    """Returns the context of the innermost running call, or None outside of `functional`."""
    return _current.get()


@contextlib.contextmanager
def entered(context: InvocationContext) -> Iterator[InvocationContext]:
    """Makes `context` the current one."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def fold_in_name(key: jax.Array, name: str) -> jax.Array:
    """Returns a key for `name`: stable over processes, versions and the order of calls."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
