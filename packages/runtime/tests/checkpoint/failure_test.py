"""A save that fails in the background says so at the next call, and harms nothing."""

from __future__ import annotations

import errno
import os
from typing import Any

import jax.numpy as jnp
import pytest

from trellax.runtime.checkpoint import CheckpointSaveError, checkpointer
from trellax.runtime.checkpoint.steps import StepFolder


def state(step: int) -> dict[str, Any]:
    return {"step": jnp.int32(step)}


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["commit", "checksums"])
@pytest.mark.parametrize("surfaces_at", ["save", "wait", "close", "restore"])
def test_a_failure_surfaces_at_the_next_call_naming_the_step(
    open_checkpointer: Any, monkeypatch: Any, where: str, surfaces_at: str
) -> None:
    saver = open_checkpointer()
    saver.save(1, state(1))
    saver.wait()
    owner, name = {
        "commit": (StepFolder, "commit"),
        "checksums": (checkpointer.checksums, "write_checksums"),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full_disk)
        saver.save(2, state(2))
        arguments = {"save": (3, state(3)), "restore": (state(0),)}.get(surfaces_at, ())
        with pytest.raises(CheckpointSaveError, match="Saving step 2 failed: .*No space left"):
            getattr(saver, surfaces_at)(*arguments)
    again = open_checkpointer() if surfaces_at == "close" else saver
    assert again.steps() == [1]
    assert again.save(2, state(2))
    again.wait()
    assert again.steps() == [1, 2]


def test_a_failure_surfaces_at_a_step_that_is_not_due(
    open_checkpointer: Any, monkeypatch: Any
) -> None:
    saver = open_checkpointer(save_every_steps=10)
    monkeypatch.setattr(StepFolder, "commit", full_disk)
    saver.save(10, state(10))
    saver._pending._thread.join()
    with pytest.raises(CheckpointSaveError, match="step 10"):
        saver.save(11, state(11))


def test_a_synchronous_save_raises_itself(open_checkpointer: Any, monkeypatch: Any) -> None:
    saver = open_checkpointer(asynchronous=False)
    saver.save(1, state(1))
    assert saver.steps() == [1]
    monkeypatch.setattr(StepFolder, "commit", full_disk)
    with pytest.raises(CheckpointSaveError, match="step 2"):
        saver.save(2, state(2))
