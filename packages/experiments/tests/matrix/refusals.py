"""Combinations that are not supported: what is refused when the config is finalized, and what the message must say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from trellax.config import replace_config
from trellax.layers import PipelinedStack, ScannedStack, UnrolledStack
from trellax.layers.attention import UlyssesContext
from trellax.parallel import MeshShape


@dataclasses.dataclass(frozen=True)
class Refused:
    """A change of the tiny trainer that must be refused.

    Attributes:
        name: what is asked for.
        mesh: on which mesh.
        change: of the trainer's config.
        where: path of the node that objects.
        says: parts of the message: the reason and the nearest thing that works.
        has_experts: whether the model is a mixture of experts.
    """

    name: str
    mesh: MeshShape
    change: Callable[[Any], None]
    where: str
    says: tuple[str, ...]
    has_experts: bool = False


def _stack(**fields: Any) -> Callable[[Any], None]:
    def change(cfg: Any) -> None:
        replace_config(cfg, ScannedStack, PipelinedStack.default_config().set(**fields))

    return change


def _core(cfg: Any) -> Any:
    return cfg.model.decoder.stack.layer.attention.core


def _unrolled(cfg: Any) -> None:
    replace_config(cfg, ScannedStack, UnrolledStack.default_config())


def _ulysses_with_six_heads(cfg: Any) -> None:
    cfg.model.decoder.stack.layer.attention.set(num_heads=6, num_kv_heads=6)
    _core(cfg).context = UlyssesContext.default_config()


def _six_experts(cfg: Any) -> None:
    cfg.model.decoder.stack.layer.feed_forward.num_experts = 6


def _length(length: int) -> Callable[[Any], None]:
    def change(cfg: Any) -> None:
        cfg.input.sequence_length = length

    return change


def _accumulated(cfg: Any) -> None:
    cfg.accumulation_steps = 4


REFUSALS = (
    Refused(
        "pipeline with a scanned stack",
        MeshShape(pipeline=2, fsdp=4),
        lambda cfg: None,
        "model",
        ("pipeline=2", "PipelinedStack"),
    ),
    Refused(
        "pipeline with an unrolled stack",
        MeshShape(pipeline=2, fsdp=4),
        _unrolled,
        "model",
        ("pipeline=2", "PipelinedStack"),
    ),
    Refused(
        "more stages than layers",
        MeshShape(pipeline=8),
        _stack(num_microbatches=4),
        "model.decoder.stack",
        ("num_layers=4", "pipeline=4"),
    ),
    Refused(
        "microbatches that do not go round in groups",
        MeshShape(pipeline=2, fsdp=4),
        _stack(num_microbatches=3, schedule="circular", num_repeats=2),
        "model.decoder.stack",
        ("num_microbatches=3", "use 2 or 4"),
    ),
    Refused(
        "microbatches that rows do not divide into",
        MeshShape(pipeline=2, fsdp=4),
        _stack(num_microbatches=8),
        "model.decoder.stack",
        ("num_microbatches=8", "use num_microbatches=4"),
    ),
    Refused(
        "experts that do not divide",
        MeshShape(expert=4, fsdp=2),
        _six_experts,
        "model.decoder.stack.layer.feed_forward",
        ("num_experts=6", "nearest mesh has expert=3"),
        has_experts=True,
    ),
    Refused(
        "rows of a length that does not divide",
        MeshShape(seq=4, fsdp=2),
        _length(12),
        "model.decoder.stack.layer.attention.core.context",
        ("rows of 12 tokens", "multiple of 8"),
    ),
    Refused(
        "Ulysses with heads that do not divide",
        MeshShape(seq=4, fsdp=2),
        _ulysses_with_six_heads,
        "model.decoder.stack.layer.attention.core.context",
        ("6", "seq"),
    ),
    Refused(
        "parts of a batch smaller than the mesh",
        MeshShape(fsdp=8),
        _accumulated,
        "",
        ("4 rows a pass", "fsdp=8", "a multiple of 8"),
    ),
)
