"""Numbers as people read them.

gib(2**30) == "1.00 GiB"; seconds(0.0021) == "2.10 ms"
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

GIB = 2**30
_FEW = 0.1
"""GiB below which two decimals say too little."""


def gib(num_bytes: float | None) -> str:
    """Returns bytes of a device's memory: GiB, unless there are few."""
    if num_bytes is None:
        return "?"
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= _FEW * GIB else size(num_bytes)


def size(num_bytes: float) -> str:
    """Returns bytes in the largest unit that leaves at least 1."""
    for unit, scale in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes:.0f} B"


def seconds(time: float | None) -> str:
    """Returns a time in s, ms or us."""
    if time is None:
        return "?"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if time >= scale:
            return f"{time / scale:.2f} {unit}"
    return f"{time / 1e-6:.1f} us"


def flops(number: float) -> str:
    """Returns FLOPs with a decimal prefix."""
    for prefix, scale in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= scale:
            return f"{number / scale:.2f} {prefix}FLOP"
    return f"{number:.0f} FLOP"


def percent(share: float) -> str:
    """Returns a share as per cent."""
    return f"{100 * share:.1f} %"


def aligned(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Returns the lines of a table, indented, with columns as wide as what is in them.

    Args:
        rows: equally many cells each.
        right: columns of numbers, which end together.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
