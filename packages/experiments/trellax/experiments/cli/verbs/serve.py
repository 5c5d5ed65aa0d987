"""`trellax serve NAME --weights=PATH`, or `--dir=RUN`: an OpenAI-compatible server, or with `--role` a part of one."""

from __future__ import annotations

import sys
import time

from trellax.experiments.cli.arguments import Arguments
from trellax.experiments.cli.roles import run_role
from trellax.experiments.cli.secrets import api_keys
from trellax.experiments.cli.served import opened
from trellax.experiments.serving import start_engine
from trellax.inference.server import ServerSettings, run_server


def run(arguments: Arguments) -> int:
    """Serves until a signal comes; running requests may finish."""
    return _serve(arguments) if arguments.flags.role == "fused" else run_role(arguments)


def _serve(arguments: Arguments) -> int:
    flags = arguments.flags
    settings = ServerSettings(api_keys=api_keys(arguments), drain_grace_s=flags.drain_grace)
    served, cfg = opened(arguments)
    started = time.monotonic()
    print(f"Loading {served.name}, and compiling its steps …", file=sys.stderr, flush=True)
    engine = start_engine(cfg, served)

    def tell(host: str, port: int) -> None:
        took = time.monotonic() - started
        print(
            f"Ready after {took:.0f} s: {served.name} at http://{host}:{port} (chat there in a browser, or use /v1).",
            file=sys.stderr,
            flush=True,
        )

    try:
        return run_server(
            engine, host=flags.host, port=flags.port, settings=settings, on_start=tell
        )
    finally:
        engine.close()
