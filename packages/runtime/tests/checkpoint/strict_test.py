"""A restore takes exactly what was saved, and says everything that differs before it reads."""

from __future__ import annotations

import shutil
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from trellax.runtime.checkpoint import CheckpointMismatchError, CheckpointNotFoundError


def saved_state() -> dict[str, Any]:
    return {
        "params": {"decoder": {"layers": [{"w": jnp.ones((2, 3))}, {"w": jnp.ones((2, 3))}]}},
        "step": jnp.int32(4),
    }


def test_all_differences_are_listed_at_once(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(4, saved_state())
    target = {
        "params": {"decoder": {"layers": [{"w": jnp.ones((2, 4))}], "norm": jnp.ones(3)}},
        "step": jnp.float32(0),
    }
    with pytest.raises(CheckpointMismatchError) as error:
        checkpointer.restore(target)
    lines = str(error.value).splitlines()
    assert "Step 4" in lines[0] and "4 differences" in lines[0]
    assert [line.strip() for line in lines[1:5]] == [
        "missing in the checkpoint: params.decoder.norm float32[3]",
        "not asked for: params.decoder.layers[1].w float32[2, 3]",
        "shape: params.decoder.layers[0].w is float32[2, 3], asked for float32[2, 4]",
        "dtype: step is int32[], asked for float32[]",
    ]


def test_differences_are_found_before_any_array_is_read(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(4, saved_state())
    checkpointer.wait()
    shutil.rmtree(checkpointer._steps.arrays(4))
    with pytest.raises(CheckpointMismatchError):
        checkpointer.restore({"step": jnp.int32(0)})


def test_a_narrower_type_is_not_cast(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(1, {"w": jnp.ones(3, jnp.float32)})
    with pytest.raises(CheckpointMismatchError, match=r"dtype: w is float32\[3\].*bfloat16\[3\]"):
        checkpointer.restore({"w": jax.ShapeDtypeStruct((3,), jnp.bfloat16)})


def test_where_nothing_was_saved_restore_returns_none(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    assert checkpointer.restore(saved_state()) is None
    assert checkpointer.latest_step() is None


def test_a_step_that_is_not_there_names_those_that_are(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(2, saved_state())
    with pytest.raises(CheckpointNotFoundError, match=r"No step 3 .*\[2\]"):
        checkpointer.restore(saved_state(), step=3)


def test_what_is_no_array_is_refused_by_path(open_checkpointer: Any) -> None:
    state = {"a": 1.5, "b": jnp.ones(2), "key": jax.random.key(0), "name": "x"}
    with pytest.raises(TypeError) as error:
        open_checkpointer().save(1, state)
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "a",
        "key",
        "name",
    ]


def test_extra_values_come_back_and_must_be_json(open_checkpointer: Any) -> None:
    checkpointer = open_checkpointer()
    checkpointer.save(1, saved_state(), extra={"tokens": 12, "mix": {"a": [0.5]}})
    checkpointer.wait()
    assert checkpointer.extra(1) == {"tokens": 12, "mix": {"a": [0.5]}}
    with pytest.raises(TypeError, match="JSON"):
        checkpointer.save(2, saved_state(), extra={"set": {1}})
    assert checkpointer.save(2, saved_state())
