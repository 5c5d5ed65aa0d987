"""What a run says up front and at its end, in a few lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trellax.config import Change, Config, component_of, format_value
from trellax.experiments.resolve import Resolved

_PATH_WIDTH = 44
_VALUE_WIDTH = 22


def print_start(console: Console, resolved: Resolved, facts: dict[str, str]) -> None:
    """Prints what the experiment is, on what it runs, which rule matched and what that changed."""
    about = _grid()
    about.add_row("experiment", f"{resolved.cfg.name}: {resolved.summary}")
    about.add_row("hardware", resolved.hardware_text)
    about.add_row("mesh rule", resolved.rule_text)
    for name, value in facts.items():
        about.add_row(name, value)
    parts: list[Any] = [about]
    for who, changes in (("The rule", resolved.rule_changes), ("You", resolved.user_changes)):
        if changes:
            count = f"{len(changes)} field{'s' if len(changes) != 1 else ''}"
            parts += [Text(f"\n{who} changed {count}:", style="bold"), _changes(changes)]
    console.print(Panel(Group(*parts), title=resolved.title, border_style="cyan", expand=False))


def print_end(
    console: Console, *, losses: dict[str, float], unigram_entropy: float, vocab_size: int
) -> None:
    """Prints losses beside what knowing nothing, and knowing token frequencies, would give.

    Args:
        console: where to.
        losses: by name, in nats a token.
        unigram_entropy: of the text, in nats a token.
        vocab_size: number of tokens.
    """
    table = _grid()
    table.add_column(justify="right")
    uniform = math.log(vocab_size)
    table.add_row("ln(vocabulary)", "knowing nothing", f"{uniform:.3f}")
    table.add_row("unigram entropy", "knowing how frequent each token is", f"{unigram_entropy:.3f}")
    for name, value in losses.items():
        table.add_row(f"{name} loss", "nats a token", f"{value:.3f}")
    console.print(Panel(table, title="Result", border_style="green", expand=False))


def print_sample(console: Console, prompt: str, completion: str) -> None:
    """Prints a prompt and what the model made of it."""
    text = Text(prompt, style="bold") + Text(completion, style="not bold")
    console.print(Panel(text, title="Sample", border_style="magenta", width=min(console.width, 90)))


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _changes(changes: Sequence[Change]) -> Text:
    # Longer paths stand out to the right: few are, and the values must fit into 80 columns.
    width = min(max(len(change.path) for change in changes), _PATH_WIDTH)
    lines = [
        f"{change.path:<{width}}  {_short(change.old)} → {_short(change.new)}" for change in changes
    ]
    return Text("\n".join(lines), overflow="fold")


def _short(value: Any) -> str:
    """Returns a value as a word or two: of a component its class, of containers their elements'."""
    if isinstance(value, Config):
        return str(getattr(component_of(value), "__name__", type(value).__qualname__))
    if isinstance(value, dict) and value:
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items()) + "}"
    text = (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else format_value(value)
    )
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 1]}…"
