"""What a run proves: which of its demands hold, with the numbers that say so.

    verdict = judge(report)
    python -m benchmarks.abuse.verdict FILE       # in packages/inference: judges a run that was saved again

Time to first token is judged over all lives, from the first second of each: all programs were compiled before. Memory is judged in
the longest life, after its first third, in which it fills.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DRAIN_S = 60.0
"""Within which the server must have ended after SIGTERM: it grants running requests 30 s."""
SETTLING_SHARE = 1 / 3
"""Of a life, at its beginning, in which memory is not judged."""
GROWTH = 0.02
"""Share of its memory that a server may grow by in ten minutes."""
FEW_SAMPLES = 12


def judge(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns each demand with whether it holds.

    Args:
        report: with `capacity`, `lives`, `lost` and `first_tokens` (life, second of the life, seconds waited).
    """
    lives = report["lives"]
    longest = max(range(len(lives)), key=lambda number: len(lives[number]["samples"]))
    memory = growth(lives[longest])
    waits = [wait for _, _, wait in report["first_tokens"]]
    bound_s = queue_bound_s(report, longest)
    demands = {
        "no request was lost": not report["lost"],
        "nothing was held once nobody was there": all(life["quiet"]["is_empty"] for life in lives),
        "SIGTERM ended it in order": all(
            life["exit_code"] == 0 and life["ended_after_s"] <= DRAIN_S
            for life in lives
            if life["ending"] == "TERM"
        ),
        "it always answered about itself": not any(
            str(sample.get("metrics", "")).startswith("none")
            for life in lives
            for sample in life["samples"]
        ),
        "schemathesis found nothing": all(
            fuzz is None or (fuzz["generated"] and fuzz["generated"] == fuzz["passed"])
            for fuzz in (life["schemathesis"] for life in lives)
        ),
        "memory was flat": memory["share_in_10_min"] <= GROWTH,
        "time to first token was bounded": percentile(waits, 0.99) <= bound_s,
    }
    return {
        "holds": all(demands.values()),
        "demands": demands,
        "longest_life": longest,
        "memory": memory,
        "first_token": {**percentiles(waits), "bound_s": round(bound_s, 2)},
    }


def queue_bound_s(report: Mapping[str, Any], number: int) -> float:
    """Returns twice the time in which a full server has answered all that it holds, as fast as it was in a life.

    Who is admitted last to a fair queue waits for no more than those that are in it.
    """
    served = [0, *(_num_served(life["outcomes_so_far"]) for life in report["lives"])]
    count = served[number + 1] - served[number]
    return 2 * report["capacity"] * report["lives"][number]["served_s"] / max(count, 1)


def _num_served(outcomes: Mapping[str, int]) -> int:
    kinds = ("answered", "cancelled within")
    return sum(count for name, count in outcomes.items() if name.startswith(kinds))


def growth(life: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how memory grew in a life, but for its beginning and its end.

    The slope is Theil and Sen's, the median of those of all pairs of samples: a few outliers do not move it.
    """
    samples = [sample for sample in life["samples"] if "running" in sample]
    settled = samples[int(len(samples) * SETTLING_SHARE) :]
    if len(settled) < FEW_SAMPLES:
        return {"samples": len(settled), "share_in_10_min": 0.0, "is_judged": False}
    slope = statistics.median(
        (b["rss_mib"] - a["rss_mib"]) / (b["at_s"] - a["at_s"])
        for i, a in enumerate(settled)
        for b in settled[i + 1 :]
    )
    level = statistics.median(sample["rss_mib"] for sample in settled)
    return {
        "samples": len(settled),
        "from_s": settled[0]["at_s"],
        "to_s": settled[-1]["at_s"],
        "median_mib": level,
        "mib_per_min": round(60 * slope, 3),
        "share_in_10_min": round(600 * slope / level, 4),
        "compiles_meanwhile": settled[-1]["compiles"] - settled[0]["compiles"],
        "is_judged": True,
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    shares = {"p50_s": 0.5, "p99_s": 0.99, "longest_s": 1.0}
    found = {name: round(percentile(values, share), 2) for name, share in shares.items()}
    return {"streams": len(values), **found}


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


if __name__ == "__main__":
    print(json.dumps(judge(json.loads(Path(sys.argv[1]).read_text())), indent=1))
