"""A plan as one self-contained page: the mesh, the bytes of a device, the step as a timeline, the collectives, the advice.

Path("plan.html").write_text(plans_html([plan]))
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from trellax.experiments.planning import units
from trellax.experiments.planning.mesh_drawing import mesh_svg
from trellax.experiments.planning.report import Plan
from trellax.experiments.planning.text import verdict

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #66727f; --line: #d5dbe1; --card: #fff; --back: #f4f6f8;
  --a: #3567b0; --b: #7a52a3; --c: #c9742b; --d: #3c8d5a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #98a3ae; --line: #3a444e; --card: #1e252c;
  --back: #14191e; --a: #7ba6e0; --b: #b696d8; --c: #e0a36b; --d: #7cc096; --bad: #f2b8b5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 0 auto; max-width: 1000px; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; } h2 { font-size: 1.1rem; margin: 0; } h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.1rem 1.3rem; margin-bottom: 1.2rem; }
.facts { color: var(--soft); } .fits { color: var(--d); font-weight: 600; } .not { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .more { fill: var(--soft); }
svg .axis { fill: none; stroke: var(--line); stroke-width: 1.5; } svg .crossing { stroke: var(--c); stroke-dasharray: 5 3; }
svg .device { fill: var(--a); opacity: .75; }
.parameters { fill: var(--a); } .optimizer { fill: var(--b); } .inputs { fill: var(--d); } .working { fill: var(--c); }
.compute { fill: var(--a); } .hbm { fill: var(--d); } .links { fill: var(--c); } .bubble { fill: var(--soft); opacity: .5; }
.limit { stroke: var(--bad); stroke-width: 2; } .key { color: var(--soft); font-size: .85rem; }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
"""
_VERDICTS = {True: "fits", False: "not", None: "facts"}
_WIDTH = 720
_ROW = 30


def plans_html(plans: Sequence[Plan]) -> str:
    """Returns a page with one section for each plan."""
    title = f"Plan of {plans[0].experiment}"
    data = json.dumps([plan.to_dict() for plan in plans]).replace("<", "\\u003c")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{''.join(map(_section, plans))}"
        f'<script type="application/json" id="plans">{data}</script></html>\n'
    )


def _section(plan: Plan) -> str:
    facts = (
        f"{plan.num_devices:,} device{'s' * (plan.num_devices > 1)} · {plan.num_parameters:,} parameters · {plan.rows:,} x {plan.length:,} "
        f"tokens a step · rule: {plan.rule}"
    )
    parts = [
        f'<h2>{escape(plan.hardware)} <span class="{_VERDICTS[plan.fits]}">{escape(verdict(plan))}</span></h2>',
        f'<div class="facts">{escape(facts)}</div>',
        "<h3>Mesh</h3>",
        f'<div class="scroll">{mesh_svg(plan.mesh, plan.across)}</div>',
        "<h3>Memory of a device</h3>",
        _memory(plan),
    ]
    if plan.bound is not None:
        parts += ["<h3>The step, every part at its peak</h3>", _timeline(plan)]
    if plan.collectives:
        parts += ["<h3>Collectives of a step</h3>", _collectives(plan)]
    lists = {
        "Limits of the platform": plan.findings,
        "Advice": plan.advice,
        "Notes": plan.notes,
    }
    for title, lines in lists.items():
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            parts.append(f"<h3>{title}</h3><ul>{items}</ul>")
    return f"<section>{''.join(parts)}</section>"


def _memory(plan: Plan) -> str:
    memory = plan.memory
    others = memory.inputs - memory.parameters - memory.optimizer
    pieces = [
        ("parameters", memory.parameters, "parameters"),
        ("optimizer", memory.optimizer, "optimizer state"),
        ("inputs", others, "batch and counters"),
        ("working", memory.working or 0.0, "activations, gradients, gathered weights"),
    ]
    total = sum(size for _, size, _ in pieces)
    scale = _WIDTH / max(total, memory.capacity or 0.0, 1.0)
    shapes, x = [], 0.0
    for css, size, what in pieces:
        shapes.append(
            f'<rect class="{css}" x="{x:.1f}" y="6" width="{size * scale:.1f}" height="34">'
            f"<title>{what}: {units.gib(size)}</title></rect>"
        )
        x += size * scale
    if memory.capacity is not None:
        at = memory.capacity * scale
        anchor = "end" if at > _WIDTH / 2 else "start"
        shapes.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="46"/>')
        shapes.append(
            f'<text x="{at:.1f}" y="60" text-anchor="{anchor}">usable: {units.gib(memory.capacity)}</text>'
        )
    key = [(css, f"{what} {units.gib(size)}") for css, size, what in pieces]
    return _svg("".join(shapes), 66) + _key(key)


def _timeline(plan: Plan) -> str:
    bound = plan.bound
    assert bound is not None
    scale = (_WIDTH - 130 - 80) / max(*bound.parts.values(), bound.seconds)
    shapes = []
    for row, (part, time) in enumerate(bound.parts.items()):
        y = row * _ROW
        css = part if part in ("compute", "hbm") else "links"
        shapes.append(f'<text x="0" y="{y + 18}">{escape(part)}</text>')
        x = 130.0
        for name, seconds in _pieces(plan, part, time):
            shapes.append(
                f'<rect class="{css}" x="{x:.1f}" y="{y + 4}" width="{max(seconds * scale - 1, 0.5):.1f}" height="20">'
                f"<title>{escape(name)}: {units.seconds(seconds)}</title></rect>"
            )
            x += seconds * scale
        shapes.append(f'<text x="{x + 6:.1f}" y="{y + 19}">{units.seconds(time)}</text>')
    height = len(bound.parts) * _ROW
    if bound.bubble:
        width = bound.bubble * bound.seconds * scale
        x = 130 + (1 - bound.bubble) * bound.seconds * scale
        shapes.append(f'<rect class="bubble" x="{x:.1f}" y="4" width="{width:.1f}" height="20"/>')
    at = 130 + bound.seconds * scale
    shapes.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height}"/>')
    text = (
        f"At least {units.seconds(bound.seconds)} a step, by {bound.by}: MFU at most {units.percent(bound.mfu)}, "
        f"{bound.tokens_per_second:,.0f} tokens/s."
    )
    return _svg("".join(shapes), height + 4) + f'<div class="key">{escape(text)}</div>'


def _pieces(plan: Plan, part: str, time: float) -> Iterable[tuple[str, float]]:
    """Yields what a lane of the timeline is made of."""
    pieces = [
        (f"{c.kind} over {'+'.join(c.axes)}", c.seconds)
        for c in plan.collectives
        if c.network == part and c.seconds
    ]
    known = sum(seconds for _, seconds in pieces)
    if not pieces or known <= 0:
        return [(part, time)]
    return [(name, seconds * time / known) for name, seconds in pieces]


def _collectives(plan: Plan) -> str:
    rows = "".join(
        f"<tr><td>{escape(c.kind)}</td><td>{escape('+'.join(c.axes) or '(other groups)')}</td><td>{escape(c.network)}</td>"
        f"<td>{units.size(c.bytes)}</td><td>{c.times:,}</td><td>{units.seconds(c.seconds)}</td></tr>"
        for c in plan.collectives
    )
    head = "<tr><th>kind</th><th>mesh axes</th><th>network</th><th>bytes</th><th>times</th><th>at least</th></tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _svg(shapes: str, height: float) -> str:
    return (
        f'<div class="scroll"><svg width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{shapes}</svg></div>'
    )


def _key(entries: Iterable[tuple[str, str]]) -> str:
    colors = {"parameters": "--a", "optimizer": "--b", "inputs": "--d", "working": "--c"}
    items = "".join(
        f'<i style="background:var({colors[css]})"></i>{escape(text)}' for css, text in entries
    )
    return f'<div class="key">{items}</div>'
