"""The servers that are compared: how each is started, waited for, measured and stopped.

    peer = peers(folder, max_streams=32)["vllm_float32"]
    with running(peer, log=path) as server:
        server.url, server.cpu_s()

`{port}` in a command stands for the port it should listen on. A server's CPU time is that of all processes of its
session, which it is started in; so only Linux will do.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODEL = "smollm2-135m"
MAX_LENGTH = 2048
STARTS_WITHIN_S = 400
NO_TELEMETRY = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server to compare.

    Attributes:
        name: in results.
        command: that starts it.
        env: beside the present one.
        model: its name in requests.
        chat: whether requests go to /v1/chat/completions, for a server that cannot do without.
        ignore_eos: whether it knows the option of this name.
        extra_body: more to send with each request.
        environment: folder of its Python environment; None for ours.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    model: str = MODEL
    chat: bool = False
    ignore_eos: bool = True
    extra_body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Path | None = None


def peers(folder: Path, *, max_streams: int) -> dict[str, Peer]:
    """Returns the peers that `install.py` put into a folder, with the settings that were found to be fastest."""
    found = [
        vllm(folder, "float32", max_streams),
        vllm(folder, "bfloat16", max_streams),
        transformers(folder, max_streams),
        llamacpp(folder, max_streams),
    ]
    return {peer.name: peer for peer in found}


def vllm(folder: Path, dtype: str, max_streams: int) -> Peer:
    """Returns vLLM, compiled, on all cores: by default it leaves one to its front end, and is slower for it on two."""
    home = folder / "vllm"
    model = folder / f"smollm2_{dtype}"
    command = words(
        "{home}/bin/vllm serve {model} --served-model-name {name} --host 127.0.0.1 --port {port} --dtype {dtype} "
        "--max-model-len {length} --max-num-seqs {streams}",
        home=home,
        model=model,
        name=MODEL,
        dtype=dtype,
        length=MAX_LENGTH,
        streams=max_streams,
    )
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_cores() - 1}",
        "LD_PRELOAD": ":".join(preloaded(home)),
        # Its compiler looks for tools of its environment here.
        "PATH": f"{home}/bin:{os.environ['PATH']}",
    }
    return Peer(f"vllm_{dtype}", command, env, environment=home)


def preloaded(home: Path) -> Iterator[str]:
    """Yields the libraries that vLLM's documentation wants preloaded: OpenMP of its wheels, tcmalloc if there is one."""
    yield str(home / "lib" / "libiomp5.so")
    if tcmalloc := ctypes.util.find_library("tcmalloc_minimal"):
        yield tcmalloc


def transformers(folder: Path, max_streams: int) -> Peer:
    """Returns `transformers serve` with continuous batching.

    It refuses some fields that the benchmark sends to /v1/completions, and has another way of going on after the
    end token. The chat template makes prompts some 30 tokens longer.
    """
    home, model = folder / "transformers", folder / "smollm2_float32"
    page = 32
    command = words(
        "{home}/bin/transformers serve {model} --host 127.0.0.1 --port {port} --device cpu --continuous-batching "
        "--cb-block-size {page} --cb-num-blocks {pages} --cb-max-batch-tokens 512",
        home=home,
        model=model,
        page=page,
        pages=max_streams * 1024 // page,
    )
    return Peer(
        "transformers_float32",
        command,
        model=str(model),
        chat=True,
        ignore_eos=False,
        extra_body={"generation_config": json.dumps({"eos_token_id": None, "do_sample": False})},
        environment=home,
    )


def llamacpp(folder: Path, max_streams: int) -> Peer:
    """Returns llama.cpp, with the 4-bit weights as they are: a sixth of the bytes of float32."""
    home = folder / "llamacpp"
    (gguf,) = (folder / "weights").glob("*.gguf")
    command = words(
        "{home}/bin/python {script} {gguf} --name {name} --port {port} --slots {slots} --length {length} "
        "--threads {threads}",
        home=home,
        script=HERE / "llama_server.py",
        gguf=gguf,
        name=MODEL,
        slots=max_streams,
        length=MAX_LENGTH,
        threads=num_cores(),
    )
    return Peer("llamacpp_q4_1", command, environment=home)


def words(command: str, **values: object) -> tuple[str, ...]:
    """Splits a command, then fills in values, which may hold spaces; the port stays open."""
    return tuple(word.format(**values, port="{port}") for word in command.split())


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


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
