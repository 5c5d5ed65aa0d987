"""What remat policies cost: bytes kept between forward and backward pass against FLOPs computed again.

    tagged_bytes(loss, params, batch)  # {"q_proj": ..., "mlp_up": ...}: what could be saved
    for cost in pareto_front(remat_costs({"save all": loss_a, "recompute": loss_b}, params, batch)):
        print(cost.name, cost.device_bytes, cost.recomputed_flops)

Everything is traced, nothing compiled or run, so a sweep over policies takes seconds. Bytes and FLOPs are those of the
program before partitioning, of all devices together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trellax.parallel.planning.flops import flops_of
from trellax.parallel.planning.jaxprs import (
    called_jaxprs,
    closed,
    is_literal,
    manual_devices,
    primitive_name,
    trip_count,
)


@dataclasses.dataclass(frozen=True)
class RematCost:
    """What a policy costs in one step."""

    name: str
    device_bytes: float
    """Kept on devices between forward and backward pass, beside the arguments."""
    host_bytes: float
    """Offloaded to hosts in between."""
    recomputed_flops: float
    """Computed a second time, for the backward pass."""


def tagged_bytes(fn: Callable[..., Any], *args: Any) -> dict[str, float]:
    """Returns the bytes of the activations with each tag, all layers together, the largest first.

    Args:
        fn: a function of arrays, such as the loss.
        *args: its arguments; `jax.ShapeDtypeStruct`s will do.
    """
    import jax

    total: dict[str, float] = {}
    _add_tagged(closed(jax.make_jaxpr(fn)(*args)), 1, total)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def saved_bytes(loss: Callable[..., Any], *args: Any) -> tuple[float, float]:
    """Returns the bytes that the backward pass finds in devices' memory, and in hosts', beside the arguments.

    Args:
        loss: a function with a scalar result, differentiated with respect to its first argument.
        *args: its arguments; `jax.ShapeDtypeStruct`s will do.
    """
    import jax

    def backward(
        params: Any, *rest: Any
    ) -> Any:  # A function of JAX's, and a tree of the arrays that it holds.
        return jax.vjp(lambda p: loss(p, *rest), params)[1]

    traced = closed(jax.make_jaxpr(backward)(*args))
    kept = {v for v in traced.outvars if not is_literal(v)}
    kept -= {*traced.invars, *traced.constvars}
    host = {v for v in kept if "<host>" in str(v.aval)}
    return sum(map(_bytes, kept - host)), sum(map(_bytes, host))


def remat_costs(losses: Mapping[str, Callable[..., Any]], *args: Any) -> list[RematCost]:
    """Returns what each of several versions of one loss costs, which differ in their remat policies alone.

    Args:
        losses: functions with a scalar result, by the name of the policy. Include one that saves everything: the others'
            recomputed FLOPs are counted from the one with the fewest.
        *args: their arguments; `jax.ShapeDtypeStruct`s will do. The gradient is with respect to the first.
    """
    import jax

    flops = {
        name: flops_of(jax.make_jaxpr(jax.grad(loss))(*args)).total for name, loss in losses.items()
    }
    least = min(flops.values(), default=0.0)
    costs = []
    for name, loss in losses.items():
        on_device, on_host = saved_bytes(loss, *args)
        costs.append(RematCost(name, on_device, on_host, flops[name] - least))
    return costs


def pareto_front(costs: Iterable[RematCost]) -> list[RematCost]:
    """Returns the costs that no other undercuts, by bytes on devices.

    One undercuts another if none of its bytes on devices, bytes on hosts and FLOPs is larger, and one is smaller.
    """
    parts = lambda c: (c.device_bytes, c.host_bytes, c.recomputed_flops)
    front: list[RematCost] = []
    for cost in sorted(costs, key=parts):  # What undercuts a cost comes before it.
        if not any(all(a <= b for a, b in zip(parts(o), parts(cost), strict=True)) for o in front):
            front.append(cost)
    return front


def _add_tagged(jaxpr: Any, times: int, total: dict[str, float]) -> None:
    for eqn in jaxpr.eqns:
        name = primitive_name(eqn)
        if name == "name":
            tag = str(eqn.params["name"])
            total[tag] = total.get(tag, 0.0) + times * _bytes(eqn.outvars[0])
        runs = {
            "scan": lambda e: e.params["length"],
            "while": trip_count,
            "shard_map": manual_devices,
        }
        inner = times * ((runs[name](eqn) or 1) if name in runs else 1)
        for called in called_jaxprs(eqn):
            _add_tagged(called, inner, total)


def _bytes(variable: Any) -> float:
    aval = variable.aval
    return float(math.prod(aval.shape) * aval.dtype.itemsize) if hasattr(aval, "dtype") else 0.0
