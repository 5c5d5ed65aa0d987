"""Times what the host does for a step: planning it, making the plan real, and taking in its results.

    python -m benchmarks.scheduling        # in packages/inference

Writes results/scheduling.json: microseconds of CPU time a step, for sequences that all decode (and now and then take a page),
and for prompts that come and go meanwhile. It is one thread, so this hardly depends on what else the machine does.
"""

from __future__ import annotations

import json
import os
import pathlib
import platform
import statistics
import time

import numpy as np

from trellax.inference.requests import Request, SamplingParams
from trellax.inference.scheduling import Limits, SchedulerState, plan_step

SEQUENCES = (8, 64, 256)
NUM_STEPS = 400
PROMPT_LENGTH, PAGE_SIZE, MAX_LENGTH = 512, 16, 2048
PARTS = ("plan", "apply", "record")
RESULTS = pathlib.Path(__file__).parent / "results"


def measured(num_sequences: int, *, max_tokens: int) -> dict[str, list[float]]:
    """Returns microseconds of each part of each step, once all slots are taken.

    Args:
        num_sequences: that run at once, with twice as many to come after them.
        max_tokens: of each; enough that slots fill up faster than they empty.
    """
    limits = Limits(
        num_pages=1 + num_sequences * MAX_LENGTH // PAGE_SIZE,
        page_size=PAGE_SIZE,
        max_sequences=num_sequences,
        max_length=MAX_LENGTH,
        max_tokens_per_step=num_sequences + PROMPT_LENGTH,
        prefill_chunk=PROMPT_LENGTH,
        max_prefill_rows=8,
    )
    state, rng, added = SchedulerState(limits), np.random.default_rng(0), 0
    samples: dict[str, list[float]] = {part: [] for part in PARTS}
    plans = [plan_step(state)]
    state.apply(plans[0])
    while len(samples["plan"]) < NUM_STEPS:
        while len(state.waiting) < 8:
            prompt = tuple(rng.integers(1, 32_000, PROMPT_LENGTH).tolist())
            state.add(Request(str(added), prompt, SamplingParams(max_tokens=max_tokens)))
            added += 1
        is_full = len(state.running) == num_sequences
        clock = [time.process_time_ns()]
        plans.append(plan_step(state))
        clock.append(time.process_time_ns())
        state.apply(plans[-1])
        clock.append(time.process_time_ns())
        # The step before: the host is one ahead.
        for row in plans.pop(0).rows:
            if row.draws:
                sequence = state.record(row, (7,))
                if sequence is not None and sequence.has_all_tokens:
                    state.finish(sequence.id, "length")
        clock.append(time.process_time_ns())
        if is_full or samples["plan"]:
            for part, start, end in zip(PARTS, clock, clock[1:]):
                samples[part].append((end - start) / 1e3)
    return samples


def main() -> None:
    report = {}
    for num_sequences in SEQUENCES:
        for name, max_tokens in (("all decode", NUM_STEPS * 3), ("prompts come and go", 512)):
            samples = measured(num_sequences, max_tokens=max_tokens)
            medians = {part: round(statistics.median(samples[part]), 1) for part in PARTS}
            p90 = {part: round(float(np.quantile(samples[part], 0.9)), 1) for part in PARTS}
            title = f"{num_sequences} sequences, {name}"
            report[title] = {"median_us": medians, "p90_us": p90}
            print(f"{title:36s} median µs {medians}, p90 {p90}")
    about = {
        "what": f"CPU µs a step of the scheduler, {NUM_STEPS} steps, prompts of {PROMPT_LENGTH}, pages of {PAGE_SIZE}",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_cpus": os.cpu_count(),
        "load_average": os.getloadavg(),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"about": about, "report": report}, indent=1) + "\n"
    (RESULTS / "scheduling.json").write_text(text)


if __name__ == "__main__":
    main()
