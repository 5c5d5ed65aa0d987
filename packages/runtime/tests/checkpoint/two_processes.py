"""One of two processes of a run: `two_processes.py PORT INDEX FOLDER`; see `processes_test.py`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from trellax.runtime.checkpoint import Checkpointer, DamagedCheckpointWarning

HOST = np.arange(64, dtype=np.float32).reshape(16, 4)


def state(step: int) -> dict[str, Any]:
    mesh = jax.make_mesh((4,), ("fsdp",))
    halves, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("fsdp",), ()))
    return {
        "w": jax.make_array_from_callback(HOST.shape, halves, lambda at: HOST[at] + step),
        "b": jax.make_array_from_callback((3,), whole, lambda at: np.full(3, step)[at]),
    }


def main(port: str, index: int, folder: Path) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"localhost:{port}", 2, index)
    cfg = Checkpointer.default_config().set(save_every_steps=1, save_every_seconds=100.0)
    checkpointer = cfg.instantiate(directory=folder)
    for step in (1, 2):
        checkpointer.save(step, state(step))
    checkpointer.wait()
    if index == 0:
        (folder / "00000002" / "arrays" / "_METADATA").write_text("x")
    multihost_utils.sync_global_devices("damaged")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", DamagedCheckpointWarning)
        step, restored = checkpointer.restore(state(0))
    assert step == 1 and any("step 2" in str(w.message) for w in seen)
    for shard in restored["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, HOST[shard.index] + 1)
    assert checkpointer.save(2, state(2))
    checkpointer.close()
    assert checkpointer.steps() == [1, 2]
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
