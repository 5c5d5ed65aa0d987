"""A checkpoint is read without the trainer that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from trellax.runtime.checkpoint import (
    CheckpointMismatchError,
    CheckpointNotFoundError,
    load_checkpoint,
    read_manifest,
)


@pytest.fixture
def folder(open_checkpointer: Any) -> Path:
    checkpointer = open_checkpointer()
    for step in (1, 2):
        params = {"decoder": {"w": jnp.full((8, 4), step, jnp.bfloat16)}, "norm": jnp.ones(3)}
        slots = {"params": {"w": jnp.zeros(2)}}
        checkpointer.save(step, {"params": params, "learner_state": slots}, extra={"n": step})
    checkpointer.close()
    return checkpointer._steps.root


def test_the_newest_parameters_come_as_nested_numpy_arrays(folder: Path) -> None:
    params = load_checkpoint(folder)
    assert set(params) == {"decoder", "norm"}
    assert type(params["decoder"]["w"]) is np.ndarray
    assert params["decoder"]["w"].dtype == jnp.bfloat16 and params["decoder"]["w"][0, 0] == 2


def test_a_step_and_a_deeper_subtree_can_be_chosen(folder: Path) -> None:
    assert load_checkpoint(folder, step=1, prefix="params.decoder")["w"][0, 0] == 1
    assert load_checkpoint(folder, prefix="params.norm").shape == (3,)
    assert set(load_checkpoint(folder, prefix="")) == {"params", "learner_state"}


def test_a_target_brings_parameters_to_their_devices(folder: Path) -> None:
    sharding = NamedSharding(jax.make_mesh((8,), ("fsdp",)), PartitionSpec("fsdp"))
    w = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16, sharding=sharding)
    target = {"decoder": {"w": w}, "norm": jax.ShapeDtypeStruct((3,), jnp.float32)}
    params = load_checkpoint(folder, target=target)
    assert params["decoder"]["w"].sharding == sharding
    with pytest.raises(CheckpointMismatchError, match=r"below 'params'.*\n.*decoder.w"):
        load_checkpoint(folder, target={"norm": target["norm"]})


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"'parms'.*learner_state, params"):
        load_checkpoint(folder, prefix="parms")
    with pytest.raises(CheckpointNotFoundError, match="No checkpoint"):
        load_checkpoint(tmp_path / "elsewhere")
    with pytest.raises(CheckpointNotFoundError, match=r"\[1, 2\]"):
        load_checkpoint(folder, step=7)


def test_the_manifest_tells_what_a_step_holds(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.step == 2 and manifest.extra == {"n": 2}
    assert str(manifest.arrays["params.decoder.w"]) == "bfloat16[8, 4]"
