"""What can go wrong with a checkpoint; each message names the step, the place and the way out.

except CheckpointMismatchError as e: ...  # the model changed since the step was saved
"""

from __future__ import annotations


class CheckpointError(Exception):
    """Base of every error of checkpoints."""


class CheckpointNotFoundError(CheckpointError, LookupError):
    """A step was asked for by number and is not there."""


class CheckpointMismatchError(CheckpointError, ValueError):
    """What was saved and what is asked for differ; lists all differences by path."""


class CheckpointDamagedError(CheckpointError):
    """Files of a step were changed, cut or lost since it was saved."""


class CheckpointSaveError(CheckpointError):
    """A save failed, possibly in the background; earlier steps are untouched."""


class DamagedCheckpointWarning(UserWarning):
    """A damaged step was passed over for an older one."""
