"""Our server beside vLLM, transformers and llama.cpp: the same requests, the same client, the same machine, in turn.

    python -m benchmarks.peers.bench FOLDER --ours trellax_float32='COMMAND --port {port}'    # in packages/inference

FOLDER is what `install.py` filled. COMMAND starts a server that speaks OpenAI's protocol on the port, calls its
model smollm2-135m, and answers /health once it is ready. In each round every server is started alone, warmed up, and
asked at 1, 8 and 32 requests at a time; servers take turns, so that what else happens on the machine hits all of them.

Writes results/peers.json, with a sample for every request, and prints medians. `--short` takes about ten minutes.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.client import Load, Tools, measure
from benchmarks.peers.contestants import Peer, peers
from benchmarks.peers.report import machine, medians, summary, table, versions
from benchmarks.peers.servers import Server, prioritize, running

RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
# Requests in flight: requests measured.
NUM_REQUESTS = {1: 6, 8: 24, 32: 96}
NUM_REQUESTS_SHORT = {1: 2, 8: 8, 32: 32}


def main() -> None:
    args = arguments()
    folder = args.folder.resolve()
    # Whoever ends this ends the server too: an exception leaves its `with`, a signal does not.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Ended."))
    prioritize(os.getpid(), args.priority)
    contestants = chosen(args, folder)
    report = {"machine": machine(), "versions": versions(contestants), "arguments": vars(args)}
    runs: list[dict[str, Any]] = []
    conversations = json.loads((folder / "conversations.json").read_text())
    for number in range(args.rounds):
        loads = loads_of_round(conversations, number, args)
        # Each round begins with another server.
        turn = collections.deque(contestants)
        turn.rotate(-number)
        for peer in turn:
            for run in measured(peer, loads, folder, args):
                runs.append({"round": number, **run})
                print(peer.name, run["concurrency"], json.dumps(summary([run])), flush=True)
                save({**report, "medians": medians(runs), "runs": runs}, args.output)
    print(table(medians(runs)))


def save(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, default=str) + "\n")


def measured(
    peer: Peer, loads: Sequence[Load], folder: Path, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yields a measurement of one server for every load; none, but a message, if it does not start."""
    tools = Tools(
        vllm=folder / "vllm" / "bin" / "vllm",
        tokenizer=folder / "smollm2_float32",
        log=folder / "client.log",
        limit_s=args.limit_s,
    )
    start = time.monotonic()
    try:
        with running(peer, log=folder / f"{peer.name}.log", priority=args.priority) as server:
            ready_s = round(time.monotonic() - start, 1)
            warm_up(server, peer)
            for load in loads:
                yield {"ready_s": ready_s, **measure(server, peer, load, tools)}
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"{peer.name}: {error}", flush=True)


def warm_up(server: Server, peer: Peer) -> None:
    """Has a few requests answered, one and then several at a time, so that what is made at first use is there."""
    for num_streams in (1, 8):
        with concurrent.futures.ThreadPoolExecutor(num_streams) as pool:
            texts = [
                f"{n} times I told myself, and " + "over and " * 10 * n for n in range(num_streams)
            ]
            list(pool.map(lambda text: ask(server, peer, text), texts))


def ask(server: Server, peer: Peer, text: str) -> None:
    body = {"model": peer.model, "max_tokens": 8, **peer.extra_body}
    body |= {"messages": [{"role": "user", "content": text}]} if peer.chat else {"prompt": text}
    request = urllib.request.Request(
        f"{server.url}/v1/{'chat/' if peer.chat else ''}completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        response.read()


def loads_of_round(
    conversations: Sequence[dict[str, Any]], number: int, args: argparse.Namespace
) -> list[Load]:
    """Returns the loads that every server gets in a round; no conversation comes twice, for prefix caches' sake."""
    num_requests = NUM_REQUESTS_SHORT if args.short else NUM_REQUESTS
    counts = {n: num_requests.get(n, 2 * n) for n in args.concurrency}
    start, loads = number * sum(counts.values()), []
    for concurrency, count in counts.items():
        loads.append(Load(conversations[start : start + count], concurrency))
        start += count
    if start > len(conversations):
        raise ValueError(
            f"{start} conversations are needed, there are {len(conversations)}: conversations.py --num"
        )
    return loads


# ---- the command line ---------------------------------------------------------------------------------------


def chosen(args: argparse.Namespace, folder: Path) -> list[Peer]:
    """Returns ours and the peers asked for."""
    known = peers(folder, max_streams=max(args.concurrency))
    texts = (text.partition("=") for text in args.ours)
    ours = [Peer(name, tuple(shlex.split(command))) for name, _, command in texts]
    return ours + [known[name] for name in args.peers]


def arguments() -> argparse.Namespace:
    usual = ("vllm_float32", "vllm_bfloat16", "llamacpp_q4_1")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ours", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument(
        "--peers", nargs="*", default=usual, choices=(*usual, "transformers_float32")
    )
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, help="3, or 1 if short")
    parser.add_argument("--short", action="store_true", help="rounds of fewer requests")
    parser.add_argument("--limit-s", type=float, default=400, help="of one measurement")
    parser.add_argument(
        "--priority",
        type=int,
        default=0,
        help="-15 on a machine that others use; needs root, and autogroups",
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds is None:
        args.rounds = 1 if args.short else 3
    return args


if __name__ == "__main__":
    main()
