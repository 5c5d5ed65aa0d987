"""What remat policies keep and compute again: a sweep over policies, offline.

    print(remat_text(remat_rows(planned)))

Policies apply to the layers that have one in the plan (those that the mesh rule gives one), which are replaced together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from trellax.config import component_of, finalize, nodes
from trellax.experiments.planning import units
from trellax.experiments.planning.program import PlannedProgram
from trellax.layers import functional, is_spec, total_loss
from trellax.parallel import RematPolicy
from trellax.parallel.planning import RematCost, flops_of, pareto_front, remat_costs, saved_bytes

_QKV = ("q_proj", "k_proj", "v_proj")
_ATTENTION = ("attention_context", "attention_statistics")

POLICIES: Mapping[str, RematPolicy.Config | None] = {
    "keep all": None,
    "keep matmuls and attention": RematPolicy.Config(save=_ATTENTION, others="save_batchless_dots"),
    "keep q, k, v, attention, ffn_up, ffn_gate": RematPolicy.Config(
        save=(*_QKV, *_ATTENTION, "ffn_up", "ffn_gate")
    ),
    "keep q, k, v, attention": RematPolicy.Config(save=(*_QKV, *_ATTENTION)),
    "keep attention": RematPolicy.Config(save=_ATTENTION),
    "offload q, k, v, keep attention": RematPolicy.Config(save=_ATTENTION, offload=_QKV),
    "offload matmuls": RematPolicy.Config(others="offload_batchless_dots"),
    "offload inputs": RematPolicy.Config(offload=("block_input",)),
    "keep nothing": RematPolicy.Config(),
}


@dataclasses.dataclass(frozen=True)
class RematRow:
    """A policy's costs in the plan.

    Attributes:
        policy: what it keeps.
        device_bytes: kept by one device between forward and backward pass.
        host_bytes: offloaded by one device.
        recomputed: FLOPs computed again, as a share of the step's without remat.
        is_on_front: whether no other policy is better in one of these and worse in none.
        is_the_plans: whether the plan has this policy.
    """

    policy: str
    device_bytes: float
    host_bytes: float
    recomputed: float
    is_on_front: bool
    is_the_plans: bool


def policies_of(cfg: Any) -> dict[str, RematPolicy.Config | None]:
    """Returns the policies to compare: the named ones, and a trainer's own if it is none of them."""
    own = current_policy(cfg)
    if own in POLICIES.values():
        return dict(POLICIES)
    assert own is not None  # "keep all" is among them.
    return {**POLICIES, _name_of(own): own}


def current_policy_name(cfg: Any) -> str:
    """Returns the name of a trainer's own policy among `policies_of`."""
    own = current_policy(cfg)
    return next(name for name, policy in policies_of(cfg).items() if policy == own)


def _name_of(policy: RematPolicy.Config) -> str:
    parts = {
        "keep": policy.save,
        "offload": policy.offload,
        "recompute": policy.recompute,
        "others:": () if policy.others == "recompute" else (policy.others,),
    }
    return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)


def remat_rows(planned: PlannedProgram) -> list[RematRow]:
    """Returns the costs of all policies, those that keep most first.

    Bytes are those of all devices over their number, as if every activation were split over all axes of the mesh: what
    `model` does not split takes more.
    """
    costs = policy_costs(planned)
    front = {cost.name for cost in pareto_front(costs)}
    own = current_policy_name(planned.cfg)
    devices = planned.hardware.num_devices
    needed = _needed_flops(planned)
    rows = [
        RematRow(
            policy=cost.name,
            device_bytes=cost.device_bytes / devices,
            host_bytes=cost.host_bytes / devices,
            recomputed=cost.recomputed_flops / needed,
            is_on_front=cost.name in front,
            is_the_plans=cost.name == own,
        )
        for cost in costs
    ]
    return sorted(rows, key=lambda row: -row.device_bytes)


def policy_costs(planned: PlannedProgram) -> list[RematCost]:
    """Returns what each policy costs all devices together, in one forward and backward pass (of a microbatch)."""
    params, batch = abstract_inputs(planned)
    losses = {name: _loss_fn(planned, policy) for name, policy in policies_of(planned.cfg).items()}
    return remat_costs(losses, params, batch)


def kept_bytes(planned: PlannedProgram) -> tuple[float, float]:
    """Returns the bytes of one device and of its host that the plan's own policy keeps of a microbatch, with every
    activation split over all devices."""
    loss = _loss_fn(planned, current_policy(planned.cfg))
    on_device, on_host = saved_bytes(loss, *abstract_inputs(planned))
    devices = planned.hardware.num_devices
    return on_device / devices, on_host / devices


def with_policy(cfg: Any, policy: RematPolicy.Config | None) -> Any:
    """Returns a copy of a trainer's config whose rematerialized layers have another policy.

    They are those with a policy, or, where there is none, the layers of the stacks.
    """
    cfg = cfg.clone()
    for node in _rematerialized(cfg):
        node.set(remat=policy)
    return cfg


def current_policy(cfg: Any) -> RematPolicy.Config | None:
    """Returns the policy of the first rematerialized layer; None if all activations are kept."""
    policies = [node.remat for node in _rematerialized(cfg)]
    return policies[0] if policies else None


def rematerialized_class(cfg: Any) -> str:
    """Returns the name of the class of the first rematerialized layer, as `RematModifier` takes it."""
    return next(
        (component_of(node).__name__ for node in _rematerialized(cfg)), "BaseTransformerLayer"
    )


def abstract_inputs(planned: PlannedProgram) -> tuple[Any, Any]:
    """Returns parameters in the compute type and one microbatch, as shapes."""
    dtype = np.dtype(planned.cfg.compute_dtype)
    steps = planned.cfg.accumulation_steps
    params = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, dtype if spec.trainable else spec.dtype),
        planned.program.model.all_parameter_specs(),
        is_leaf=is_spec,
    )
    batch = {
        name: jax.ShapeDtypeStruct((x.shape[0] // steps, *x.shape[1:]), x.dtype)
        for name, x in planned.cfg.input.batch_spec().items()
    }
    return params, batch


def _rematerialized(cfg: Any) -> list[Any]:
    layers = [node for _, node in nodes(cfg.model) if "remat" in node]
    chosen = [node for node in layers if node.remat is not None]
    return chosen or [node.layer for node in layers if "layer" in node]


def _loss_fn(planned: PlannedProgram, policy: RematPolicy.Config | None) -> Callable[..., Any]:
    model = finalize(with_policy(planned.cfg, policy).model).instantiate()

    def loss(params: Any, batch: Any) -> Any:
        with planned.program.placement.scope():
            output, collection = functional(
                model, params=params, args=(batch,), prng_key=jax.random.key(0), is_training=True
            )
        return output.total + total_loss(collection)

    return loss


def _needed_flops(planned: PlannedProgram) -> float:
    """FLOPs of a forward and backward pass of a microbatch that keeps everything."""
    return flops_of(
        jax.make_jaxpr(jax.grad(_loss_fn(planned, None)))(*abstract_inputs(planned))
    ).total


def remat_text(rows: list[RematRow]) -> str:
    """Returns the sweep as a table."""
    table = [("policy", "kept by a device", "by its host", "recomputed", "")]
    for row in rows:
        marks = "*" * row.is_on_front + " this plan" * row.is_the_plans
        sizes = (units.gib(row.device_bytes), units.gib(row.host_bytes))
        table.append((row.policy, *sizes, units.percent(row.recomputed), marks.strip()))
    title = "remat policies, between the passes of a microbatch (* none is better in all three)"
    return "\n".join([title, *units.aligned(table, right=(1, 2, 3))])
