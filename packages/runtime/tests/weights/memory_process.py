"""Reads or writes a model and prints how much memory that took beyond the parameters: run by memory_test.py.

python memory_process.py FOLDER OUT
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
from pathlib import Path

import jax

from trellax.runtime.weights import open_pretrained, write_weights


def resident_bytes() -> int:
    """Returns the memory that this process has in RAM now, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class HighWater:
    """The most memory that was resident while the context ran."""

    def __enter__(self) -> HighWater:
        self.before = self.most = resident_bytes()
        self._running = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._running:
            self.most = max(self.most, resident_bytes())
            time.sleep(0.0005)

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes beyond what there were at first."""
        return self.most - self.before


def main(folder: str, out: str) -> None:
    pretrained = open_pretrained(folder)
    model = pretrained.model_config().instantiate(name="root")
    cfg = pretrained.model_config()
    for attempt in (
        "first",
        "second",
    ):  # The first compiles; then its memory is given back, so that it counts again.
        params = None
        ctypes.CDLL(None).malloc_trim(0)
        with HighWater() as reading:
            params = jax.block_until_ready(pretrained.read(model))
        ctypes.CDLL(None).malloc_trim(0)
        with HighWater() as writing:
            write_weights(Path(out) / attempt, params, model_config=cfg, max_length=128)
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    print(json.dumps({"params": size, "reading": reading.growth, "writing": writing.growth}))


if __name__ == "__main__":
    main(*sys.argv[1:])
