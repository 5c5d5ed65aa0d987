"""`trellax batch NAME --weights=PATH --input=FILE`: answers the requests of a JSONL file."""

from __future__ import annotations

import sys
from pathlib import Path

from trellax.experiments.cli.arguments import Arguments, UsageError
from trellax.experiments.cli.served import opened
from trellax.experiments.serving import start_engine
from trellax.inference.batch import BatchError, run_batch


def run(arguments: Arguments) -> int:
    """Answers what has no result yet; returns 1 if a request was refused or failed."""
    flags = arguments.flags
    if not flags.input or not Path(flags.input).is_file():
        raise UsageError(f"--input={flags.input}: `batch` needs a file of requests, one a line.")
    results = flags.output or f"{flags.input}.results.jsonl"
    served, cfg = opened(arguments)
    engine = start_engine(cfg, served)
    try:
        result = run_batch(
            engine, flags.input, results, concurrency=2 * cfg.max_sequences, on_answer=_tell
        )
    except BatchError as e:
        raise UsageError(str(e)) from e
    finally:
        engine.close()
    print(
        f"{result.num_answered} answered ({result.num_failed} with an error), {result.num_before} before: {results}"
    )
    return 1 if result.num_failed else 0


def _tell(num_answered: int) -> None:
    if num_answered % 100 == 0:
        print(f"{num_answered} answered", file=sys.stderr, flush=True)
