"""Folders of files that are made once, by whichever process comes first, and can be made again.

    folder = made_once("tokens", key, make=write_files, is_good=check_files)

A folder appears under its final name only when it is complete (it is renamed into place), so a
process that dies while it writes leaves nothing that others could mistake for a result.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from trellax.runtime import settings
from trellax.runtime.input.errors import InputError


def made_once(
    kind: str, key: str, *, make: Callable[[Path], None], is_good: Callable[[Path], bool]
) -> Path:
    """Returns the cached folder `kind/key`, made now if it is missing or damaged.

    Args:
        kind: what is cached, for example "tokenizers".
        key: digest of everything that the content depends on.
        make: writes the files into an empty folder.
        is_good: whether a folder holds what `make` wrote, whole.

    Raises:
        InputError: if the cache folder cannot be written.
    """
    folder = settings.cache_dir() / kind / key
    if is_good(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.with_suffix(".lock")):
            if not is_good(folder):
                _make(folder, make)
    except PermissionError as e:
        raise InputError(
            f"{e.filename}: cannot be written; set TRELLAX_CACHE_DIR to a folder of yours."
        ) from e
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        fresh = Path(temporary) / "fresh"
        fresh.mkdir()
        make(fresh)
        if folder.exists():  # Damaged. Renamed first: readers see the old one whole, or none.
            folder.rename(Path(temporary) / "damaged")
        fresh.rename(folder)


@contextlib.contextmanager
def _one_at_a_time(lock_file: Path) -> Iterator[None]:
    """Waits until no other process of this machine makes the same folder.

    The lock only saves work: without it (no `fcntl`, network folders) two processes would make
    equal folders, and the renaming keeps each whole.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock_file.open("w") as f:
        with contextlib.suppress(OSError):
            fcntl.flock(f, fcntl.LOCK_EX)
        yield
