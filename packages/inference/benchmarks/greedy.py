"""Is greedy output that of transformers, token by token? With real weights, which the tests have none of.

    python -m benchmarks.greedy SmolLM2-135M-Instruct.Q4_1.gguf [--weights=float32] [--dtype=float32]

Compares 20 prompts of 128 tokens with `tests/goldens/smollm2_greedy.json`, which `make_goldens.py` there has made. Exits with 1 if
a token differs, and says how close the two likeliest were where it does first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from trellax.config import finalize
from trellax.inference import EngineConfig, Request, SamplingParams, build_core
from trellax.runtime.weights import open_pretrained

GOLDENS = Path(__file__).parent.parent / "tests" / "goldens" / "smollm2_greedy.json"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--weights", default="float32")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    cases = json.loads(GOLDENS.read_text())["prompts"]
    started = time.perf_counter()
    drawn = generated(arguments, cases)
    print(f"{len(cases)} prompts in {time.perf_counter() - started:.0f} s, compiling included")
    same = [told(case, tokens) for case, tokens in zip(cases, drawn, strict=True)]
    print(f"{sum(same)} of {len(cases)} identical")
    return 0 if all(same) else 1


def generated(arguments: argparse.Namespace, cases: list[dict[str, Any]]) -> list[list[int]]:
    """Returns 128 greedy tokens for each prompt, several at a time."""
    pretrained = open_pretrained(arguments.model)
    cfg = EngineConfig.default_config().set(
        max_length=1024,
        max_sequences=8,
        warms_up=False,
        dtype=arguments.dtype,
        weights=arguments.weights,
    )
    core = build_core(
        finalize(cfg),
        pretrained.model_config(),
        lambda model, shardings: pretrained.read(model, dtype=arguments.dtype),
    )
    params = SamplingParams(max_tokens=128, temperature=0.0)
    for index, case in enumerate(cases):
        core.add(Request(str(index), tuple(case["prompt_ids"]), params))
    drawn: list[list[int]] = [[] for _ in cases]
    while core.has_work:
        for output in core.step():
            drawn[int(output.request_id)] += output.token_ids
    return drawn


def told(case: dict[str, Any], tokens: list[int]) -> bool:
    """Returns whether the tokens are those of the golden, and prints where they are not."""
    expected = case["new_ids"]
    at = next(
        (i for i, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1]), None
    )
    if at is None:
        return True
    print(
        f"{case['name']}: token {at} is {tokens[at]}, not {expected[at]}; margin {case['margins'][at]:.2g}"
    )
    return False


if __name__ == "__main__":
    sys.exit(main())
