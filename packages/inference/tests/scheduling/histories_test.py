"""Whatever happens, nothing is used twice, lost or starved: 12,000 drawn histories on a device that checks what it reads."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scheduling.histories import KINDS, run_history

HISTORIES_OF_A_KIND = 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_history_ends_well(kind: str) -> None:
    """In each: tight limits, shared prefixes, priorities, faults, clients that leave, late results, and then the checks.

    Kinds: "plain" recomputes what was pre-empted, "swap" keeps it on the host, "draft" checks proposed tokens, "aligned" cuts
    prompts the same way whatever else runs, "prefill" hands sequences over, "received" gets them.
    """

    @settings(
        max_examples=HISTORIES_OF_A_KIND,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=120, max_size=240))
    def run(data: bytes) -> None:
        run_history(data, kind=kind)

    run()


def test_histories_do_what_they_are_for() -> None:
    """Tests that nothing happens in would pass as well."""
    rng = random.Random(0)
    totals = dict.fromkeys(("preemptions", "swaps", "hits", "evictions", "requests"), 0)
    reasons = set()
    for index in range(100 * len(KINDS)):
        simulation = run_history(rng.randbytes(200), kind=KINDS[index % len(KINDS)])
        state = simulation.state
        totals["preemptions"] += state.num_preemptions
        totals["swaps"] += simulation.num_swaps
        totals["hits"] += state.num_prefix_hits
        totals["evictions"] += state.pages.num_evictions
        totals["requests"] += len(simulation.endings)
        reasons |= {reason for ending in simulation.endings.values() for reason in ending.reasons}
    assert min(totals.values()) >= 20, totals
    assert reasons == {"stop", "length", "abort", "error", "handed over"}
