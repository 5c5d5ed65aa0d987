"""The parallelism that is advertised, as data: kinds, and which of them are combined.

    for combination in combinations():
        print(combination.name, combination.mesh)

A *kind* is one way to use one mesh axis, with what it changes in the config. All pairs of kinds of different axes are
combined, on 8 devices as 2 x 4 and 4 x 2 in turn, and triples as 2 x 2 x 2.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from trellax.config import replace_config
from trellax.layers import PipelinedStack, ScannedStack
from trellax.layers.attention import AllGatherContext, RingContext, UlyssesContext
from trellax.layers.moe import CapacityDispatch
from trellax.parallel import AxisSizes, MeshShape, tensor_sequence_rules

NUM_MICROBATCHES = 4


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to use a mesh axis."""

    name: str
    axis: str
    change: Callable[[Any], None] = lambda cfg: None
    """Of the trainer's config."""
    needs_experts: bool = False
    across: bool = False
    """Whether the axis crosses slices or nodes."""
    most: int = 4
    """Devices along the axis that the tiny model can use."""


@dataclasses.dataclass(frozen=True)
class Combination:
    """Kinds that are used together, and the devices along the axis of each."""

    kinds: tuple[Kind, ...]
    sizes: tuple[int, ...]
    has_experts: bool

    @property
    def name(self) -> str:
        parts = [f"{kind.name}{size}" for kind, size in zip(self.kinds, self.sizes, strict=True)]
        return f"{'moe' if self.has_experts else 'dense'}-" + "-".join(parts)

    @property
    def mesh(self) -> MeshShape:
        within = {k.axis: n for k, n in zip(self.kinds, self.sizes, strict=True) if not k.across}
        across = {k.axis: n for k, n in zip(self.kinds, self.sizes, strict=True) if k.across}
        return MeshShape(**within, dcn=AxisSizes(**across) if across else None)

    @property
    def is_pipelined(self) -> bool:
        return any(kind.axis == "pipeline" for kind in self.kinds)

    def apply(self, cfg: Any) -> None:
        """Makes the trainer's config use the combination."""
        cfg.mesh_shape = self.mesh
        for kind in self.kinds:
            kind.change(cfg)


def _context(method: Any) -> Callable[[Any], None]:
    def change(cfg: Any) -> None:
        cfg.model.decoder.stack.layer.attention.core.context = method.default_config()

    return change


def _pipeline(schedule: str, num_repeats: int = 1) -> Callable[[Any], None]:
    def change(cfg: Any) -> None:
        stack = PipelinedStack.default_config().set(
            num_microbatches=NUM_MICROBATCHES, schedule=schedule, num_repeats=num_repeats
        )
        replace_config(cfg, ScannedStack, stack)

    return change


def _sequence_parallel_norms(cfg: Any) -> None:
    cfg.axis_rules = tensor_sequence_rules()


def _capacity(cfg: Any) -> None:
    """Room for all of a device's tokens, so that none is dropped, which is where it equals one device."""
    layer = cfg.model.decoder.stack.layer.feed_forward
    factor = layer.num_experts / layer.experts_per_token
    layer.dispatch = CapacityDispatch.default_config().set(capacity_factor=factor)


KINDS = (
    Kind("data", "data"),
    Kind("slices", "data", across=True),
    Kind("fsdp", "fsdp"),
    Kind("tensor", "model"),
    Kind("tensor_sequence", "model", _sequence_parallel_norms),
    Kind("expert", "expert", needs_experts=True),
    Kind("expert_capacity", "expert", _capacity, needs_experts=True),
    Kind("all_gather", "seq", _context(AllGatherContext)),
    Kind("ring", "seq", _context(RingContext)),
    Kind("ulysses", "seq", _context(UlyssesContext)),
    Kind("gpipe", "pipeline", _pipeline("gpipe")),
    Kind("circular", "pipeline", _pipeline("circular", 2), most=2),
    Kind("1f1b", "pipeline", _pipeline("1f1b")),
)

TRIPLES = (
    ("slices", "fsdp", "tensor_sequence"),
    ("data", "fsdp", "expert"),
    ("fsdp", "tensor", "expert"),
    ("fsdp", "tensor_sequence", "ring"),
    ("fsdp", "ring", "1f1b"),
    ("tensor", "ulysses", "gpipe"),
    ("fsdp", "tensor", "1f1b"),
    ("fsdp", "expert", "1f1b"),
    ("tensor", "expert", "circular"),
    ("fsdp", "expert_capacity", "all_gather"),
    ("slices", "ring", "expert"),
    ("slices", "fsdp", "circular"),
)


def combinations() -> tuple[Combination, ...]:
    """Returns all combinations that are advertised."""
    return (*_pairs(), *_triples())


def _pairs() -> list[Combination]:
    pairs = [p for p in itertools.combinations(KINDS, 2) if p[0].axis != p[1].axis]
    # Every third pair without an expert axis has experts all the same: each device then holds all of them.
    return [
        Combination(
            pair, _two_sizes(pair, index), any(k.needs_experts for k in pair) or index % 3 == 2
        )
        for index, pair in enumerate(pairs)
    ]


def _two_sizes(pair: tuple[Kind, Kind], index: int) -> tuple[int, int]:
    """Returns 2 x 4 and 4 x 2 in turn, as far as the kinds go."""
    if pair[0].most < 4 or pair[1].most < 4:
        return (2, 4) if pair[0].most < 4 else (4, 2)
    return (2, 4) if index % 2 == 0 else (4, 2)


def _triples() -> list[Combination]:
    by_name = {kind.name: kind for kind in KINDS}
    kinds = [tuple(by_name[name] for name in names) for names in TRIPLES]
    return [Combination(k, (2, 2, 2), any(kind.needs_experts for kind in k)) for k in kinds]
