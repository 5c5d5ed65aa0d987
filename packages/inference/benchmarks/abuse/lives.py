"""One life of the server after the other: started, watched, left in peace for a moment, ended.

life = await live(settings, crowd, seconds=120, ending="TERM")
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.abuse.clients import Crowd, Signal
from benchmarks.abuse.verdict import DRAIN_S
from benchmarks.abuse.wire import Broken, connected, request, send
from benchmarks.peers.servers import (
    NO_TELEMETRY,
    Server,
    prioritize,
    session_processes,
    wait_until_healthy,
)

EVERY_S = 5.0
QUIET_S = 10.0
"""Within which nothing may be held once no client is there."""
GAUGES = {
    "running": "num_requests_running",
    "waiting": "num_requests_waiting",
    "pages_used": "kv_cache_usage_perc",
    "compiles": "compiles_total",
    "preemptions": "num_preemptions_total",
    "generated_tokens": "generation_tokens_total",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the server is run.

    Attributes:
        command: starts it on `{port}`.
        log: what it prints.
        priority: of its session, see `prioritize`.
        schemathesis: the program, if there is one.
    """

    command: str
    log: Path
    priority: int
    schemathesis: str | None


async def live(settings: Settings, crowd: Crowd, seconds: float, ending: Signal) -> dict[str, Any]:
    """Returns the record of a life: what was seen every few seconds, what was held in quiet, how it ended."""
    start = time.monotonic()
    process = _started(settings, crowd.port)
    samples: list[dict[str, Any]] = []
    watching: asyncio.Task[None] | None = None
    try:
        server = Server(f"http://127.0.0.1:{crowd.port}", process.pid)
        await asyncio.to_thread(wait_until_healthy, server, process, settings.log)
        crowd.begin()
        life: dict[str, Any] = {"ready_s": round(time.monotonic() - start, 1), "ending": ending}
        watching = asyncio.create_task(_watch(process.pid, crowd, samples))
        fuzzing = _fuzz(settings, crowd.port, seconds) if settings.schemathesis else _nothing()
        life["schemathesis"], _ = await asyncio.gather(fuzzing, asyncio.sleep(seconds))
        life["served_s"] = round(time.monotonic() - crowd.began_at, 1)
        life["quiet"] = await _quiet(crowd)
        # Its end finds it at work.
        await asyncio.sleep(min(15.0, seconds / 4))
        life |= await _end(process, crowd, ending)
    finally:
        if watching is not None:
            watching.cancel()
        _kill(process)
    return life | {"samples": samples}


def _started(settings: Settings, port: int) -> subprocess.Popen[bytes]:
    words = [word.replace("{port}", str(port)) for word in shlex.split(settings.command)]
    with open(settings.log, "ab") as log:
        process = subprocess.Popen(
            words,
            env={**os.environ, **NO_TELEMETRY},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    prioritize(process.pid, settings.priority)
    return process


def _kill(process: subprocess.Popen[bytes]) -> None:
    for pid in session_processes(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


# ---- watching ---------------------------------------------------------------------------------------------------


async def _watch(pid: int, crowd: Crowd, samples: list[dict[str, Any]]) -> None:
    start = time.monotonic()
    while True:
        sample: dict[str, Any] = {
            "at_s": round(time.monotonic() - start, 1),
            "rss_mib": rss_mib(pid),
        }
        try:
            sample |= await gauges(crowd.port)
        except (Broken, OSError) as error:
            # Only once it is to end may it not answer.
            sample["metrics"] = f"none: {error}" if crowd.ending is None else "ended"
        samples.append(sample)
        await asyncio.sleep(EVERY_S)


def rss_mib(session: int) -> float:
    """Returns the memory that the session's processes hold (proc(5))."""
    pages = 0
    for pid in session_processes(session):
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


async def gauges(port: int) -> dict[str, float]:
    """Returns what the server says of itself. Raises: Broken, OSError."""
    async with connected(port) as connection:
        await send(connection, request("/metrics", b"", method="GET"))
        await connection.read_head()
        text = (await connection.body()).decode()
    found = {}
    for name, metric in GAUGES.items():
        (value,) = re.findall(rf"^trellax:{metric}{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        found[name] = float(value)
    return found


async def _quiet(crowd: Crowd) -> dict[str, Any]:
    """Lets all requests end and begins none; returns what is still held then."""
    crowd.is_paused = True
    start = time.monotonic()
    while crowd.active:
        await asyncio.sleep(0.1)
    waited = time.monotonic() - start
    deadline = time.monotonic() + QUIET_S
    while True:
        held = await gauges(crowd.port)
        is_empty = not (held["running"] or held["waiting"] or held["pages_used"])
        if is_empty or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    crowd.is_paused = False
    kept = {name: held[name] for name in ("running", "waiting", "pages_used")}
    return {"all_ended_after_s": round(waited, 1), "is_empty": is_empty, **kept}


# ---- ending -----------------------------------------------------------------------------------------------------


async def _end(process: subprocess.Popen[bytes], crowd: Crowd, ending: Signal) -> dict[str, Any]:
    crowd.signalled_at, crowd.ending = time.monotonic(), ending
    process.send_signal(getattr(signal, f"SIG{ending}"))
    start = time.monotonic()
    try:
        code = await asyncio.to_thread(process.wait, DRAIN_S)
    except subprocess.TimeoutExpired:
        code = None
    return {"ended_after_s": round(time.monotonic() - start, 1), "exit_code": code}


# ---- schemathesis -----------------------------------------------------------------------------------------------


async def _fuzz(settings: Settings, port: int, seconds: float) -> dict[str, Any]:
    """Runs schemathesis on the server's own document; returns how many cases it made and passed, and what it says.

    Its client gives up after a while, as others do; it calls that an error of the network, and no failure.
    """
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance"
    wanted = settings.schemathesis or ""
    program = os.path.abspath(shutil.which(wanted) or wanted)
    with tempfile.TemporaryDirectory() as folder:  # It keeps notes where it runs.
        process = await asyncio.create_subprocess_exec(
            *(program, "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--checks", checks, "--max-time", str(max(5, int(seconds) - 10)), "--no-shrink"),
            *("--continue-on-failure", "--suppress-health-check", "all", "--workers", "1"),
            *("--request-timeout", "120", "--no-color", "--generation-database", "none"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), seconds + 180)
        except TimeoutError:
            return {"generated": 0, "passed": 0, "said": "It did not end."}
        finally:
            if process.returncode is None:
                process.kill()
    return fuzz_result(said.decode(errors="replace"))


def fuzz_result(said: str) -> dict[str, Any]:
    """Returns the counts in schemathesis' summary, and its end, without the server's address."""
    found = re.search(r"(\d+) generated(?:, (\d+) passed)?", said)
    generated, passed = found.groups("0") if found else ("0", "0")
    text = re.sub(r"http://[\d.:]+", "URL", said[-3000:])
    return {"generated": int(generated), "passed": int(passed), "said": text}


async def _nothing() -> None:
    return None
