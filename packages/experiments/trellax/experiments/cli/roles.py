"""`trellax serve --role=prefill`, `decode` and `router`: the processes of disaggregated serving.

Prefill workers compute prompts and hand their pages to decode workers, which generate; both come to know of requests
through routers, which speak HTTP. `trellax.inference.disaggregation` has the parts, and the manifests that start these.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path
from typing import Any

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.checkpoints import run_folder
from trellax.experiments.cli.secrets import api_keys, transport_secret
from trellax.experiments.cli.served import opened
from trellax.experiments.fingerprint import weights_fingerprint
from trellax.experiments.serving import Served, engine_of, model_card, start_core
from trellax.inference.disaggregation import StateLayout, WorkerSettings, run_router, run_worker
from trellax.inference.server import ServerSettings


def run_role(arguments: Arguments) -> int:
    """Runs the role that was asked for until a signal comes; returns the exit code."""
    return _route(arguments) if arguments.flags.role == "router" else _work(arguments)


def _work(arguments: Arguments) -> int:
    flags = arguments.flags
    secret = transport_secret(arguments)
    served, cfg = opened(arguments)
    started = time.monotonic()
    _tell(f"Loading {served.name}, and compiling its steps …")
    core = start_core(cfg, served, prefill_only=flags.role == "prefill")
    layout = StateLayout.of(core)
    settings = WorkerSettings(
        host=flags.host,
        http_port=flags.port,
        control_port=flags.control_port,
        page_port=flags.page_port,
        max_running=cfg.max_sequences,
        room_bytes=int(flags.page_room * 2**30),
        secret=secret,
        drain_grace_s=flags.drain_grace,
    )
    _check_room(settings, layout)
    engine = engine_of(core, cfg, served)
    try:
        return run_worker(
            flags.role,
            engine,
            layout,
            settings,
            fingerprint=_fingerprint(arguments, cfg),
            on_start=lambda control, probes: _tell(
                f"Ready after {time.monotonic() - started:.0f} s: {served.name}, a {flags.role} worker for routers "
                f"at {control} (and for probes at http://{probes}/ready)."
            ),
        )
    finally:
        engine.close()


def _check_room(settings: WorkerSettings, layout: StateLayout) -> None:
    try:
        settings.check_room(layout)
    except ValueError as e:
        raise UsageError(f"--page_room: {e}") from e


def _route(arguments: Arguments) -> int:
    flags = arguments.flags
    settings = ServerSettings(api_keys=api_keys(arguments), drain_grace_s=flags.drain_grace)
    secret = transport_secret(arguments)
    served, cfg = opened(arguments)
    return run_router(
        model_card(cfg, served),
        served.tokenizer,
        prefill=flags.prefill_workers,
        decode=flags.decode_workers,
        check_fn=cfg.limits(shares_prefixes=cfg.share_prefixes).check,
        page_size=cfg.page_size,
        fingerprint=_fingerprint(arguments, cfg),
        secret=secret,
        host=flags.host,
        port=flags.port,
        settings=settings,
        on_start=functools.partial(_tell_route, served),
    )


def _tell_route(served: Served, host: str, port: int) -> None:
    _tell(f"Ready: {served.name} at http://{host}:{port} (chat there in a browser, or use /v1).")


def _fingerprint(arguments: Arguments, cfg: Any) -> str:
    flags = arguments.flags
    path = Path(flags.weights) if flags.weights else run_folder(arguments).checkpoint(flags.step)
    return f"{weights_fingerprint(path)} max_length={cfg.max_length}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
