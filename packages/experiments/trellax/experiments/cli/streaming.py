"""Text on the terminal as it is generated."""

from __future__ import annotations

from collections.abc import Sequence

from trellax.inference.engine import EngineCore
from trellax.inference.requests import Request, SamplingParams


def stream(core: EngineCore, prompt_ids: Sequence[int], params: SamplingParams) -> str:
    """Prints a completion as it comes; returns it.

    Raises:
        RequestError: it can never run.
        RuntimeError: it failed.
    """
    core.add(Request("terminal", tuple(map(int, prompt_ids)), params))
    pieces = []
    while core.has_work:
        for output in core.step():
            pieces.append(output.text)
            print(output.text, end="", flush=True)
            if output.finish_reason == "error":
                raise RuntimeError(output.error)
    print(flush=True)
    return "".join(pieces)
