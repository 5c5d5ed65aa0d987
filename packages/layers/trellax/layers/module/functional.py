"""The one bridge to JAX: a module call as a pure function of arrays.

output, collection = functional(model, params=params, args=(batch,), is_training=True)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from trellax.layers.module.context import (
    InvocationContext,
    PRNGKey,
    current_context,
    entered,
)
from trellax.layers.module.module import Module
from trellax.layers.module.outputs import OutputCollection


def functional(
    module: Module,
    *,
    params: dict[str, Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    prng_key: PRNGKey = None,
    is_training: bool,
    method: str = "forward",
    in_loop: bool = False,
) -> tuple[Any, OutputCollection]:
    """Calls `module.method(*args, **kwargs)` with everything it depends on given explicitly.

    Args:
        module: the root of the call, or (inside another call) a layer that is run in a scan.
        params: the module's parameter tree.
        args: positional inputs.
        kwargs: named inputs.
        state: the module's mutable state tree, None if the call carries none.
        prng_key: root of all randomness, or a function that computes it when it is needed; None
            if nothing random happens or, inside another call, for a key derived from the caller's.
        is_training: whether dropout, remat and the like are on.
        method: name of a public method.
        in_loop: whether the call is the body of a loop such as `lax.scan`. A loop keeps XLA from
            merging recomputed activations with saved ones, so remat need not.

    Returns:
        (result, what the modules of the call added).
    """
    caller = current_context()
    context = InvocationContext(
        module=module,
        params=params,
        state=state,
        is_training=is_training,
        parent=caller,  # So that a layer in a scan still finds shared modules.
        key=prng_key,
        name=module.name,
        in_loop=in_loop or (caller is not None and caller.in_loop),
    )
    with entered(context), jax.named_scope(module.name):
        result = module._invoke(getattr(type(module), method), context, args, kwargs or {})
    return result, context.outputs
