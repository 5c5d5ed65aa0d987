"""Damage of any kind is seen, named, and walked past; never taken for a state, nor for none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from trellax.runtime.checkpoint import (
    CheckpointDamagedError,
    DamagedCheckpointWarning,
    load_checkpoint,
)


def state(step: int) -> dict[str, Any]:
    return {"w": jnp.full((64, 64), step, jnp.float32), "step": jnp.int32(step)}


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_byte(folder: Path) -> str:
    file = largest_file(folder / "arrays")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file.name


def truncate(folder: Path) -> str:
    file = largest_file(folder / "arrays")
    file.write_bytes(file.read_bytes()[:-1])
    return file.name


def remove(folder: Path) -> str:
    file = largest_file(folder / "arrays")
    file.unlink()
    return file.name


def remove_named(name: str) -> Callable[[Path], str]:
    def remove_it(folder: Path) -> str:
        (folder / name).unlink()
        return name

    return remove_it


def rewrite_manifest(folder: Path) -> str:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("float32", "float64"))
    return path.name


def garble_checksums(folder: Path) -> str:
    path = folder / "checksums.json"
    path.write_text(path.read_text()[:-20])
    return path.name


DAMAGES = {
    "flipped byte": flip_a_byte,
    "truncated file": truncate,
    "removed file": remove,
    "removed manifest": remove_named("manifest.json"),
    "changed manifest": rewrite_manifest,
    "removed checksums": remove_named("checksums.json"),
    "torn checksums": garble_checksums,
}


@pytest.fixture
def saved(open_checkpointer: Any) -> Callable[..., Path]:
    """Saves steps 1 to 3 and returns the folder."""

    def save(**fields: Any) -> Path:
        checkpointer = open_checkpointer(**fields)
        for step in (1, 2, 3):
            checkpointer.save(step, state(step))
        checkpointer.close()
        return checkpointer._steps.root

    return save


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_step_is_walked_past(
    saved: Any, open_checkpointer: Any, damage: Callable[[Path], str]
) -> None:
    folder = saved()
    name = damage(folder / "00000003")
    checkpointer = open_checkpointer()
    with pytest.warns(DamagedCheckpointWarning, match=rf"step 3 .*{re.escape(name)}"):
        step, restored = checkpointer.restore(state(0))
    assert step == 2
    np.testing.assert_array_equal(restored["w"], state(2)["w"])
    assert (folder / "00000003.damaged").is_dir() and checkpointer.steps() == [1, 2]
    assert checkpointer.save(3, state(3))
    assert checkpointer.restore(state(0))[0] == 3


def test_a_step_that_this_life_saved_and_lost_is_saved_again(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    for step in (1, 2):
        checkpointer.save(step, state(step))
    checkpointer.wait()
    truncate(checkpointer._steps.path(2))
    with pytest.warns(DamagedCheckpointWarning):
        assert checkpointer.restore(state(0))[0] == 1
    assert checkpointer.save(2, state(2))
    assert checkpointer.restore(state(0))[0] == 2


def test_several_damaged_steps_are_walked_past(saved: Any, open_checkpointer: Any) -> None:
    folder = saved()
    truncate(folder / "00000003")
    flip_a_byte(folder / "00000002")
    with pytest.warns(DamagedCheckpointWarning) as seen:
        assert open_checkpointer().restore(state(0))[0] == 1
    assert len(seen) == 2


def test_when_all_are_damaged_nothing_is_restarted_or_renamed(
    saved: Any, open_checkpointer: Any
) -> None:
    folder = saved()
    names = [truncate(folder / f"{step:08d}") for step in (1, 2, 3)]
    for _ in range(2):  # The second start says the same: no step was renamed away.
        with (
            pytest.warns(DamagedCheckpointWarning),
            pytest.raises(CheckpointDamagedError, match="Every checkpoint") as error,
        ):
            open_checkpointer().restore(state(0))
        assert all(name in str(error.value) for name in names)


def test_an_explicit_damaged_step_is_an_error_and_stays(saved: Any, open_checkpointer: Any) -> None:
    folder = saved()
    name = flip_a_byte(folder / "00000003")
    with pytest.raises(CheckpointDamagedError, match=rf"Step 3 .*{name}"):
        open_checkpointer().restore(state(0), step=3)
    assert (folder / "00000003").is_dir()


def test_sizes_alone_see_a_cut_but_not_a_flip(saved: Any, open_checkpointer: Any) -> None:
    folder = saved(verify="size")
    truncate(folder / "00000003")
    with pytest.warns(DamagedCheckpointWarning):
        assert open_checkpointer(verify="size").restore(state(0))[0] == 2


def test_a_reader_walks_past_damage_and_changes_nothing(saved: Any) -> None:
    folder = saved()
    flip_a_byte(folder / "00000003")
    before = sorted(folder.rglob("*"))
    with pytest.warns(DamagedCheckpointWarning):
        w = load_checkpoint(folder, prefix="w")
    assert w[0, 0] == 2 and sorted(folder.rglob("*")) == before


def test_a_step_damaged_twice_keeps_both_for_a_look(saved: Any, open_checkpointer: Any) -> None:
    folder = saved()
    for _ in range(2):
        truncate(folder / "00000003")
        checkpointer = open_checkpointer()
        with pytest.warns(DamagedCheckpointWarning):
            checkpointer.restore(state(0))
        checkpointer.save(3, state(3))
        checkpointer.close()
    kept = sorted(p.name for p in folder.glob("*.damaged*"))
    assert kept == ["00000003.damaged", "00000003.damaged-2"]
