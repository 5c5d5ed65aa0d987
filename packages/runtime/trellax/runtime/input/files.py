"""Which files a source reads, and what they hold, as a digest.

files = expand(["corpus/", "extra/*.txt"], suffix=".txt")
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from trellax.runtime.input.errors import InputError

_FULLY_READ_BYTES = 64 << 20
_SAMPLE_BYTES = 1 << 20


def expand(paths: Sequence[str], *, suffix: str) -> list[Path]:
    """Returns the files that `paths` name, each path's own in order of name.

    Args:
        paths: files, globs (`**` enters folders), and folders, which stand for all files below
            them that end in `suffix`.
        suffix: for example ".jsonl".

    Raises:
        InputError: naming a path that leads to no file.
    """
    if not paths:
        raise InputError("No files are given: set `paths` to files, folders or globs.")
    found = [file for path in paths for file in _expand_one(path, suffix)]
    return list(dict.fromkeys(found))


def _expand_one(path: str, suffix: str) -> list[Path]:
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(p for p in place.rglob(f"*{suffix}") if p.is_file())
        if not files:
            raise InputError(f"{path}: the folder holds no *{suffix} file; name the files instead.")
        return files
    if place.is_file():
        return [place]
    files = sorted(Path(p) for p in glob.glob(str(place), recursive=True) if Path(p).is_file())
    if not files:
        what = "no file matches" if glob.has_magic(path) else "no such file or folder"
        raise InputError(f"{path}: {what} (looked from {Path.cwd()}).")
    return files


def digest(*parts: str | bytes) -> str:
    """Returns a 32-digit hexadecimal digest of the parts and of where each ends."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def digest_of_files(files: Iterable[Path]) -> str:
    """Returns a digest of the files' content, whatever they are called.

    A file over 64 MiB stands for itself by its size, its time of change and its first and last
    MiB, so that opening a corpus of terabytes does not read it.
    """
    return digest(*(_digest_of_file(file) for file in files))


def _digest_of_file(file: Path) -> str:
    status = file.stat()
    if status.st_size <= _FULLY_READ_BYTES:
        return digest(file.read_bytes())
    with file.open("rb") as f:
        head = f.read(_SAMPLE_BYTES)
        f.seek(-_SAMPLE_BYTES, 2)
        return digest(str(status.st_size), str(status.st_mtime_ns), head, f.read())


def decode(data: bytes, file: object) -> str:
    """Returns UTF-8 text with `\\n` line ends.

    Raises:
        InputError: naming the file and the line of the first bad byte.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise InputError(
            f"{file}:{line}: byte {data[e.start]:#04x} is not UTF-8 ({e.reason}); "
            f"convert the file, for example with `iconv -f LATIN1 -t UTF-8`."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
