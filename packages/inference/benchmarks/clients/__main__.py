"""Real clients, unpatched, against a real server: openai, vllm bench serve, guidellm and lm-eval.

    python -m benchmarks.clients FOLDER --ours 'COMMAND --weights=FOLDER/smollm2_tools --port {port}'     # in packages/inference

FOLDER is what `benchmarks.peers.install` and `benchmarks.clients.install` filled. COMMAND starts a server that answers
/health on the port once it is ready. Each client runs in its own environment, one after the other; the outcome of each
is in results/clients.json: version, command, whether all was served, and what it saw. Exits with 1 if something was not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.clients.commands import TASKS, Client, clients
from benchmarks.peers.contestants import Peer
from benchmarks.peers.report import machine
from benchmarks.peers.servers import NO_TELEMETRY, Server, running

RESULTS = Path(__file__).parents[1] / "results" / "clients.json"


def main() -> None:
    args = arguments()
    chosen = [client for client in clients() if client.environment in args.only]
    with tempfile.TemporaryDirectory() as log_folder:
        peer = Peer("trellax", tuple(shlex.split(args.ours)))
        with running(peer, log=args.log or Path(log_folder, "server.log")) as server:
            rows = []
            for client in chosen:
                rows.append(outcome(client, server, args))
                print(
                    rows[-1]["client"],
                    "passed" if rows[-1]["passed"] else rows[-1]["error"],
                    flush=True,
                )
    report = {"machine": machine(), "clients": rows}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(not all(row["passed"] for row in rows))


def outcome(client: Client, server: Server, args: argparse.Namespace) -> dict[str, Any]:
    """Returns what became of a client; paths are written as in this file's description."""
    folder = args.folder.resolve()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as output:
        values = {
            "home": str(folder / client.environment),
            "url": server.url,
            "model": model_of(server),
            "tokenizer": str(folder / "smollm2_float32"),
            "output": output,
        }
        command = [word.format(**values) for word in client.command]
        shown = {server.url: "URL", output: "OUTPUT", str(folder): "FOLDER", str(TASKS.parent): "."}
        row = {
            "client": client.name,
            "version": version(folder / client.environment, client.distribution),
            "command": without(" ".join(command), shown),
        }
        try:
            row |= {
                "passed": True,
                "saw": client.read(Path(output), run(command, output, args.limit_s)),
            }
        except (ValueError, OSError, subprocess.SubprocessError) as error:
            said = getattr(error, "stderr", None) or ""
            row |= {"passed": False, "error": without(f"{error}\n{said[-2000:]}", shown)}
    return row | {"seconds": round(time.monotonic() - start, 1)}


def run(command: list[str], output: str, limit_s: float) -> str:
    """Runs a client beside its tasks, without the network; returns what it prints."""
    offline = {"HF_DATASETS_OFFLINE": "1", "HF_HOME": output, **NO_TELEMETRY}
    done = subprocess.run(
        command,
        check=True,
        cwd=TASKS,
        env={**os.environ, **offline},
        capture_output=True,
        text=True,
        timeout=limit_s,
    )
    return done.stdout


def without(text: str, shown: dict[str, str]) -> str:
    """Returns a text without what is of this machine only."""
    for found, name in shown.items():
        text = text.replace(found, name)
    return text


def model_of(server: Server) -> str:
    with urllib.request.urlopen(f"{server.url}/v1/models", timeout=60) as answer:
        return json.load(answer)["data"][0]["id"]


def version(home: Path, distribution: str) -> str:
    (found,) = importlib.metadata.distributions(
        name=distribution, path=[str(path) for path in home.glob("lib/python*/site-packages")]
    )
    return found.version


def arguments() -> argparse.Namespace:
    environments = ("openai", "vllm", "guidellm", "lm_eval")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ours", required=True, metavar="COMMAND")
    parser.add_argument("--only", nargs="+", default=environments, choices=environments)
    parser.add_argument("--limit-s", type=float, default=600, help="of one client")
    parser.add_argument("--log", type=Path, help="of the server")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
