"""Load and abuse: twice what a real server can hold, for half an hour, while it is killed and started again.

    python -m benchmarks.abuse --capacity 24 --minutes 30 --schemathesis PROGRAM --ours 'COMMAND --port {port}
        engine.max_sequences=8 engine.max_queued_requests=16'          # in packages/inference, on one line

Clients of all kinds keep twice as many requests under way as the server can hold: short and long, whole and streamed, a
fifth of them given up midway; beside them bodies that are none, connections on which hardly anything comes, and
schemathesis on the server's own OpenAPI document. The server has five lives. Before the end of each all clients wait until
nothing is under way, and nothing may be held then; the load comes back, and SIGTERM or SIGKILL ends the life.

Every request is accounted for: answered, with exactly the tokens that were asked for; refused, with a code; given up by
its client; cut off by our own SIGKILL; or lost, which is anything else. Memory is judged in the longest life, see
`verdict.py`. Writes results/abuse.json, and exits with 1 if a demand does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.abuse.clients import Crowd, Signal
from benchmarks.abuse.lives import Settings, live
from benchmarks.abuse.verdict import judge
from benchmarks.peers.report import machine
from benchmarks.peers.servers import free_port, prioritize

RESULTS = Path(__file__).parents[1] / "results" / "abuse.json"
LIVES: tuple[tuple[float, Signal], ...] = (
    (0.12, "KILL"),
    (0.12, "TERM"),
    (0.5, "TERM"),
    (0.12, "KILL"),
    (0.14, "TERM"),
)
"""Share of the time, and end, of each life."""


def main() -> None:
    args = arguments()
    # Whoever ends this ends the server too: an exception leaves its `try`, a signal does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended."))
    prioritize(os.getpid(), args.priority)
    crowd = Crowd(free_port(), args.seed, args.capacity)
    with tempfile.TemporaryDirectory() as folder:
        log = args.log or Path(folder, "server.log")
        settings = Settings(args.ours, log, args.priority, args.schemathesis)
        report = asyncio.run(run(settings, crowd, args))
    shown = {"verdict": report["verdict"], "outcomes": report["outcomes"], "lost": crowd.lost[:5]}
    print(json.dumps(shown, indent=1))
    sys.exit(not report["verdict"]["holds"])


async def run(settings: Settings, crowd: Crowd, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the report, which is saved after every life, too."""
    lives: list[dict[str, Any]] = []
    async with asyncio.TaskGroup() as tasks:
        crowd.start(tasks)
        try:
            for share, ending in LIVES:
                lives.append(await live(settings, crowd, share * 60 * args.minutes, ending))
                lives[-1]["outcomes_so_far"] = dict(crowd.outcomes)
                report = report_of(lives, crowd, args)
                args.output.parent.mkdir(parents=True, exist_ok=True)
                lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in report.items())
                args.output.write_text("{\n" + ",\n".join(lines) + "\n}\n")
                last = {name: lives[-1][name] for name in ("ready_s", "quiet", "ended_after_s")}
                print(ending, json.dumps(last | {"outcomes": crowd.outcomes}), flush=True)
        finally:
            crowd.is_over = True
    return report


def report_of(
    lives: Sequence[dict[str, Any]], crowd: Crowd, args: argparse.Namespace
) -> dict[str, Any]:
    report = {
        "machine": machine(),
        "minutes": args.minutes,
        "capacity": args.capacity,
        "clients": 2 * args.capacity,
        "engine": [word for word in args.ours.split() if word.startswith("engine.")],
        "outcomes": dict(sorted(crowd.outcomes.items())),
        "lost": crowd.lost,
        "first_tokens": crowd.first_tokens,
        "lives": lives,
    }
    return {"verdict": judge(report), **report}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ours", required=True, metavar="COMMAND")
    parser.add_argument("--capacity", type=int, required=True, help="requests that run and wait")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", metavar="PROGRAM", help="run it, too")
    parser.add_argument("--priority", type=int, default=0, help="as benchmarks.peers.bench has it")
    parser.add_argument("--log", type=Path, help="of the server")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
