"""`run_router`: the process that clients of disaggregated engines talk to. It computes nothing.

exit_code = run_router(card, tokenizer, prefill=["chat-prefill:8470"], decode=["chat-decode:8470"], ...)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence

from trellax.inference.disaggregation.discovery import follow
from trellax.inference.disaggregation.engine import DisaggregatedEngine
from trellax.inference.disaggregation.remote import RemoteDecodeWorker, RemotePrefillWorker
from trellax.inference.requests import Request
from trellax.inference.server import ModelCard, ServerSettings, run_server
from trellax.inference.text import Tokenizer


def run_router(
    model: ModelCard,
    tokenizer: Tokenizer,
    *,
    prefill: Sequence[str],
    decode: Sequence[str],
    check_fn: Callable[[Request], None],
    page_size: int,
    fingerprint: str,
    secret: bytes | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: ServerSettings | None = None,
    on_start: Callable[[str, int], None] | None = None,
) -> int:
    """Serves clients with workers of other processes, until a signal ends it; returns the exit code of the process.

    Args:
        model: what is served.
        tokenizer: the model's.
        prefill: "host:port" of the control ports of prefill workers; a host may have several addresses, see `follow`.
        decode: the same of decode workers.
        check_fn: as of `DisaggregatedEngine`.
        page_size: tokens of a page of the workers' caches.
        fingerprint: of the model and its weights, as of `run_worker`.
        secret: that all workers and routers know; None where the network is trusted.
        host: address to listen at.
        port: 0 for any.
        settings: of the server.
        on_start: is called with address and port once they can be used.
    """
    engine = DisaggregatedEngine(model, tokenizer, [], [], check_fn=check_fn, page_size=page_size)
    make_prefill = functools.partial(RemotePrefillWorker, fingerprint=fingerprint, secret=secret)
    make_decode = functools.partial(RemoteDecodeWorker, fingerprint=fingerprint, secret=secret)
    following: list[asyncio.Task[None]] = []  # A task that nobody holds may vanish.

    def started(host: str, port: int) -> None:
        following.extend(
            (
                asyncio.create_task(
                    follow(prefill, make_fn=make_prefill, set_fn=engine.set_prefill_workers)
                ),
                asyncio.create_task(
                    follow(decode, make_fn=make_decode, set_fn=engine.set_decode_workers)
                ),
            )
        )
        if on_start is not None:
            on_start(host, port)

    return run_server(engine, host=host, port=port, settings=settings, on_start=started)
