"""Workers in processes of their own, some of which are killed: clients get what one engine would have given them."""

import contextlib
import os
import subprocess
import sys

from tests.disaggregation.clusters import MODEL, run
from tests.disaggregation.fakes import fused
from tests.disaggregation.worker_process import OPTIONS
from trellax.inference.disaggregation import (
    DisaggregatedEngine,
    RemoteDecodeWorker,
    RemotePrefillWorker,
)
from trellax.inference.requests import Request, SamplingParams

ROLES = ("prefill", "prefill", "decode", "decode")


@contextlib.contextmanager
def worker_processes():
    """All start at once; yields processes and addresses."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.disaggregation.worker_process", role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for role in ROLES
    ]
    try:
        yield processes, [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_processes_that_are_killed_change_nothing_that_clients_see():
    requests = [
        Request(f"r{i}", tuple(range(i, i + 12)), SamplingParams(seed=i, max_tokens=40))
        for i in range(16)
    ]

    async def check(processes, addresses):
        engine = DisaggregatedEngine(
            MODEL,
            None,
            [RemotePrefillWorker(address, **OPTIONS) for address in addresses[:2]],
            [RemoteDecodeWorker(address, **OPTIONS) for address in addresses[2:]],
            check_fn=lambda request: None,
            page_size=4,
            rest_s=0.2,
        )
        delivered, killed = {request.id: [] for request in requests}, []
        async for piece in engine.generate(requests):
            delivered[piece.request_id].append(piece)
            num_pieces = sum(map(len, delivered.values()))
            for i, at in ((0, 20), (2, 200)):  # One of each role, in the midst of it.
                if num_pieces == at:
                    processes[i].kill()
                    killed.append(i)
        assert killed == [0, 2]
        assert engine.stats().num_retries > 0
        await engine.close()
        return delivered

    with worker_processes() as (processes, addresses):
        delivered = run(check(processes, addresses))
    assert delivered == {request.id: fused(request) for request in requests}
