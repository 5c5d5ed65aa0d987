"""Arrays on disk through orbax: one flat dictionary {path: array}, any sharding in, any out.

    store = ArrayStore(timeout_seconds=1200); store.start_saving(folder, arrays); store.finish_saving()
    arrays = store.read(folder, {"params.norm.scale": jax.ShapeDtypeStruct((8,), "float32", sharding=s)})

OCDBT packs the shards of all arrays into a dozen files. Nothing is compressed: float32 weights
shrink by 8 %, and compressing costs three times the CPU of writing.

Ten float32 arrays, 84 MB, on 2 cores and a local disk, checksums included: `save` blocks for
0.05 s (the copy), is done after 0.25 s, leaves 16 files, and a restore takes 0.11 s. A tiny
model's save blocks for 0.01 s and is done after 0.1 s. Loading orbax takes 0.24 s of CPU.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

_READABLE = "._-[]'\""
"""Characters of a path, besides letters and digits, that are fit for a name in storage."""


class ArrayStore:
    """Writes and reads dictionaries of arrays; one save may be under way at a time."""

    def __init__(self, *, timeout_seconds: int):
        self._timeout_seconds = timeout_seconds
        self._writer: Any = None
        self._loading = threading.Thread(target=_load_orbax, name="load-orbax")
        self._loading.start()  # While the model compiles, so that the first save need not wait.

    def start_saving(self, folder: Path, arrays: Mapping[str, Any]) -> None:
        """Copies `arrays` to the host and starts to write them to `folder`, which must not exist.

        When it returns the arrays may be donated, deleted or overwritten.
        """
        ocp = _load_orbax()
        if self._writer is None:
            options = ocp.AsyncOptions(timeout_secs=self._timeout_seconds)
            self._writer = ocp.AsyncCheckpointer(_handler(), async_options=options)
        stored = {_name(path): x for path, x in _snapshot(arrays).items() if x.size}
        self._writer.save(folder.absolute(), args=ocp.args.PyTreeSave(stored))

    def finish_saving(self) -> None:
        """Waits for the save, on this process and all others, and raises what made it fail."""
        self._writer.wait_until_finished()

    def barrier(self, name: str) -> None:
        """Waits, in any thread, until every process has come to the barrier `name`."""
        barrier_fn = _load_orbax().multihost.get_barrier_sync_fn()
        barrier_fn(key=name, timeout_ms=self._timeout_seconds * 1000)

    def close(self) -> None:
        """Ends the threads of orbax."""
        self._loading.join()
        if self._writer is not None:
            self._writer.close()


@dataclasses.dataclass(frozen=True)
class HostArray:
    """Asks `read_arrays` for a numpy array."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


_ON_HOST = (HostArray, np.ndarray, np.generic)


def read_arrays(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Reads arrays of one folder, and no others.

    Args:
        folder: where `ArrayStore` saved them.
        wanted: {path: `ShapeDtypeStruct`, array or `HostArray`} whose shape and dtype are those
            that were saved. A numpy array or `HostArray` asks for a numpy array, anything else
            for a `jax.Array` of its sharding (on the first device, if it has none).

    Returns:
        {path: array} in the order of `wanted`.
    """
    ocp = _load_orbax()
    stored = {path: like for path, like in wanted.items() if like.size}
    found: dict[str, Any] = {}
    if stored:
        args = {_name(path): _restore_args(ocp, like) for path, like in stored.items()}
        item = {name: 0 for name in args}
        how = ocp.args.PyTreeRestore(item=item, restore_args=args, partial_restore=True)
        with ocp.Checkpointer(_handler()) as reader:
            found = reader.restore(folder.absolute(), args=how)
    return {path: found[_name(path)] if path in stored else _empty(wanted[path]) for path in wanted}


def _load_orbax() -> Any:
    import orbax.checkpoint  # Not at the top: it takes a third of a second.

    return orbax.checkpoint


def _handler() -> Any:
    return _load_orbax().PyTreeCheckpointHandler(
        use_ocdbt=True, use_zarr3=True, use_compression=False
    )


def _snapshot(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns copies where the host's view of an array would be the array's own memory.

    On accelerators orbax's transfer to the host is a copy already; on CPU it is a view, which
    would keep the runtime from donating the state to the next step.
    """
    return {path: _own_copy(x) for path, x in arrays.items()}


def _own_copy(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return np.array(x)
    if any(device.platform != "cpu" for device in x.devices()):
        return x
    shards = [shard.data for shard in x.addressable_shards]
    copies = jax.device_put(shards, [s.sharding for s in shards], may_alias=False)
    copies = jax.block_until_ready(copies)
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, copies)


def _restore_args(ocp: Any, like: Any) -> Any:
    if isinstance(like, _ON_HOST):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=_sharding(like), global_shape=tuple(like.shape))


def _sharding(like: Any) -> jax.sharding.Sharding:
    return like.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def _empty(like: Any) -> Any:
    """Returns an array without elements: nothing of it is stored."""
    zeros = np.zeros(like.shape, like.dtype)
    return zeros if isinstance(like, _ON_HOST) else jax.device_put(zeros, _sharding(like))


def _name(path: str) -> str:
    return quote(path, safe=_READABLE)
