"""Collectives of a training step by arithmetic: nothing is compiled, so thousands of plans can be compared.

    collectives = estimate_collectives(model.all_parameter_specs(), rules, mesh_shape.total_sizes(), work)

What XLA's partitioner makes of a plan follows from which mesh axes split what:

- *Weights* that are split over axes that also split the batch (FSDP; Zhao et al., arXiv:2304.11277) are gathered before
  each pass that uses them, and their gradients scattered; over the other axes of the batch gradients are summed (data
  parallelism).
- *Tensor parallelism* (Shoeybi et al., arXiv:1909.08053, section 3): a matrix whose input is split gives partial sums, added
  by an all-reduce in each forward pass, to which one in the backward pass corresponds. Where the residual stream is split over
  the same axis, too, a reduce-scatter and an all-gather of the same bytes take its place (arXiv:2205.05198).
- *Experts* (Lepikhin et al., arXiv:2006.16668): tokens travel to their experts and back, in each pass.
- *Context parallelism* (Liu et al., arXiv:2310.01889): keys and values travel around the ring, in the backward pass with
  their gradients.
- *Pipeline*: each microbatch's activations travel from stage to stage, and their gradients back.

Small ones are left out: losses, norms' gradients, softmax over a split vocabulary, routing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trellax.parallel.planning.collectives import Collective, CollectiveKind
from trellax.parallel.sharding import ArraySpec, LogicalAxisRules


@dataclasses.dataclass(frozen=True)
class StepWork:
    """What one optimizer step does, as far as communication depends on it."""

    rows: int
    """Of one forward pass, over all devices: the batch over the accumulation steps."""
    length: int
    """Tokens of a row."""
    accumulation_steps: int = 1
    weight_gathers: int = 2
    """Per forward and backward pass: 2 where weights are gathered for each, 1 where the gathered ones are kept."""
    forward_passes: int = 2
    """1, or 2 where the backward pass computes activations again (remat)."""
    compute_bytes: int = 2
    """Of one element of weights and activations in matrix multiplications."""
    gradient_bytes: int = 2
    """Of one element of a gradient when it is summed over devices: XLA sums what the matrix multiplication gives."""
    experts_per_token: float = 0.0
    """Experts that each token is sent to, times the capacity factor."""
    pipeline_microbatches: int = 1
    """Parts of `rows` that pass through the pipeline one after another."""


def estimate_collectives(
    specs: Any, rules: LogicalAxisRules, axis_sizes: Mapping[str, int], work: StepWork
) -> tuple[Collective, ...]:
    """Returns the collectives of one optimizer step, the largest first; bytes are per device as in `Collective`.

    Args:
        specs: tree of the model's `ArraySpec`s. Matrices that end in "embed" give to the residual stream.
        rules: which mesh axes split each logical axis.
        axis_sizes: devices along each mesh axis.
        work: what one step does.
    """
    estimate = _Estimate(rules, axis_sizes, work)
    leaves = list(_leaves(specs))
    found = [c for spec in leaves for c in estimate.of_parameter(spec)]
    widths = [
        n
        for spec in leaves
        for name, n in zip(spec.logical_axes, spec.shape, strict=True)
        if name == "embed"
    ]
    found += estimate.of_pipeline(max(widths, default=0))
    merged: dict[Collective, int] = {}
    for collective in found:
        key = dataclasses.replace(collective, times=1)
        merged[key] = merged.get(key, 0) + collective.times
    together = [dataclasses.replace(key, times=times) for key, times in merged.items()]
    return tuple(sorted(together, key=lambda c: (-c.total_bytes, c.kind, c.axes)))


class _Estimate:
    """The parts of an estimate that all parameters share."""

    def __init__(self, rules: LogicalAxisRules, axis_sizes: Mapping[str, int], work: StepWork):
        self._rules, self._sizes, self._work = rules, axis_sizes, work
        shape = (work.rows // work.pipeline_microbatches, work.length)
        report = rules.explain_spec(("batch", "length"), shape=shape, axis_sizes=axis_sizes)
        self._batch_axes, self._length_axes = report.mesh_axes
        self._tokens = math.prod(shape) // self._parts((*self._batch_axes, *self._length_axes))
        """Tokens of one microbatch on one device."""
        self._stages = axis_sizes.get("pipeline", 1)
        self._passes = work.accumulation_steps * (work.pipeline_microbatches + self._stages - 1)
        """Times that a stage runs forward in a step, the bubble's runs included."""

    def of_parameter(self, spec: ArraySpec) -> Iterator[Collective]:
        split = self._rules.explain_spec(
            spec.logical_axes, shape=spec.shape, axis_sizes=self._sizes
        ).mesh_axes
        by_logical = dict(zip(spec.logical_axes, split, strict=True))
        lengths = dict(zip(spec.logical_axes, spec.shape, strict=True))
        layers = lengths.get("layers", 1) // self._parts(by_logical.get("layers", ()))
        yield from self._of_weight(spec, split, layers)
        if self._tensor_axes(by_logical) and spec.logical_axes[-1] == "embed":
            yield from self._of_partial_sums(by_logical, lengths["embed"], layers)
        if by_logical.get("experts") and spec.logical_axes[-1] == "embed":
            yield from self._of_dispatch(by_logical["experts"], lengths["embed"], layers)
        if "kv_heads" in lengths and self._length_axes:
            yield from self._of_ring(by_logical, lengths, layers)

    def of_pipeline(self, embed: int) -> Iterator[Collective]:
        if self._stages > 1:
            activation = self._tokens * embed * self._work.compute_bytes
            times = self._passes * (self._work.forward_passes + 1)
            yield Collective("permute", ("pipeline",), self._stages, activation, times, "stages")

    def _of_weight(
        self, spec: ArraySpec, split: Sequence[tuple[str, ...]], layers: int
    ) -> Iterator[Collective]:
        used = [axis for axes in split for axis in axes]
        gathered = tuple(
            axis
            for axis in self._batch_axes
            if axis in used and axis not in self._kept(spec, split)
        )
        whole = (
            math.prod(spec.shape)
            / self._parts([axis for axis in used if axis not in gathered])
            / layers
        )
        work, times = self._work, layers * self._passes
        if gathered:
            size = self._parts(gathered)
            yield Collective(
                "all-gather",
                gathered,
                size,
                whole * work.compute_bytes,
                times * work.weight_gathers,
                "weights",
            )
            yield Collective(
                "reduce-scatter", gathered, size, whole * work.gradient_bytes, times, "gradients"
            )
        summed = tuple(a for a in (*self._batch_axes, *self._length_axes) if a not in used)
        if summed and len(spec.shape) > 1:
            mine = whole / self._parts(gathered) * work.gradient_bytes
            yield Collective("all-reduce", summed, self._parts(summed), mine, times, "gradients")

    def _kept(self, spec: ArraySpec, split: Sequence[tuple[str, ...]]) -> set[str]:
        """Axes that experts are split over: tokens come to them, they are not gathered."""
        owned = ("experts", "layers")
        return {
            a
            for name, axes in zip(spec.logical_axes, split, strict=True)
            if name in owned
            for a in axes
        }

    def _tensor_axes(self, by_logical: Mapping[str | None, tuple[str, ...]]) -> tuple[str, ...]:
        """Axes that split a matrix but not the batch, and not between copies of a layer or experts."""
        split = [
            a
            for name, axes in by_logical.items()
            if name not in ("embed", "layers", "experts")
            for a in axes
        ]
        return tuple(a for a in split if a not in self._batch_axes)

    def _of_partial_sums(
        self, by_logical: Mapping[str | None, tuple[str, ...]], embed: int, layers: int
    ) -> Iterator[Collective]:
        axes = self._tensor_axes(by_logical)
        size, activation = self._parts(axes), self._tokens * embed * self._work.compute_bytes
        times = layers * self._passes * (self._work.forward_passes + 1)
        sequence_parallel = set(axes) <= set(self._rules.mesh_axes("residual_length"))
        kinds: tuple[CollectiveKind, ...] = (
            ("reduce-scatter", "all-gather") if sequence_parallel else ("all-reduce",)
        )
        for kind in kinds:
            yield Collective(kind, axes, size, activation, times, "activations")

    def _of_dispatch(self, axes: tuple[str, ...], embed: int, layers: int) -> Iterator[Collective]:
        sent = self._tokens * self._work.experts_per_token * embed * self._work.compute_bytes
        times = layers * self._passes * (self._work.forward_passes + 1) * 2  # There and back.
        yield Collective("all-to-all", axes, self._parts(axes), sent, times, "tokens to experts")

    def _of_ring(
        self,
        by_logical: Mapping[str | None, tuple[str, ...]],
        lengths: Mapping[str | None, int],
        layers: int,
    ) -> Iterator[Collective]:
        """Once for the keys' and once for the values' projection."""
        size = self._parts(self._length_axes)
        heads = lengths["kv_heads"] // self._parts(by_logical["kv_heads"])
        block = self._tokens * heads * lengths.get("head_dim", 1) * self._work.compute_bytes
        times = layers * self._passes * (size - 1) * (self._work.forward_passes + 2)
        yield Collective("permute", self._length_axes, size, block, times, "keys and values")

    def _parts(self, axes: Sequence[str]) -> int:
        return math.prod(self._sizes[axis] for axis in axes)


def _leaves(tree: Any) -> Iterator[ArraySpec]:
    if isinstance(tree, ArraySpec):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _leaves(value)
    else:
        for value in tree:
            yield from _leaves(value)
