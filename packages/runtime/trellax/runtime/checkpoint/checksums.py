"""Sizes and CRC-32 sums of a step's files: the mark of a complete step, and what tells damage.

write_checksums(step_dir, with_sums=True)     # last, before the step gets its name
problems = find_damage(step_dir)              # ["arrays/d/0a1b: 4 of 9 bytes are there"]
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

FILENAME = "checksums.json"
_CHUNK_BYTES = 1 << 20
_MAX_THREADS = 8


def write_checksums(step_dir: Path, *, with_sums: bool) -> None:
    """Records every file below `step_dir` in `checksums.json`.

    Args:
        step_dir: the folder of the step, in which nothing may change any more.
        with_sums: read every file for its CRC-32, instead of recording only the size of large ones.
    """
    names = sorted(_files(step_dir))
    entries = _in_threads(lambda name: _describe(step_dir / name, with_sums), names)
    table = {"algorithm": "crc32", "files": dict(zip(names, entries, strict=True))}
    write_durably(step_dir / FILENAME, json.dumps(table, indent=1) + "\n")


def find_damage(
    step_dir: Path, *, share: tuple[int, int] = (0, 1), only: Iterable[str] | None = None
) -> list[str]:
    """Returns what is wrong with the files of a step, an empty list if nothing is.

    Args:
        step_dir: the folder of the step.
        share: (i, n): look at every n-th file, beginning with the i-th.
        only: names of files to look at, instead of all.
    """
    try:
        table = json.loads((step_dir / FILENAME).read_text())["files"]
        names = sorted(table)
    except FileNotFoundError:
        return [f"{FILENAME}: is gone"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        return [f"{FILENAME}: cannot be read ({e})"]
    mine = list(only) if only is not None else names[share[0] :: share[1]]
    found = _in_threads(lambda name: _problem(step_dir / name, table.get(name)), mine)
    return [f"{name}: {problem}" for name, problem in zip(mine, found, strict=True) if problem]


def write_durably(path: Path, text: str) -> None:
    """Writes a small file and waits until it is on the disk."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _files(root: Path) -> list[str]:
    return [
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and path != root / FILENAME
    ]


def _describe(path: Path, with_sums: bool) -> dict[str, Any]:
    size = path.stat().st_size
    with_sum = with_sums or size <= _CHUNK_BYTES  # Small ones, the manifest too, cost nothing.
    return {"size": size, "crc32": _crc32(path) if with_sum else None}


def _problem(path: Path, expected: dict[str, Any] | None) -> str:
    if expected is None:
        return f"has no entry in {FILENAME}"
    try:
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{size} bytes instead of {expected['size']}"
        if expected["crc32"] is not None and _crc32(path) != expected["crc32"]:
            return "its content changed (CRC-32 differs)"
    except FileNotFoundError:
        return "is gone"
    except (OSError, KeyError, TypeError) as e:
        return f"cannot be checked ({e!r})"
    return ""


def _crc32(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            value = zlib.crc32(chunk, value)
    return f"{value:08x}"


def _in_threads(fn: Callable[[str], Any], names: list[str]) -> list[Any]:
    threads = max(1, min(_MAX_THREADS, os.cpu_count() or 1, len(names)))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(fn, names))
