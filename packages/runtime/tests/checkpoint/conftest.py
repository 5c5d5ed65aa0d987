"""Eight virtual devices, and a folder with a checkpointer that is closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from trellax.runtime.checkpoint import Checkpointer

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def open_checkpointer(tmp_path: Path) -> Iterator[Callable[..., Checkpointer]]:
    """Opens checkpointers on one folder, as later lives of one run would."""
    opened: list[Any] = []

    def open_(**fields: Any) -> Checkpointer:
        cfg = Checkpointer.default_config().set(**{"save_every_steps": 1, **fields})
        opened.append(cfg.instantiate(directory=tmp_path / "checkpoints"))
        return opened[-1]

    yield open_
    for checkpointer in opened:
        checkpointer.close()
