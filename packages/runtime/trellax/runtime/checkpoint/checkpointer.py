"""The checkpointer of a trainer: when to save, in the background, what to keep, where to go on.

    checkpointer = Checkpointer.default_config().set(save_every_steps=500).instantiate(directory=d)
    restored = checkpointer.restore(abstract_state)  # None: nothing was saved yet
    checkpointer.save(step, state)                   # after each step; saves where one is due
    checkpointer.close()

Every process of a run makes the same calls in the same order, on a file system that all share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from trellax.config import Configurable
from trellax.runtime.checkpoint import checksums, processes
from trellax.runtime.checkpoint.arrays import ArrayStore
from trellax.runtime.checkpoint.damage import find_step
from trellax.runtime.checkpoint.manifest import FILENAME, Manifest, named_leaves
from trellax.runtime.checkpoint.pending import PendingSave
from trellax.runtime.checkpoint.reader import check_same, read_manifest, read_step
from trellax.runtime.checkpoint.steps import ARRAYS, StepFolder, steps_to_delete


class Checkpointer(Configurable):
    """Saves and restores the state of a run in one folder."""

    class Config(Configurable.Config):
        """When to save and what to keep.

        Attributes:
            save_every_steps: a step that is a multiple of it is saved; None for none.
            save_every_seconds: a step is saved when the last save began so long ago; None for
                never. With several processes the first one's clock decides, by a broadcast each
                step.
            keep_last: how many of the newest steps stay, besides one that is being written.
            keep_every: steps that are multiples of it stay for good; None for none.
            verify: what tells damage: the CRC-32 of every file, or sizes alone (and the sums of
                small files), where reading a checkpoint twice would take too long.
            asynchronous: whether `save` returns once the state is on the host.
            timeout_seconds: a background save that takes longer has failed.
        """

        save_every_steps: int | None = 1000
        save_every_seconds: float | None = None
        keep_last: int = 3
        keep_every: int | None = None
        verify: Literal["checksum", "size"] = "checksum"
        asynchronous: bool = True
        timeout_seconds: int = 1200

        def check(self) -> None:
            if self.keep_last < 1:
                raise ValueError(f"keep_last: {self.keep_last}; at least 1 step must stay.")
            for name in ("keep_every", "save_every_steps", "save_every_seconds"):
                value = getattr(self, name)
                if value is not None and value <= 0:
                    raise ValueError(f"{name}: {value}; set a positive number, or None for never.")

    def __init__(self, cfg: Config, *, directory: str | os.PathLike[str]):
        """Opens a folder, which the first save makes, and ends what a killed run left there.

        Raises:
            ValueError: if `directory` is a URL: commits rest on atomic renames.
        """
        super().__init__(cfg)
        if "://" in os.fspath(directory):
            raise ValueError(
                f"{directory}: a checkpoint folder is on a mounted file system (local disk, NFS, "
                f"Lustre, a mounted bucket with atomic renames); mount it and give its path."
            )
        self._steps = StepFolder(Path(directory).absolute())
        self._store = ArrayStore(timeout_seconds=cfg.timeout_seconds)
        self._pending: PendingSave | None = None
        self._own_steps: set[int] = set()  # Steps of this life: saved, or restored from.
        self._last_save_time = time.monotonic()
        if processes.is_first():
            self._steps.clean()

    def should_save(self, step: int) -> bool:
        """Whether `step`, the number of steps done, is due by the config."""
        every, seconds = self.cfg.save_every_steps, self.cfg.save_every_seconds
        due = step > 0 and every is not None and step % every == 0
        if seconds is None or step == 0:
            return due
        late = time.monotonic() - self._last_save_time >= seconds
        return bool(processes.same_everywhere(due or late))

    def save(
        self,
        step: int,
        state: Any,
        *,
        force: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> bool:
        """Saves `state` if `step` is due. When it returns, `state` may be donated or deleted.

        A step that this run has saved already, or was restored from, is not saved again. One of
        an earlier life is replaced, and later ones are renamed to `<step>.superseded`.

        Args:
            step: how many steps made this state.
            state: a tree of arrays.
            force: save even if the step is not due.
            extra: JSON values to keep beside the arrays; see `extra`.

        Returns:
            Whether a save was begun (or done, if not asynchronous).

        Raises:
            CheckpointSaveError: if the save before this one, or this one, failed.
            TypeError: if `state` or `extra` holds what cannot be saved.
        """
        if self._pending is not None and self._pending.is_done:
            self.wait()
        if not (force or self.should_save(step)):
            return False
        self.wait()
        if step in self._own_steps:
            return False
        self._begin(step, state, extra or {})
        if not self.cfg.asynchronous:
            self.wait()
        return True

    def restore(self, target: Any, step: int | None = None) -> tuple[int, Any] | None:
        """Reads the newest good step, or `step`, onto the shardings of `target`.

        Damaged steps that are newer are passed over with a warning and renamed to
        `<step>.damaged`.

        Args:
            target: a tree of `ShapeDtypeStruct` with shardings, or of arrays, that is exactly
                what was saved: paths, shapes and dtypes. The mesh may be another.
            step: which step; None for the newest good one.

        Returns:
            (step, state), or None where nothing was ever saved.

        Raises:
            CheckpointMismatchError: listing all differences, before any array is read.
            CheckpointDamagedError: if `step`, or every step, is damaged.
            CheckpointNotFoundError: if `step` is not there.
        """
        self.wait()
        wanted = named_leaves(target)

        def fits(candidate: int) -> None:
            saved = Manifest.read(self._steps.path(candidate)).arrays
            check_same(self._steps, candidate, saved, wanted.infos)

        found = find_step(self._steps, step, fits=fits)
        if found is None:
            return None
        good, damaged = found
        if processes.is_first():
            for broken in damaged:
                self._steps.set_aside(broken, "damaged")
        state = wanted.unflatten(read_step(self._steps, good, wanted.leaves))
        self._own_steps = {s for s in self._own_steps if s < good} | {good}
        return good, state

    def extra(self, step: int) -> Mapping[str, Any]:
        """Returns the `extra` values that were given to `save`."""
        return read_manifest(self._steps.root, step).extra

    def steps(self) -> list[int]:
        """Returns the complete steps, oldest first; their files are not looked at."""
        return self._steps.complete()

    def latest_step(self) -> int | None:
        """Returns the newest complete step, or None."""
        return max(self.steps(), default=None)

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            CheckpointSaveError: naming its step, if it failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits for the save under way, raises if it failed, and ends all threads."""
        try:
            self.wait()
        finally:
            self._store.close()

    def _begin(self, step: int, state: Any, extra: Mapping[str, Any]) -> None:
        named = named_leaves(state)
        manifest = Manifest(step, named.infos, extra).to_json()
        self._last_save_time = time.monotonic()
        if processes.is_first():
            self._steps.stage(step)
        self._store.start_saving(self._steps.staging(step) / ARRAYS, named.leaves)
        self._pending = PendingSave(step, lambda: self._finish(step, manifest))

    def _finish(self, step: int, manifest: str) -> None:
        self._store.finish_saving()
        if processes.is_first():
            self._mark_and_commit(step, manifest)
        self._store.barrier(f"checkpoint-{step}-committed")
        self._own_steps.add(step)
        if processes.is_first():
            self._tidy(step)

    def _mark_and_commit(self, step: int, manifest: str) -> None:
        staging = self._steps.staging(step)
        checksums.write_durably(staging / FILENAME, manifest)
        checksums.write_checksums(staging, with_sums=self.cfg.verify == "checksum")
        self._steps.commit(step)

    def _tidy(self, step: int) -> None:
        """Removes what the keep policy does not want. `step` is good: it was just written."""
        complete = self._steps.complete()
        for later in [s for s in complete if s > step]:
            self._steps.set_aside(later, "superseded")
        policy = {"keep_last": self.cfg.keep_last, "keep_every": self.cfg.keep_every}
        self._steps.delete(steps_to_delete([s for s in complete if s <= step], **policy))
