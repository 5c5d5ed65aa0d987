"""The folder of checkpoints: which steps are there, and the renames that make and unmake them.

    steps = StepFolder(run / "checkpoints"); steps.complete()  # [100, 200]

    00000200/            a complete step: arrays/, manifest.json, checksums.json
    .saving-00000300/    being written; removed at the next start if nobody finished it
    .replaced-00000200/  an older life's step while its successor takes its place
    .deleting-00000100/  being removed
    00000250.damaged/    passed over by a restore, kept for a look; never read or removed by us
    00000900.superseded/ a step of an older life that training has since gone back behind

A step appears by one rename of a folder that is already whole, and goes by one rename too, so a
process may be killed between any two instructions.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from trellax.runtime.checkpoint import checksums

ARRAYS = "arrays"
"""The folder, in that of a step or of one being saved, that `ArrayStore` writes."""
_STEP_NAME = re.compile(r"\d{8,}")
_SAVING, _REPLACED, _DELETING = ".saving-", ".replaced-", ".deleting-"


class StepFolder:
    """Steps below `root`, a folder on a mounted file system whose renames are atomic."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, step: int) -> Path:
        """Returns the folder of a complete step."""
        return self.root / f"{step:08d}"

    def arrays(self, step: int) -> Path:
        """Returns where the arrays of a complete step are."""
        return self.path(step) / ARRAYS

    def present(self) -> list[int]:
        """Returns all steps in ascending order, damaged ones included."""
        if not self.root.is_dir():
            return []
        return sorted(int(p.name) for p in self.root.iterdir() if _STEP_NAME.fullmatch(p.name))

    def complete(self) -> list[int]:
        """Returns the steps that carry the mark of completeness, in ascending order."""
        return [s for s in self.present() if (self.path(s) / checksums.FILENAME).is_file()]

    def clean(self) -> None:
        """Ends what a killed process left half done. No other process may be saving here."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.iterdir()):
            if path.name.startswith(_REPLACED):
                self._put_back(path)
            elif path.name.startswith((_SAVING, _DELETING)):
                shutil.rmtree(path)

    def staging(self, step: int) -> Path:
        """Returns the folder in which `step` is prepared."""
        return self.root / f"{_SAVING}{step:08d}"

    def stage(self, step: int) -> None:
        """Makes an empty `staging(step)`, and removes those of saves that failed."""
        self.clean()
        self.staging(step).mkdir(parents=True)

    def commit(self, step: int) -> None:
        """Gives the prepared folder of `step` its name, in place of an older one of that name."""
        final = self.path(step)
        replaced = self.root / f"{_REPLACED}{step:08d}"
        if final.exists():
            final.rename(replaced)
        self.staging(step).rename(final)
        _sync(self.root)
        if replaced.exists():
            shutil.rmtree(replaced)

    def set_aside(self, step: int, reason: str) -> Path:
        """Renames the folder of `step` to `<step>.<reason>`, numbered if that exists."""
        aside, number = self.path(step).with_suffix(f".{reason}"), 1
        while aside.exists():
            number += 1
            aside = self.path(step).with_suffix(f".{reason}-{number}")
        self.path(step).rename(aside)
        return aside

    def delete(self, steps: Collection[int]) -> None:
        """Removes steps; one is gone at once, though its bytes take longer."""
        for step in sorted(steps):
            going = self.root / f"{_DELETING}{step:08d}"
            self.path(step).rename(going)
            shutil.rmtree(going)

    def _put_back(self, replaced: Path) -> None:
        final = self.path(int(replaced.name.removeprefix(_REPLACED)))
        if final.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(final)


def steps_to_delete(steps: Collection[int], *, keep_last: int, keep_every: int | None) -> list[int]:
    """Returns which of the complete `steps` the keep policy no longer wants.

    Args:
        steps: complete steps.
        keep_last: how many of the newest stay; at least 1.
        keep_every: steps that are multiples of it stay for good.
    """
    old = sorted(steps)[:-keep_last]
    return [s for s in old if keep_every is None or s % keep_every != 0]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
