"""`Stack`: what maps hidden states to hidden states, and may cut the batch up to do so.

    sums = stack.forward_then(x_BSD, tokens, rows=(target_ids_BS,), then=norm_and_loss)

What follows a stack is handed to it as a function (continuation passing), so a stack that works on
microbatches can run it on each as soon as it is through, and begin that microbatch's backward pass
there and then. Neither the caller nor any ancestor knows whether it does.

Axes: B batch, S sequence, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from jaxtyping import Array, Float

from trellax.layers.base import BaseLayer
from trellax.layers.module import (
    InvocationContext,
    OutputCollection,
    current_context,
    entered,
    structural,
)


class Stack(BaseLayer):
    """Interface of layers that are called one after the other."""

    def forward(self, x_BSD: Float[Array, "B S D"], *args: Any) -> Float[Array, "B S D"]:
        """Returns `x_BSD` after all layers; `args` go to each of them.

        Args:
            x_BSD: hidden states.
            args: trees. Arrays whose leading dim is B belong to the rows of `x_BSD`.
        """
        raise NotImplementedError

    @structural
    def forward_then(
        self,
        x_BSD: Float[Array, "B S D"],
        *args: Any,
        rows: tuple[Any, ...] = (),
        then: Callable[..., Any],
    ) -> Any:
        """Returns `then(self(x_BSD, *args), *rows)`, possibly as a sum over parts of the batch.

        It is `structural` as it needs no context of its own: `then` runs in the caller's.

        Args:
            x_BSD: hidden states.
            args: trees. Arrays whose leading dim is B belong to the rows of `x_BSD`.
            rows: trees of arrays `[B, ...]` that `then` reads, such as targets.
            then: maps the hidden states of some rows, and the same rows of `rows`, to a named tuple
                (total, weight) of float32 scalars that are sums over these rows. It may use modules
                and their parameters as any code of the caller. Random numbers are the same for all parts.
        """
        return then(self(x_BSD, *args), *rows)


def resumed(then: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `then`, to be called from modules below, yet run in the context of this call."""
    context = current_context()
    assert context is not None, "There is no call to come back to."

    def call(*args: Any) -> Any:
        with entered(context):
            return then(*args)

    return call


def isolated(then: Callable[..., Any]) -> Callable[..., tuple[Any, list[OutputCollection]]]:
    """Returns `then` as a pure function, for loops and gradients: what it adds is returned.

    Its second result has an `OutputCollection` for the running call and each of its ancestors,
    which `absorb` gives to them.
    """
    contexts = list(_calls())

    def call(*args: Any) -> tuple[Any, list[OutputCollection]]:
        before = [(context.outputs, context.calls) for context in contexts]
        for context in contexts:
            context.outputs, context.calls = OutputCollection(), dict(context.calls)
        try:
            result = then(*args)
            return result, [context.outputs for context in contexts]
        finally:
            for context, (outputs, calls) in zip(contexts, before):
                context.outputs, context.calls = outputs, calls

    return call


def absorb(found: list[OutputCollection]) -> None:
    """Adds what an isolated function has added to the calls that it is from."""
    for context, outputs in zip(_calls(), found, strict=True):
        for kind in ("summaries", "state_updates", "losses"):
            ours, new = getattr(context.outputs, kind), getattr(outputs, kind)
            twice = ours.keys() & new.keys()
            if twice:
                names = ", ".join(sorted(twice))
                raise ValueError(f"{context.module.path()}: {names} added twice to its {kind}.")
            ours.update(new)


def _calls() -> Iterator[InvocationContext]:
    context = current_context()
    while context is not None:
        yield context
        context = context.parent
