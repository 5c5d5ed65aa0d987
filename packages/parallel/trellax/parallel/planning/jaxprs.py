"""Reading jaxprs: what is called, what is used, how often loops run. Needs no private module of JAX.

A jaxpr is open (`.eqns`) or closed (`.jaxpr` holds the open one); equations hold either in their parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any


def closed(jaxpr: Any) -> Any:
    """Returns the jaxpr with equations, whether an open or a closed one is given."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def called_jaxprs(eqn: Any) -> Iterator[Any]:
    """Yields the (open) jaxprs in an equation's parameters."""
    for value in eqn.params.values():
        for inner in value if isinstance(value, tuple | list) else [value]:
            inner = closed(inner)
            if hasattr(inner, "eqns"):
                yield inner


def primitive_name(eqn: Any) -> str:
    """Returns the name of what an equation does: "dot_general", "scan"."""
    return str(eqn.primitive.name)


def is_literal(variable: Any) -> bool:
    """Whether an operand is a constant written in the equation."""
    return hasattr(variable, "val")


def live_equations(jaxpr: Any, used_outputs: Sequence[bool]) -> list[tuple[Any, list[bool]]]:
    """Returns the equations that matter, each with which of its results are used.

    Args:
        jaxpr: an open jaxpr.
        used_outputs: for each of its results, whether the caller uses it.
    """
    used = {v for v, u in zip(jaxpr.outvars, used_outputs, strict=True) if u and not is_literal(v)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        results = [v in used for v in eqn.outvars]
        if any(results) or eqn.effects:
            live.append((eqn, results))
            used.update(v for v in eqn.invars if not is_literal(v))
    return live[::-1]


def trip_count(eqn: Any) -> int | None:
    """Returns how often a `while` equation runs its body, None if that depends on data.

    JAX writes `fori_loop(low, high, ...)` with constants as a counter that is compared with a bound, both of which the loop
    carries from constants on.
    """
    condition = closed(eqn.params["cond_jaxpr"])
    if len(condition.eqns) != 1 or primitive_name(condition.eqns[0]) != "lt":
        return None
    consts = eqn.params["cond_nconsts"]
    carried = eqn.invars[consts + eqn.params["body_nconsts"] :]
    outer = dict(zip(condition.invars, [*eqn.invars[:consts], *carried], strict=True))
    low, high = (v if is_literal(v) else outer.get(v) for v in condition.eqns[0].invars)
    if low is None or high is None or not (is_literal(low) and is_literal(high)):
        return None
    return max(0, int(high.val) - int(low.val))


def manual_devices(eqn: Any) -> int:
    """Returns how many devices run the body of a `shard_map` equation, each on its own block."""
    sizes = eqn.params["mesh"].shape
    axes = eqn.params.get("manual_axes")
    return math.prod(sizes[axis] for axis in (sizes if axes is None else axes))
