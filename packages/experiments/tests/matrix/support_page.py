"""docs/support.md: what the matrix tests, and what is refused, as a page.

./pants run packages/experiments/tests/matrix/support_page.py
"""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.matrix.combinations import KINDS, Combination, combinations
from tests.matrix.one_step import tiny_trainer
from tests.matrix.refusals import REFUSALS, Refused
from trellax.config import finalize

ABOUT = {
    "data": "replicas of the model (mesh axis `data`)",
    "slices": "replicas across slices or nodes (`dcn` of `data`)",
    "fsdp": "parameters and optimizer state split over `fsdp`, gathered for use",
    "tensor": "heads, feed-forward and vocabulary split over `model`",
    "tensor_sequence": "the same, and between them the sequence split over `model` (`tensor_sequence_rules`)",
    "expert": "experts over `expert`; rows exchanged by all-to-all, none dropped (`DroplessDispatch`)",
    "expert_capacity": "experts over `expert` with a fixed capacity (`CapacityDispatch`)",
    "all_gather": "sequence over `seq`; keys and values gathered (`AllGatherContext`)",
    "ring": "sequence over `seq`; keys and values travel round (`RingContext`)",
    "ulysses": "sequence over `seq`; traded for heads (`UlyssesContext`)",
    "gpipe": 'layers over `pipeline` (`PipelinedStack`, schedule "gpipe")',
    "circular": "the same, several chunks of layers a stage",
    "1f1b": "the same, backward passes begin early: memory of few microbatches",
}


def page() -> str:
    """Returns the page."""
    names = [kind.name for kind in KINDS]
    kinds = "\n".join(f"| {name} | {ABOUT[name]} |" for name in names)
    number = len(combinations())
    return f"""# Supported parallelism

Made from the matrix of tests (`packages/experiments/tests/matrix`): each of these {number} combinations takes a training step
on 8 devices whose loss, gradients and new parameters equal those of one device. Models are tiny decoders with
grouped-query attention on packed rows, dense or with 8 experts. What is refused is refused when the config is finalized.

| kind | what it is |
| --- | --- |
{kinds}

## Pairs

Devices along the axis of the row x of the column, and the model. A dot: one axis cannot be used in two ways.

{_pairs(names)}

## Triples

{_triples()}

## Refused

{_refused()}
"""


def _pairs(names: list[str]) -> str:
    found = {tuple(k.name for k in c.kinds): c for c in combinations() if len(c.kinds) == 2}
    lines = ["| | " + " | ".join(names[1:]) + " |", "| --- " * len(names) + "|"]
    for row in names[:-1]:
        cells = [
            _cell(found.get((row, column))) if _is_after(row, column, names) else ""
            for column in names[1:]
        ]
        lines.append(f"| **{row}** | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _is_after(row: str, column: str, names: list[str]) -> bool:
    return names.index(column) > names.index(row)


def _cell(combination: Combination | None) -> str:
    if combination is None:
        return "·"
    sizes = "x".join(map(str, combination.sizes))
    return f"{sizes} {'MoE' if combination.has_experts else 'dense'}"


def _triples() -> str:
    triples = [c for c in combinations() if len(c.kinds) == 3]
    lines = [
        f"- {' x '.join(kind.name for kind in c.kinds)} ({'MoE' if c.has_experts else 'dense'})"
        for c in triples
    ]
    return "\n".join(lines)


def _refused() -> str:
    return "\n".join(f"- **{refused.name}**: {_message(refused)}" for refused in REFUSALS)


def _message(refused: Refused) -> str:
    cfg = tiny_trainer(has_experts=refused.has_experts).set(mesh_shape=refused.mesh)
    refused.change(cfg)
    try:
        finalize(cfg)
    except ValueError as e:
        lines = str(e).removesuffix(" (in Trainer.Config.check)").splitlines()
        return (lines[1] if len(lines) > 1 else lines[0].removeprefix("Trainer.Config: ")).strip()
    raise AssertionError(f"{refused.name} is not refused.")


def uses_by_kind() -> dict[str, int]:
    """Returns in how many combinations each kind is."""
    uses = dict.fromkeys((kind.name for kind in KINDS), 0)
    for kind in itertools.chain.from_iterable(c.kinds for c in combinations()):
        uses[kind.name] += 1
    return uses


if __name__ == "__main__":
    Path("docs/support.md").write_text(page())
