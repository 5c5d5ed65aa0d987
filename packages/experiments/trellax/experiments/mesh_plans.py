"""How models of one size run on each kind of hardware: a line a chip, from which mesh rules are made.

    mesh_rules(MEDIUM, Batch(rows=1024, length=4096))

A `Plan` says how the devices are arranged, which activations stay in memory, and how many tokens a device works on at a
time. The names of hardware are those of `trellax.parallel.hardware_named`. Of each chip a few ranges of sizes are told
apart, because the batch is divided among the devices and the rest of it accumulated: few devices take many steps.

Memory that a plan has to fit, of one device: 16 bytes a parameter (its value, AdamW's two moments and the gradient, all
float32) over the devices that split it, and the saved activations of `tokens` tokens. Meshes and policies follow published
configurations where these exist (fsdp of a slice with replicas across; tensor parallelism of 8 in nodes of H100).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from trellax.config import SetModifier
from trellax.parallel import (
    AccumulationModifier,
    AxisSizes,
    LogicalAxisRules,
    MeshRule,
    MeshShape,
    RematModifier,
    RematPolicy,
    nothing_saveable,
    offload_names,
    save_names,
    tensor_sequence_rules,
)

# ---- what stays in memory for the backward pass ----------------------------------------------------

_QKV = ("q_proj", "k_proj", "v_proj")
_CONTEXT = ("attention_context", "attention_statistics")
KEEP_DOTS = RematPolicy.Config(save=_CONTEXT, others="save_batchless_dots")
KEEP_ATTENTION = save_names(*_QKV, *_CONTEXT)
KEEP_QKV = save_names(*_QKV)
KEEP_CONTEXT = save_names(*_CONTEXT)
OFFLOAD_DOTS = RematPolicy.Config(others="offload_batchless_dots")
OFFLOAD_ATTENTION = offload_names(*_QKV, "attention_context", "o_proj")
OFFLOAD_QKV_AND_INPUT = offload_names("block_input", *_QKV)
OFFLOAD_INPUT = offload_names("block_input")


# ---- how devices are arranged ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh, the rules that go with it, and a line about both."""

    mesh_shape: MeshShape
    description: str
    axis_rules: LogicalAxisRules | None = None
    """None: those of the experiment."""


def fsdp(size: int) -> Layout:
    """Parameters over `size` devices, replicas over the rest."""
    return Layout(
        MeshShape(fsdp=size, data=-1), f"FSDP over {size} devices, data-parallel over the rest"
    )


FSDP_ALL = Layout(MeshShape(fsdp=-1), "FSDP over all devices")
FSDP_NODE = Layout(
    MeshShape(fsdp=8, dcn=AxisSizes(data=-1)), "FSDP in a node, data-parallel across nodes"
)
TENSOR_NODE = Layout(
    MeshShape(model=8, dcn=AxisSizes(fsdp=-1)),
    "tensor and sequence parallel in a node, FSDP across nodes",
    tensor_sequence_rules(),
)
EXPERT_NODE = Layout(
    MeshShape(expert=8, dcn=AxisSizes(fsdp=-1)), "expert parallel in a node, FSDP across nodes"
)


def tensor(size: int) -> Layout:
    """Heads, feed-forward and norms over `size` neighbours, parameters over all devices."""
    return Layout(
        MeshShape(fsdp=-1, model=size),
        f"tensor and sequence parallel over {size} devices, FSDP over the rest",
        tensor_sequence_rules(),
    )


def experts(*, expert: int, fsdp: int) -> Layout:
    """Experts over `expert` groups of devices, parameters over all of `expert` x `fsdp`, replicas over the rest."""
    return Layout(
        MeshShape(data=-1, expert=expert, fsdp=fsdp),
        f"expert parallel over {expert}, FSDP over {fsdp} devices, data-parallel over the rest",
    )


# ---- sizes of hardware -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Size:
    """A range of sizes of one chip.

    Attributes:
        pattern: of what follows the chip in a hardware's name.
        devices: how many there typically are.
        most: the most devices that the batch must still divide among; None for any number, without accumulation.
        is_small: whether fewer devices than most layouts need: then FSDP over all.
    """

    pattern: str
    devices: int
    most: int | None
    is_small: bool = False


_LARGE = Size("[0-9]{3,}(-[0-9]+)?", 1, None)
_ANY = Size(".*", 1, None)
_OTHERS = Size(".*", 1, None, is_small=True)
_CORES = (  # v4, v5p: names count two cores a chip, so tpu-v5p-512 has 256 devices.
    Size("[0-9]{1,2}", 32, 32, is_small=True),
    Size("[0-9]{3}", 256, 256),
    Size("1[0-9]{3}", 512, 512),
    _LARGE,
    _OTHERS,
)
_CHIPLETS = (  # 7x: names count cores, each a device.
    Size("[0-9]{1,2}", 64, 64, is_small=True),
    Size("[0-9]{3}", 256, 512),
    Size("1[0-9]{3}", 1024, 1024),
    _LARGE,
    _OTHERS,
)
_SLICES = (  # v5e, v6e: a whole slice has 256 chips.
    Size("([0-9]{1,2}|128)", 128, 128, is_small=True),
    Size("256", 256, 256),
    Size("256-[24]", 1024, 1024),
    Size("256(-[0-9]+)?", 1, None),
    _OTHERS,
)
_NODES = (  # GPUs, in nodes of 8.
    Size("[1-7]", 4, 4, is_small=True),
    Size("([89]|[1-9][0-9])", 64, 64),
    Size("[0-9]{3}", 256, 512),
    Size("1[0-9]{3}", 1024, 1024),
    _ANY,
)
_INSTANCES = (  # Trainium2: names count chips of 4 devices.
    Size("[0-9]{1,2}", 256, 256),
    Size("[0-9]{3}", 1024, 2048),
    _ANY,
)


# ---- plans -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one kind of chip runs models of some size.

    Attributes:
        chips: pattern of the chip's name.
        sizes: the ranges of sizes that are told apart.
        layout: how devices are arranged.
        policy: what stays in memory.
        tokens: that a device, or the devices that share them (`seq`, `model`), work on at a time.
        modifiers: what else the chip asks for.
    """

    chips: str
    sizes: tuple[Size, ...]
    layout: Layout
    policy: RematPolicy.Config
    tokens: int
    modifiers: tuple[Any, ...] = ()


def trainium_modifiers() -> tuple[Any, ...]:
    """Returns what any program for Trainium needs: its compiler has no complete threefry generator."""
    return (SetModifier.default_config().set(values={"prng_implementation": "rbg"}),)


def _trainium2(policy: RematPolicy.Config, *, tokens: int) -> Plan:
    return Plan("trn2", _INSTANCES, tensor(4), policy, tokens, trainium_modifiers())


def _expert_nodes(chips: str, *, tokens: int) -> Plan:
    """Experts in a node, with room for twice the rows of an even load: the worst case takes four times as much or more."""
    room = SetModifier.default_config().set(values={"**.dispatch.buffer_factor": 2.0})
    return Plan(chips, _NODES, EXPERT_NODE, KEEP_ATTENTION, tokens, (room,))


ChipPlans = tuple[Plan, ...]

_OLDER_GPUS, _B200 = "gpu-(a100|h100|h200)", "gpu-b200"

SMALL: ChipPlans = (
    Plan("tpu-v4", _CORES, fsdp(16), KEEP_ATTENTION, tokens=8192),
    Plan("tpu-v5e", _SLICES, fsdp(256), KEEP_ATTENTION, tokens=8192),
    Plan("tpu-v5p", _CORES, fsdp(8), KEEP_DOTS, tokens=16_384),
    Plan("tpu-v6e", _SLICES, fsdp(256), KEEP_ATTENTION, tokens=16_384),
    Plan("tpu-7x", _CHIPLETS, fsdp(8), KEEP_DOTS, tokens=16_384),
    Plan(_OLDER_GPUS, _NODES, FSDP_NODE, KEEP_ATTENTION, tokens=16_384),
    Plan(_B200, _NODES, FSDP_NODE, KEEP_DOTS, tokens=32_768),
    _trainium2(KEEP_ATTENTION, tokens=16_384),
)
"""Up to 4 B parameters."""

MEDIUM: ChipPlans = (
    Plan("tpu-v4", _CORES, fsdp(16), KEEP_QKV, tokens=8192),
    Plan("tpu-v5e", _SLICES, fsdp(256), OFFLOAD_DOTS, tokens=8192),
    Plan("tpu-v5p", _CORES, fsdp(64), KEEP_DOTS, tokens=16_384),
    Plan("tpu-v6e", _SLICES, fsdp(256), KEEP_ATTENTION, tokens=8192),
    Plan("tpu-7x", _CHIPLETS, fsdp(64), KEEP_DOTS, tokens=16_384),
    Plan(_OLDER_GPUS, _NODES, FSDP_NODE, KEEP_ATTENTION, tokens=16_384),
    Plan(_B200, _NODES, FSDP_NODE, KEEP_DOTS, tokens=16_384),
    _trainium2(KEEP_QKV, tokens=8192),
)
"""7 B to 14 B parameters."""

LARGE: ChipPlans = (
    Plan("tpu-v4", _CORES, FSDP_ALL, OFFLOAD_QKV_AND_INPUT, tokens=8192),
    Plan("tpu-v5e", _SLICES, fsdp(256), OFFLOAD_QKV_AND_INPUT, tokens=4096),
    Plan("tpu-v5p", _CORES, FSDP_ALL, KEEP_ATTENTION, tokens=16_384),
    Plan("tpu-v6e", _SLICES, fsdp(256), OFFLOAD_QKV_AND_INPUT, tokens=8192),
    Plan("tpu-7x", _CHIPLETS, fsdp(128), KEEP_QKV, tokens=16_384),
    Plan(_OLDER_GPUS, _NODES, TENSOR_NODE, KEEP_ATTENTION, tokens=65_536),
    Plan(_B200, _NODES, FSDP_ALL, KEEP_ATTENTION, tokens=16_384),
    _trainium2(KEEP_QKV, tokens=8192),
)
"""30 B to 70 B parameters."""

HUGE: ChipPlans = (
    Plan("tpu-v4", _CORES, tensor(8), OFFLOAD_INPUT, tokens=8192),
    Plan("tpu-v5e", _SLICES, tensor(8), OFFLOAD_INPUT, tokens=8192),
    Plan("tpu-v5p", _CORES, FSDP_ALL, OFFLOAD_INPUT, tokens=8192),
    Plan("tpu-v6e", _SLICES, tensor(8), OFFLOAD_INPUT, tokens=8192),
    Plan("tpu-7x", _CHIPLETS, FSDP_ALL, OFFLOAD_INPUT, tokens=8192),
    Plan(_OLDER_GPUS, _NODES, TENSOR_NODE, KEEP_CONTEXT, tokens=32_768),
    Plan(_B200, _NODES, FSDP_ALL, nothing_saveable(), tokens=8192),
    _trainium2(KEEP_CONTEXT, tokens=8192),
)
"""400 B parameters: several slices of v5e, v6e or 128 instances of Trainium2; fewer do not hold the state."""

COARSE_EXPERTS: ChipPlans = (
    Plan("tpu-v4", _CORES, experts(expert=8, fsdp=8), KEEP_QKV, tokens=8192),
    Plan("tpu-v5e", _SLICES, experts(expert=8, fsdp=32), OFFLOAD_ATTENTION, tokens=8192),
    Plan("tpu-v5p", _CORES, experts(expert=8, fsdp=8), KEEP_ATTENTION, tokens=16_384),
    Plan("tpu-v6e", _SLICES, experts(expert=8, fsdp=32), KEEP_ATTENTION, tokens=8192),
    Plan("tpu-7x", _CHIPLETS, experts(expert=8, fsdp=8), KEEP_ATTENTION, tokens=16_384),
    _expert_nodes(_OLDER_GPUS, tokens=16_384),
    _expert_nodes(_B200, tokens=16_384),
    _trainium2(KEEP_QKV, tokens=8192),
)
"""A few wide experts, 50 B parameters in all."""

FINE_EXPERTS: ChipPlans = (
    Plan("tpu-v4", _CORES, fsdp(64), KEEP_QKV, tokens=8192),
    Plan("tpu-v5e", _SLICES, fsdp(256), OFFLOAD_ATTENTION, tokens=4096),
    Plan("tpu-v5p", _CORES, fsdp(64), KEEP_ATTENTION, tokens=16_384),
    Plan("tpu-v6e", _SLICES, fsdp(256), KEEP_ATTENTION, tokens=8192),
    Plan("tpu-7x", _CHIPLETS, fsdp(64), KEEP_ATTENTION, tokens=16_384),
    _expert_nodes(_OLDER_GPUS, tokens=8192),
    _expert_nodes(_B200, tokens=16_384),
    _trainium2(KEEP_QKV, tokens=8192),
)
"""Many narrow experts, 30 B parameters in all. On a torus, sending tokens to 8 experts each takes longer than the work
that they then do (1.4 times, on v5p), while all weights are gathered in a third of it; a node's switch is faster."""


# ---- mesh rules ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is divided among devices and steps of accumulation.

    Attributes:
        rows: of a training step.
        length: tokens a row.
    """

    rows: int
    length: int


def mesh_rules(plans: Sequence[Plan], batch: Batch) -> tuple[MeshRule, ...]:
    """Returns the rules of some plans, special ones first; each chip's last one matches any size.

    Args:
        plans: one a kind of chip.
        batch: what is trained on.
    """
    return tuple(rule for plan in plans for rule in _rules_of(plan, batch))


def _rules_of(plan: Plan, batch: Batch) -> list[MeshRule]:
    """Returns a rule for each range of sizes; neighbours that would say the same share one."""
    ranges: list[tuple[str, Layout, int]] = []
    for size in plan.sizes:
        layout = FSDP_ALL if size.is_small else plan.layout
        steps = _accumulation_steps(size, layout, plan.tokens, batch)
        pattern = size.pattern
        if ranges and ranges[-1][1:] == (layout, steps):
            earlier, *_ = ranges.pop()
            covers = size.most is None  # Then it is the general case of those before it.
            pattern = pattern if covers else f"({earlier}|{pattern})"
        ranges.append((pattern, layout, steps))
    return [
        _rule(f"{plan.chips}-{pattern}", layout, plan, steps) for pattern, layout, steps in ranges
    ]


def _accumulation_steps(size: Size, layout: Layout, tokens: int, batch: Batch) -> int:
    """Returns into how many parts a batch is split, so that a device has about `tokens` at a time."""
    if size.most is None:
        return 1
    shared = layout.mesh_shape.model * layout.mesh_shape.seq
    wanted = batch.rows * batch.length * shared // (size.devices * tokens)
    return max(min(wanted, batch.rows * shared // size.most), 1)


def _rule(pattern: str, layout: Layout, plan: Plan, steps: int) -> MeshRule:
    remat = RematModifier.default_config().set(target="BaseTransformerLayer", policy=plan.policy)
    modifiers: list[Any] = [remat, *plan.modifiers]
    if steps > 1:
        modifiers.append(AccumulationModifier.default_config().set(steps=steps))
    return MeshRule(
        pattern=pattern,
        description=layout.description,
        mesh_shape=layout.mesh_shape,
        axis_rules=layout.axis_rules,
        modifiers=tuple(modifiers),
    )
