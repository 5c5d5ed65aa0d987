"""How an op chooses among its implementations, and how it tells why.

An op's `api.py` builds one *call* (a frozen record of inputs and options), orders its implementations by
preference for that call, and hands both to `choose`:

    choice = dispatch.choose("attention", ordered, requested=implementation, call=call)
    return choice.implementation.run(call)

An implementation answers two questions: `refusal(call)` gives the reason why it cannot serve the call,
or None if it can; `run(call)` computes it. Adding one is a file with these two functions and a line in
the op's `api.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

Requested = str | Sequence[str] | None
"""What a caller may pass as `implementation=`."""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute an op.

    Attributes:
        name: what callers write in `implementation=`.
        run: computes the op for a call that was not refused.
        refusal: the reason why a call cannot be served, or None.
    """

    name: str
    run: Callable[[Any], Any]
    refusal: Callable[[Any], str | None]


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An implementation that was considered and the reason why it was not taken."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The implementation taken for a call, and what every other one said. `print` it."""

    op: str
    implementation: Implementation
    refusals: tuple[Refusal, ...]
    alternatives: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.implementation.name

    def __str__(self) -> str:
        lines = [f"{self.op}: {self.name}"]
        lines += [f"  also possible: {', '.join(self.alternatives)}"] if self.alternatives else []
        return "\n".join(lines + [f"  refused {refusal}" for refusal in self.refusals])


class UnsupportedError(NotImplementedError):
    """No requested implementation supports the call; `refusals` holds every reason."""

    def __init__(self, op: str, refusals: Sequence[Refusal]):
        self.op = op
        self.refusals = tuple(refusals)
        reasons = "".join(f"\n  {refusal}" for refusal in refusals)
        super().__init__(
            f"No requested implementation of {op!r} supports this call:{reasons}\n"
            "Pass implementation=None to take the best one that does."
        )


def always(_: Any) -> None:
    """The `refusal` of an implementation that supports every valid call."""
    return None


def choose(
    op: str, candidates: Sequence[Implementation], *, requested: Requested, call: Any
) -> Choice:
    """Chooses the implementation that serves `call`.

    Args:
        op: the op's name, for messages.
        candidates: all implementations of the op, best first for this call.
        requested: None for the first that supports the call; a name; or names, tried in order.
        call: the op's record of inputs and options.

    Returns:
        The choice. When `requested` is None it lists every refusal and every alternative.

    Raises:
        ValueError: a requested name does not exist.
        UnsupportedError: none of the requested implementations supports the call.
    """
    wanted = _requested(op, candidates, requested)
    verdicts = [(candidate, candidate.refusal(call)) for candidate in wanted]
    refusals = tuple(Refusal(taken.name, why) for taken, why in verdicts if why is not None)
    able = [candidate for candidate, why in verdicts if why is None]
    if not able:
        raise UnsupportedError(op, refusals)
    return Choice(op, able[0], refusals, tuple(candidate.name for candidate in able[1:]))


def _requested(
    op: str, candidates: Sequence[Implementation], requested: Requested
) -> Sequence[Implementation]:
    if requested is None:
        return candidates
    by_name = {candidate.name: candidate for candidate in candidates}
    names = [requested] if isinstance(requested, str) else list(requested)
    if not names:
        raise ValueError(f"implementation=() of {op!r} names none; pass None to take the best.")
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(str(name), by_name, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"Unknown implementation {name!r} of {op!r}. {hint}Known: {', '.join(by_name)}."
            )
    return [by_name[name] for name in names]
