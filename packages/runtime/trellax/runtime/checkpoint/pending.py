"""A save that goes on in the background, and the error it may end with.

pending = PendingSave(step, finish); pending.result()
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trellax.runtime.checkpoint.errors import CheckpointSaveError


class PendingSave:
    """Runs `finish` in a thread. One that runs when the interpreter exits is lost: close first."""

    def __init__(self, step: int, finish: Callable[[], None]):
        self.step = step
        self._finish = finish
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"save-step-{step}")
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return not self._thread.is_alive()

    def result(self) -> None:
        """Waits for the end.

        Raises:
            CheckpointSaveError: naming the step, from what made it fail.
        """
        self._thread.join()
        if self._failure is not None:
            raise CheckpointSaveError(
                f"Saving step {self.step} failed: {self._failure} "
                f"({type(self._failure).__qualname__}). Earlier steps are untouched."
            ) from self._failure

    def _run(self) -> None:
        try:
            self._finish()
        except BaseException as e:  # Whatever it is, the caller hears of it at the next call.
            self._failure = e
