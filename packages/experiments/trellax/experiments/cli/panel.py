"""What a run says up front and at its end, in a few lines."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trellax.config import Change, format_value
from trellax.experiments.resolve import Resolved


def print_start(console: Console, resolved: Resolved, facts: dict[str, str]) -> None:
    """Prints what the experiment is, on what it runs, which rule matched and what that changed."""
    about = Table.grid(padding=(0, 2))
    about.add_column(style="bold")
    about.add_column()
    about.add_row("experiment", f"{resolved.cfg.name}: {resolved.summary}")
    about.add_row("hardware", resolved.hardware_text)
    about.add_row("mesh rule", resolved.rule_text)
    for name, value in facts.items():
        about.add_row(name, value)
    parts: list[Any] = [about]
    if resolved.rule_changes:
        title = f"\nWhat the rule changed ({len(resolved.rule_changes)} fields)"
        parts += [Text(title, style="bold"), changes_table(resolved.rule_changes)]
    if resolved.user_changes:
        title = f"\nWhat you changed ({len(resolved.user_changes)} fields)"
        parts += [Text(title, style="bold"), changes_table(resolved.user_changes)]
    console.print(Panel(Group(*parts), title=resolved.title, border_style="cyan", expand=False))


def changes_table(changes: list[Change]) -> Table:
    """Returns changes as rows path, old, new; of a replaced node only the node itself."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for change in changes:
        table.add_row(change.path, _short(change.old), f"→ {_short(change.new)}")
    return table


def print_end(
    console: Console, *, metrics: dict[str, float], unigram_entropy: float, vocab_size: int
) -> None:
    """Prints the losses beside what knowing nothing, and knowing word frequencies, would give."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("ln(vocabulary)", f"{math.log(vocab_size):.3f}", "knowing nothing")
    table.add_row("unigram entropy", f"{unigram_entropy:.3f}", "knowing how frequent each token is")
    if "loss" in metrics:
        table.add_row("training loss", f"{metrics['loss']:.3f}", "nats a token, last logged step")
    for name, value in metrics.items():
        if name.endswith("/loss"):
            table.add_row(f"{name.removesuffix('/loss')} loss", f"{value:.3f}", "held-out text")
    console.print(Panel(table, title="Result", border_style="green", expand=False))


def print_sample(console: Console, prompt: str, completion: str) -> None:
    """Prints a prompt and what the model made of it."""
    text = Text(prompt, style="bold") + Text(completion, style="not bold")
    console.print(Panel(text, title="Sample", border_style="magenta", width=90))


def _short(value: Any, width: int = 58) -> str:
    text = format_value(value)
    return text if len(text) <= width else f"{text[: width - 1]}…"
