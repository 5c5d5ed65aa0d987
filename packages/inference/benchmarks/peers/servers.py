"""A server while it runs: started, waited for, its CPU time read, stopped.

    with running(peer, log=path) as server:
        server.url, server.cpu_s()

A server's CPU time is that of all processes of the session that it is started in, from /proc; so only Linux will do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.contestants import Peer

STARTS_WITHIN_S = 400
NO_TELEMETRY = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    pid: int

    def cpu_s(self) -> float:
        """Returns user and system time of its processes so far, in seconds."""
        return sum(session_cpu_s(self.pid))


@contextlib.contextmanager
def running(peer: Peer, *, log: Path, priority: int = 0) -> Iterator[Server]:
    """Starts a server, and yields it once it is healthy; stops it after.

    Args:
        peer: what to start.
        log: file for what it prints.
        priority: see `prioritize`.

    Raises:
        RuntimeError: if it ends, or is not healthy in time.
    """
    port = free_port()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in peer.command],
            env={**os.environ, **NO_TELEMETRY, **peer.env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        prioritize(process.pid, priority)
        server = Server(f"http://127.0.0.1:{port}", process.pid)
        wait_until_healthy(server, process, log)
        yield server
    finally:
        stop(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prioritize(pid: int, priority: int) -> None:
    """Sets the scheduler's priority of a process's session, as `nice` counts it.

    Where autogroups are on, `nice` itself weighs processes of one session only.
    """
    if priority:
        Path(f"/proc/{pid}/autogroup").write_text(str(priority))


def wait_until_healthy(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with {process.returncode}; see {log}.")
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"{server.url}/health", timeout=5),
        ):
            return
        time.sleep(0.5)
    raise RuntimeError(f"The server was not healthy within {STARTS_WITHIN_S} s; see {log}.")


def stop(process: subprocess.Popen[bytes], patience_s: float = 20.0) -> None:
    """Asks a server to end, then ends what is left of its session."""
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    for pid in session_processes(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


# ---- processes of a session, from /proc ---------------------------------------------------------------------


def stat_fields(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat from the third, the state, on (proc(5)); none if it is gone."""
    try:
        # The second field, the name in parentheses, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def session_processes(session: int) -> list[int]:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [pid for pid in pids if stat_fields(pid)[3:4] == [str(session)]]


def session_cpu_s(session: int) -> Iterator[float]:
    """Yields the CPU time of each process, with that of its children that have ended."""
    for pid in session_processes(session):
        yield sum(map(int, stat_fields(pid)[11:15])) / TICKS_PER_S
