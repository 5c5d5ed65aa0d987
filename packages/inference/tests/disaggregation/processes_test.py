"""Workers in processes of their own, some of which are killed: clients get what one engine would have given them."""

import os
import signal
import subprocess
import sys

import pytest

from tests.disaggregation.clusters import MODEL, run
from tests.disaggregation.fakes import fused
from tests.disaggregation.handovers import make_handover
from tests.disaggregation.worker_process import OPTIONS
from trellax.inference.disaggregation import (
    ConnectionLostError,
    DisaggregatedEngine,
    PageSender,
    RemoteDecodeWorker,
    RemotePrefillWorker,
)
from trellax.inference.requests import Request, SamplingParams

ROLES = ("prefill", "prefill", "decode", "decode", "accept-one")
MIB = 1 << 20


@pytest.fixture(scope="module")
def processes():
    """(process id, address) of each."""
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.disaggregation.worker_process", *ROLES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = sorted(parent.stdout.readline().split() for _ in ROLES)
    yield [(int(process_id), address) for _, process_id, address in lines]
    parent.communicate()  # Closes their standard input.


def test_a_decode_process_that_is_killed_fails_what_it_had_not_accepted(processes):
    process_id, address = processes[4]
    sender = PageSender(address, **OPTIONS)
    futures = [sender.send(make_handover(f"{i}", num_bytes=64 * MIB)) for i in range(3)]
    assert futures[0].result(20) is None
    os.kill(process_id, signal.SIGKILL)
    for future in futures[1:]:
        with pytest.raises(ConnectionLostError):
            future.result(20)
    sender.close()


def test_processes_that_are_killed_change_nothing_that_clients_see(processes):
    requests = [
        Request(f"r{i}", tuple(range(i, i + 12)), SamplingParams(seed=i, max_tokens=40))
        for i in range(16)
    ]

    async def check():
        addresses = [address for _, address in processes]
        engine = DisaggregatedEngine(
            MODEL,
            None,
            [RemotePrefillWorker(address, **OPTIONS) for address in addresses[:2]],
            [RemoteDecodeWorker(address, **OPTIONS) for address in addresses[2:4]],
            check_fn=lambda request: None,
            page_size=4,
            rest_s=0.2,
        )
        delivered, kills = {request.id: [] for request in requests}, {20: 0, 200: 2}
        async for piece in engine.generate(requests):
            delivered[piece.request_id].append(piece)
            number = kills.pop(sum(map(len, delivered.values())), None)
            if number is not None:  # One of each role, in the midst of it.
                os.kill(processes[number][0], signal.SIGKILL)
        assert not kills
        assert engine.stats().num_retries > 0
        await engine.close()
        return delivered

    assert run(check()) == {request.id: fused(request) for request in requests}
