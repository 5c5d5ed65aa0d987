"""Offline inference: the requests of a JSONL file, answered as the server would, and resumed where it was stopped.

    result = run_batch(engine, "requests.jsonl", "results.jsonl", concurrency=64)

A line is what OpenAI's batch interface takes, `{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {…}}`, and so is
what is written for it, `{"custom_id": "1", "response": {"status_code": 200, "body": {…}}, "error": null}`, in the order in which
requests end. A line is written at once, whole, or (if the process dies in the middle) cut off at the next start, so that every
request is answered once however often the command is started.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from trellax.inference.server import Engine, Limits, ServerSettings, create_app

_URLS = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings")
_NO_LIMIT_S = 1e9


class BatchError(ValueError):
    """The file of requests is not one; the message says where."""


@dataclasses.dataclass(frozen=True)
class BatchResult:
    """What became of a file.

    Attributes:
        num_answered: requests that were answered now.
        num_failed: those among them that were refused or failed.
        num_before: requests that had been answered before.
    """

    num_answered: int
    num_failed: int
    num_before: int


def run_batch(
    engine: Engine,
    requests: str | os.PathLike[str],
    results: str | os.PathLike[str],
    *,
    concurrency: int = 64,
    on_answer: Callable[[int], None] | None = None,
) -> BatchResult:
    """Answers the requests of a file that have no result yet.

    Args:
        engine: computes.
        requests: a JSONL file.
        results: a JSONL file, which is appended to.
        concurrency: requests that the engine is given at once.
        on_answer: is called with the number of answers so far.

    Raises:
        BatchError: a line is no request, or two have the same custom_id; nothing was computed.
    """
    lines = list(_requests(Path(requests)))
    before = _cut_to_whole_lines(Path(results))
    left = [line for line in lines if line["custom_id"] not in before]
    run = _Run(engine, Path(results), on_answer)
    asyncio.run(run.all(left, concurrency))
    return BatchResult(run.num_answered, run.num_failed, len(lines) - len(left))


def _requests(file: Path) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    with file.open(encoding="utf-8") as lines:
        for number, text in enumerate(lines, start=1):
            if not text.strip():
                continue
            line = _checked(text, f"{file}:{number}")
            if line["custom_id"] in seen:
                raise BatchError(
                    f"{file}:{number}: custom_id {line['custom_id']!r} is there twice."
                )
            seen.add(line["custom_id"])
            yield line


def _checked(text: str, where: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as e:
        raise BatchError(f"{where}: not JSON ({e}).") from None
    if not isinstance(line, dict) or not isinstance(line.get("custom_id"), str):
        raise BatchError(f'{where}: expected an object with a text "custom_id".')
    if line.get("url") not in _URLS or line.get("method", "POST") != "POST":
        raise BatchError(
            f'{where}: "url" is {line.get("url")!r}; it must be one of {", ".join(_URLS)}, "method" POST.'
        )
    if not isinstance(line.get("body"), dict):
        raise BatchError(f'{where}: expected an object as "body".')
    return line


def _cut_to_whole_lines(file: Path) -> set[str]:
    """Drops what a process that died in the middle of a line has left; returns the ids of the others."""
    if not file.exists():
        return set()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as out:
            out.truncate(len(whole))
    return {json.loads(line)["custom_id"] for line in whole.splitlines()}


class _Run:
    """Some requests on their way."""

    def __init__(self, engine: Engine, results: Path, on_answer: Callable[[int], None] | None):
        self._engine, self._results, self._on_answer = engine, results, on_answer
        self.num_answered = self.num_failed = 0

    async def all(self, lines: list[dict[str, Any]], concurrency: int) -> None:
        """Answers all of them."""
        settings = ServerSettings(limits=Limits(request_s=_NO_LIMIT_S), show_page=False)
        transport = httpx.ASGITransport(create_app(self._engine, settings))
        places = asyncio.Semaphore(concurrency)
        with self._results.open("ab") as out:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://batch", timeout=None
            ) as client:

                async def one(line: dict[str, Any]) -> None:
                    async with places:
                        self._write(out, await self._answer(client, line))

                async with asyncio.TaskGroup() as tasks:
                    for line in lines:
                        tasks.create_task(one(line))

    async def _answer(self, client: httpx.AsyncClient, line: dict[str, Any]) -> dict[str, Any]:
        """Returns the result of a request; one that finds the queue full comes again."""
        body = line["body"] | {"stream": False}
        while True:
            response = await client.post(line["url"], json=body)
            if response.status_code not in (429, 503) or not self._engine.is_healthy():
                break
            await asyncio.sleep(float(response.headers.get("retry-after", "1")))
        content = response.json()
        return {
            "id": f"batch_{line['custom_id']}",
            "custom_id": line["custom_id"],
            "response": {"status_code": response.status_code, "body": content},
            "error": None if response.status_code == 200 else content.get("error"),
        }

    def _write(self, out: Any, result: dict[str, Any]) -> None:
        out.write(json.dumps(result, ensure_ascii=False).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
        self.num_answered += 1
        self.num_failed += result["error"] is not None
        if self._on_answer is not None:
            self._on_answer(self.num_answered)
