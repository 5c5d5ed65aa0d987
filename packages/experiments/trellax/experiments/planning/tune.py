"""Searches for the fastest way to run an experiment on some hardware: mesh, accumulation, remat.

    tuned = tune(resolved, num_candidates=4)
    tuned.rule  # The best as a mesh rule.

All candidates are compared by arithmetic (`candidates.py`), the most promising ones are compiled, and the best is the one
with the lowest bound of those that the compiler says fit. What the experiment's own rule does is compiled first: it is the
one to beat, and it tells how much memory the arithmetic does not see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from trellax.experiments.planning import units
from trellax.experiments.planning.candidates import Candidate, CandidateSearch
from trellax.experiments.planning.make import make_plan
from trellax.experiments.planning.program import planned_program
from trellax.experiments.planning.remat import (
    policies_of,
    rematerialized_class,
    with_policy,
)
from trellax.experiments.planning.report import Plan
from trellax.experiments.resolve import Resolved
from trellax.parallel import AccumulationModifier, MeshRule, RematModifier


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        own: the plan by the experiment's own rule.
        tried: candidates that were compiled, with their plans, in that order.
        num_compared: candidates that were compared by arithmetic.
        best: the best plan that fits; None if none does.
        rule: the mesh rule that makes it; None if the experiment's own rule is the best, or none fits.
    """

    own: Plan
    tried: tuple[tuple[Candidate, Plan], ...]
    num_compared: int
    best: Plan | None
    rule: MeshRule | None


def tune(
    resolved: Resolved, *, num_candidates: int, on_plan: Callable[[Plan], None] = lambda plan: None
) -> Tuned:
    """Returns the best way found.

    Args:
        resolved: the experiment's config for the hardware.
        num_candidates: how many to compile at most, besides the experiment's own.
        on_plan: is told each plan when it is made.

    Raises:
        As `make_plan`.
    """
    own = make_plan(resolved)
    on_plan(own)
    planned = planned_program(resolved.cfg, resolved.hardware)
    search = CandidateSearch(planned, own)
    tried = []
    for candidate in search.most_promising(num_candidates):
        plan = make_plan(dataclasses.replace(resolved, cfg=_applied(resolved.cfg, candidate)))
        on_plan(plan)
        tried.append((candidate, plan))
    best, rule = own if own.fits else None, None
    for candidate, plan in tried:
        if plan.fits and (best is None or _seconds(plan) < _seconds(best)):
            best, rule = plan, _rule(resolved, candidate)
    return Tuned(own, tuple(tried), search.num_compared, best, rule)


def tuned_text(tuned: Tuned) -> str:
    """Returns the search as a table."""
    rows = [
        ("mesh", "parts", "remat", "peak", "at least", "MFU"),
        _row("the experiment's own rule", tuned.own.accumulation_steps, "", tuned.own),
        *(_row(str(c.mesh_shape), c.accumulation_steps, c.policy, plan) for c, plan in tuned.tried),
    ]
    head = f"{tuned.num_compared:,} candidates compared, {len(tuned.tried)} planned in full"
    return "\n".join([head, *units.aligned(rows, right=(1, 3, 4, 5))])


def _row(mesh: str, parts: int, policy: str, plan: Plan) -> tuple[str, ...]:
    bound = plan.bound
    peak = "does not fit" if plan.fits is False else units.gib(plan.memory.peak)
    seconds, mfu = (units.seconds(bound.seconds), units.percent(bound.mfu)) if bound else ("?", "?")
    return (mesh, str(parts), policy, peak, seconds, mfu)


def _applied(cfg: Any, candidate: Candidate) -> Any:
    changed = with_policy(cfg, policies_of(cfg)[candidate.policy])
    changed.set(mesh_shape=candidate.mesh_shape, accumulation_steps=candidate.accumulation_steps)
    if candidate.axis_rules is not None:
        changed.set(axis_rules=candidate.axis_rules)
    return changed


def _rule(resolved: Resolved, candidate: Candidate) -> MeshRule:
    """Returns the candidate as a rule, with what else the experiment's own rule changes."""
    return MeshRule(
        pattern=resolved.hardware.name,
        description=f"tuned: {candidate.mesh_shape}; {candidate.policy}",
        mesh_shape=candidate.mesh_shape,
        axis_rules=candidate.axis_rules or resolved.rule.axis_rules,
        modifiers=tuple(_modifiers(resolved, candidate)),
    )


def _modifiers(resolved: Resolved, candidate: Candidate) -> Iterator[Any]:
    cfg = resolved.cfg
    yield RematModifier.default_config().set(
        target=rematerialized_class(cfg), policy=policies_of(cfg)[candidate.policy]
    )
    yield AccumulationModifier.default_config().set(steps=candidate.accumulation_steps)
    for modifier in resolved.rule.modifiers:
        if not isinstance(modifier, RematModifier.Config | AccumulationModifier.Config):
            yield modifier.clone()


def _seconds(plan: Plan) -> float:
    return plan.bound.seconds if plan.bound is not None else float("inf")
