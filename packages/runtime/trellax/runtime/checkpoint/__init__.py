"""Checkpoints: asynchronous, atomic, checksummed, strict, and free of the mesh they were saved on.

checkpointer = Checkpointer.default_config().set(keep_last=3).instantiate(directory=run / "checkpoints")
checkpointer.save(step, state)
restored = checkpointer.restore(abstract_state)  # (step, state), or None where there is none
params = load_checkpoint(run / "checkpoints", prefix="params")  # for readers without a trainer
"""

from trellax.runtime.checkpoint.checkpointer import Checkpointer
from trellax.runtime.checkpoint.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    CheckpointSaveError,
    DamagedCheckpointWarning,
)
from trellax.runtime.checkpoint.manifest import ArrayInfo, Manifest
from trellax.runtime.checkpoint.reader import load_checkpoint, read_manifest

__all__ = [
    "ArrayInfo",
    "CheckpointDamagedError",
    "CheckpointError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointSaveError",
    "Checkpointer",
    "DamagedCheckpointWarning",
    "Manifest",
    "load_checkpoint",
    "read_manifest",
]
