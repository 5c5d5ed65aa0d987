"""What a token costs on its way through the server: CPU time of the whole HTTP stack, without a model.

    ./pants run packages/inference/benchmarks/server.py
    python -m benchmarks.server --save     # in packages/inference

The server runs in a process of its own, with an engine that gives every stream a token a step as fast as it
can. The figure that counts is the server's CPU time a token: so much is taken from the model, where both
share cores.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from trellax.inference.histogram import Histogram
from trellax.inference.requests import Output, Request
from trellax.inference.server import run_server

RESULTS = pathlib.Path(__file__).parent / "results"


class Letters:
    """A tokenizer of bytes."""

    vocab_size = 256
    bos_id = None
    eos_ids: frozenset[int] = frozenset()
    special_tokens: dict[str, str] = {}
    chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"

    def encode(
        self, text: str, *, add_special_tokens: bool = False, parse_special: bool = True
    ) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(ids).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def is_special(self, token_id: int) -> bool:
        return False

    def to_json(self) -> str:
        return "{}"


@dataclasses.dataclass
class Card:
    id: str = "letters"
    created: int = 0
    max_length: int = 1 << 20
    vocab_size: int = 256


@dataclasses.dataclass
class Stats:
    num_running: int = 0
    num_waiting: int = 0
    page_usage: float = 0.0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    num_compiles: int = 0
    queue_time_s: Histogram = dataclasses.field(default_factory=lambda: Histogram([1.0]))
    prefill_time_s: Histogram = dataclasses.field(default_factory=lambda: Histogram([1.0]))
    step_tokens: Histogram = dataclasses.field(default_factory=lambda: Histogram([1.0]))


class Stepper:
    """An engine whose steps cost nothing: every stream gets a token, and the event loop a turn."""

    def __init__(self) -> None:
        self.model = Card()
        self.tokenizer = Letters()
        self._queues: set[asyncio.Queue[Output]] = set()
        self._stepping: asyncio.Task[None] | None = None

    def check(self, request: Request) -> None:
        pass

    def stats(self) -> Stats:
        return Stats(num_running=len(self._queues))

    def is_healthy(self) -> bool:
        return True

    async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Output, None]:
        (request,) = requests
        queue: asyncio.Queue[Output] = asyncio.Queue()
        self._queues.add(queue)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            for _ in range(request.params.max_tokens - 1):
                await queue.get()
                yield Output(request.id, (97,), " token")
            yield Output(request.id, (97,), " last", finish_reason="length")
        finally:
            self._queues.discard(queue)

    async def _step(self) -> None:
        item = Output("", (97,))
        while self._queues:
            for queue in self._queues:
                queue.put_nowait(item)
            await asyncio.sleep(0)
            while any(queue.qsize() for queue in self._queues):
                await asyncio.sleep(0)


def serve(pipe: Any) -> None:
    """The server's process: tells its port, then CPU seconds whenever it is asked."""

    def answer() -> None:
        while True:
            pipe.recv()
            pipe.send(time.process_time())

    def begin(host: str, port: int) -> None:
        pipe.send(port)
        threading.Thread(target=answer, daemon=True).start()

    run_server(Stepper(), port=0, on_start=begin)


async def read_stream(port: int, chat: bool, num_tokens: int) -> int:
    """Returns how many events a stream has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    body: dict[str, Any] = {"stream": True, "max_tokens": num_tokens}
    body |= {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    data = json.dumps(body).encode()
    path = b"/v1/chat/completions" if chat else b"/v1/completions"
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        % (path, len(data))
    )
    writer.write(data)
    events = 0
    while piece := await reader.read(1 << 20):
        events += piece.count(b"data: {")
    writer.close()
    return events


async def load(port: int, streams: int, num_tokens: int, chat: bool) -> int:
    return sum(await asyncio.gather(*(read_stream(port, chat, num_tokens) for _ in range(streams))))


def measure(args: argparse.Namespace) -> list[dict[str, float]]:
    """Returns samples: wall and CPU seconds of as many tokens as `args` ask for, and their quotients."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
    process.start()
    port = here.recv()
    samples = []

    def cpu_s() -> float:
        here.send(None)
        return here.recv()

    try:
        asyncio.run(load(port, 4, 50, args.chat))
        for _ in range(args.repeats):
            cpu, wall = cpu_s(), time.perf_counter()
            tokens = asyncio.run(load(port, args.streams, args.tokens, args.chat))
            wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
            samples.append(
                {
                    "tokens": tokens,
                    "wall_s": wall,
                    "cpu_s": cpu,
                    "tokens_per_s": tokens / wall,
                    "cpu_us_per_token": cpu / tokens * 1e6,
                }
            )
    finally:
        process.terminate()
        process.join()
    return samples


def main() -> None:
    args = _arguments()
    samples = measure(args)
    for sample in samples:
        print(
            f"{sample['tokens_per_s']:8.0f} tokens/s  {sample['cpu_us_per_token']:6.1f} us CPU a token"
        )
    if args.save:
        names = ("uvicorn", "starlette", "uvloop", "h11", "httptools")
        report = {
            "date": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
            "platform": platform.platform(),
            "load_average": [round(load, 2) for load in os.getloadavg()],
            "versions": {name: _version(name) for name in names},
            "streams": args.streams,
            "kind": "chat" if args.chat else "completion",
            "samples": samples,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "server.json").write_text(json.dumps(report, indent=1) + "\n")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=32, help="at once")
    parser.add_argument("--tokens", type=int, default=400, help="of each stream")
    parser.add_argument("--repeats", type=int, default=3, help="samples")
    parser.add_argument("--chat", action="store_true", help="chats instead of completions")
    parser.add_argument("--save", action="store_true", help="write results/server.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
