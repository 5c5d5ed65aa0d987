"""When a step is saved, which steps stay, and what earlier lives left behind."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellax.runtime.checkpoint import Checkpointer
from trellax.runtime.checkpoint.steps import StepFolder, steps_to_delete


def state(step: int) -> dict[str, Any]:
    return {"step": jnp.int32(step)}


def test_multiples_are_due_and_step_0_is_not(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer(save_every_steps=3)
    assert [s for s in range(10) if checkpointer.should_save(s)] == [3, 6, 9]


def test_a_step_is_due_when_the_last_save_is_old(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer(save_every_steps=None, save_every_seconds=0.2)
    assert not checkpointer.should_save(1)
    time.sleep(0.25)
    assert checkpointer.should_save(2) and checkpointer.save(2, state(2))
    assert not checkpointer.should_save(3)


def test_save_does_nothing_between_due_steps_unless_forced(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer(save_every_steps=10)
    assert not checkpointer.save(4, state(4))
    assert checkpointer.save(5, state(5), force=True)
    assert checkpointer.save(10, state(10))
    checkpointer.wait()
    assert checkpointer.steps() == [5, 10]


def test_the_newest_and_the_milestones_stay(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer(keep_last=2, keep_every=4)
    for step in range(1, 11):
        checkpointer.save(step, state(step))
    checkpointer.wait()
    assert checkpointer.steps() == [4, 8, 9, 10]
    assert checkpointer.restore(state(0), step=4)[1]["step"] == 4


@given(
    steps=st.sets(st.integers(1, 200)),
    keep_last=st.integers(1, 5),
    keep_every=st.none() | st.integers(1, 20),
)
def test_the_policy_never_gives_up_the_newest(
    steps: set[int], keep_last: int, keep_every: int | None
) -> None:
    gone = steps_to_delete(steps, keep_last=keep_last, keep_every=keep_every)
    newest = sorted(steps)[-keep_last:]
    assert not set(gone) & set(newest)
    assert all(s in newest or (keep_every and s % keep_every == 0) for s in steps - set(gone))


def test_a_step_is_saved_once_in_a_life(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    assert checkpointer.save(1, state(1))
    assert not checkpointer.save(1, state(-1), force=True)
    later = open_checkpointer()
    assert later.restore(state(0))[0] == 1
    assert not later.save(1, state(-1), force=True)


def test_a_step_of_an_earlier_life_is_replaced(open_checkpointer: Any) -> None:
    first = open_checkpointer()
    for step in (1, 2, 3):
        first.save(step, state(step))
    first.close()
    second = open_checkpointer()
    assert second.restore(state(0), step=1)[0] == 1
    assert second.save(2, state(22))
    assert second.restore(state(0)) == (2, {"step": 22}), "step 3 belongs to the life before"
    assert (second._steps.root / "00000003.superseded").is_dir()


def test_what_a_killed_run_left_is_ended_at_the_next_start(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(1, state(1))
    checkpointer.close()
    root = checkpointer._steps.root
    (root / ".saving-00000002" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    (root / ".deleting-00000000").mkdir()
    (root / "00000001").rename(root / ".replaced-00000001")
    again = open_checkpointer()
    assert again.restore(state(0)) == (1, {"step": 1})
    assert [p.name for p in root.iterdir()] == ["00000001"]


def test_every_instruction_of_a_commit_may_be_the_last(tmp_path: Any, monkeypatch: Any) -> None:
    """Replays a commit over an older step, cut before each rename or removal it does."""
    rename = Path.rename
    for survives in range(3):
        steps = StepFolder(tmp_path / str(survives))
        steps.path(5).mkdir(parents=True)
        (steps.path(5) / "old").touch()
        steps.stage(5)
        (steps.staging(5) / "new").touch()
        calls = iter(range(10))

        def cut(self: Path, to: Path, calls: Any = calls, survives: int = survives) -> Path:
            if next(calls) == survives:
                raise KeyboardInterrupt
            return rename(self, to)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "rename", cut)
            steps.commit(5)
        steps.clean()
        names = [p.name for p in steps.path(5).iterdir()]
        assert names == (["new"] if survives == 2 else ["old"])
        assert [p.name for p in steps.root.iterdir()] == ["00000005"]


@pytest.mark.parametrize("bad", [{"keep_last": 0}, {"keep_every": 0}, {"save_every_steps": -1}])
def test_a_policy_that_keeps_nothing_is_refused(bad: dict[str, int], tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Checkpointer.default_config().set(**bad).instantiate(directory=tmp_path)


def test_a_url_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="mounted file system"):
        Checkpointer.default_config().instantiate(directory="gs://bucket/run")
