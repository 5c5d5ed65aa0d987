"""Files that a flag names, to write what a verb made."""

from __future__ import annotations

from pathlib import Path

from trellax.experiments.cli.arguments import UsageError
from trellax.runtime import write_atomically


def check_writable(flag: str, file: str | None) -> None:
    """Finds before long work what would keep its result from being written.

    Raises:
        UsageError: if the file's folder does not exist, or the file is a folder.
    """
    if file is None:
        return
    path = Path(file)
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--{flag}={file}: there is no folder {path.parent}.")
    if path.is_dir():
        raise UsageError(f"--{flag}={file} is a folder; name a file.")


def write(flag: str, file: str, content: str) -> None:
    """Writes a file.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        write_atomically(file, content)
    except OSError as e:
        raise UsageError(f"--{flag}={file} cannot be written: {e.strerror}.") from e
