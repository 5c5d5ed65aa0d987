"""One measurement: `vllm bench serve` against a server, and what each request of it saw.

    run = measure(server, peer, load=Load(conversations, concurrency=8), tools=Tools(folder, log))

Definitions are the tool's: TTFT from sending to the first chunk with a choice; TPOT (latency − TTFT) / (tokens − 1).
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.contestants import Peer
from benchmarks.peers.servers import NO_TELEMETRY, TICKS_PER_S, Server


@dataclasses.dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        conversations: in ShareGPT's form, one a request, in order.
        concurrency: requests at a time; the next is sent when one ends.
    """

    conversations: Sequence[dict[str, Any]]
    concurrency: int


@dataclasses.dataclass(frozen=True)
class Tools:
    """What measures.

    Attributes:
        vllm: the program.
        tokenizer: folder of the model's.
        log: file that the program's output is added to.
        limit_s: seconds that a measurement may take.
    """

    vllm: Path
    tokenizer: Path
    log: Path
    limit_s: float


def measure(server: Server, peer: Peer, load: Load, tools: Tools) -> dict[str, Any]:
    """Returns what the requests saw, and who used the machine meanwhile.

    CPU times are of the client's whole life, some seconds longer than the measurement. Much `others_cpu_s` means that
    something else disturbed it.
    """
    before = cpu_times(server)
    result = bench(server, peer, load, tools)
    server_s, client_s, machine_s = (b - a for a, b in zip(before, cpu_times(server)))
    return {
        "peer": peer.name,
        "concurrency": load.concurrency,
        **result,
        "server_cpu_s": round(server_s, 2),
        "client_cpu_s": round(client_s, 2),
        "others_cpu_s": round(machine_s - server_s - client_s, 2),
    }


def bench(server: Server, peer: Peer, load: Load, tools: Tools) -> dict[str, Any]:
    """Runs the tool, and returns its raw samples; none where it took too long."""
    with tempfile.TemporaryDirectory() as folder, open(tools.log, "a") as log:
        dataset, result = Path(folder, "conversations.json"), Path(folder, "result.json")
        dataset.write_text(json.dumps(load.conversations))
        command = bench_command(server, peer, load, tools, dataset, result)
        print(*command, file=log, flush=True)
        try:
            subprocess.run(
                command,
                check=True,
                stdout=log,
                stderr=log,
                timeout=tools.limit_s,
                env={**os.environ, **NO_TELEMETRY},
            )
        except subprocess.TimeoutExpired:
            return {"timed_out_s": tools.limit_s, "failed": len(load.conversations), "requests": []}
        return samples(json.loads(result.read_text()))


def bench_command(
    server: Server, peer: Peer, load: Load, tools: Tools, dataset: Path, result: Path
) -> list[str]:
    """Returns the tool's command: greedy, to the full length, requests in their order, all detail kept."""
    backend, path = ("openai-chat", "chat/completions") if peer.chat else ("openai", "completions")
    command = [f"{tools.vllm} bench serve --backend {backend} --endpoint /v1/{path}"]
    command += [
        f"--base-url {server.url} --dataset-name sharegpt --disable-shuffle --temperature 0"
    ]
    command += [f"--num-prompts {len(load.conversations)} --max-concurrency {load.concurrency}"]
    command += ["--save-result --save-detailed --disable-tqdm --ignore-eos"]
    options = " ".join(command).split()
    if not peer.ignore_eos:
        options.remove("--ignore-eos")
    if peer.extra_body:
        options += ["--extra-body", json.dumps(peer.extra_body)]
    options += [
        "--model",
        peer.model,
        "--tokenizer",
        str(tools.tokenizer),
        "--dataset-path",
        str(dataset),
    ]
    return [*options, "--result-dir", str(result.parent), "--result-filename", result.name]


def samples(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the requests of a result, times in seconds."""
    rows = zip(
        result["input_lens"],
        result["output_lens"],
        result["ttfts"],
        result["itls"],
        result["errors"],
    )
    requests = [
        {
            "input_tokens": num_input,
            "output_tokens": num_output,
            "ttft_s": round(ttft, 5),
            "tpot_s": round(sum(gaps) / (num_output - 1), 6),
            "longest_gap_s": round(max(gaps, default=0.0), 5),
        }
        for num_input, num_output, ttft, gaps, error in rows
        if not error and num_output > 1
    ]
    return {
        "duration_s": round(result["duration"], 3),
        "failed": len(result["errors"]) - len(requests),
        "output_tokens_per_s": round(result["output_throughput"], 2),
        "requests": requests,
    }


def cpu_times(server: Server) -> tuple[float, float, float]:
    """Returns the CPU time so far of the server, of clients that ended, and of the whole machine."""
    client = resource.getrusage(resource.RUSAGE_CHILDREN)
    return server.cpu_s(), client.ru_utime + client.ru_stime, machine_cpu_s()


def machine_cpu_s() -> float:
    """Returns the time that all cores have been busy since the machine started (proc(5), /proc/stat)."""
    user, nice, system, _, _, irq, soft_irq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft_irq) / TICKS_PER_S
