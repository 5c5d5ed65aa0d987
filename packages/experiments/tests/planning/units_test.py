"""Numbers as people read them: every unit, its limits, and tables whose columns line up."""

from __future__ import annotations

import pytest

from trellax.experiments.planning import units


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (None, "?"),
        (0.0, "0 B"),
        (1536.0, "1.50 KiB"),
        (0.05 * 2**30, "51.20 MiB"),
        (0.1 * 2**30, "0.10 GiB"),
        (95.0 * 2**30, "95.00 GiB"),
        (2048.0 * 2**30, "2048.00 GiB"),
    ],
)
def test_memory_of_a_device_is_in_gib_unless_it_is_little(
    num_bytes: float | None, text: str
) -> None:
    assert units.gib(num_bytes) == text


def test_sizes_take_the_largest_unit_that_leaves_one() -> None:
    sizes = [1023, 2**10, 2**20, 2**30, 3 * 2**40]
    expected = ["1023 B", "1.00 KiB", "1.00 MiB", "1.00 GiB", "3.00 TiB"]
    assert [units.size(n) for n in sizes] == expected


def test_times_are_in_s_ms_or_us() -> None:
    times = [None, 12.3456, 1.0, 0.0021, 1e-3, 2.34e-5, 0.0]
    expected = ["?", "12.35 s", "1.00 s", "2.10 ms", "1.00 ms", "23.4 us", "0.0 us"]
    assert [units.seconds(time) for time in times] == expected


def test_flops_have_a_decimal_prefix() -> None:
    counts = [999.0, 2e6, 3e9, 4e12, 5e15, 6.789e18]
    expected = ["999 FLOP", "2.00 MFLOP", "3.00 GFLOP", "4.00 TFLOP", "5.00 PFLOP", "6.79 EFLOP"]
    assert [units.flops(n) for n in counts] == expected


def test_shares_are_per_cent() -> None:
    assert units.percent(0.4567) == "45.7 %"


def test_tables_are_as_wide_as_what_is_in_them() -> None:
    rows = [("name", "number", ""), ("a longer name", "7", "mark"), ("b", "12,345", "")]
    assert units.aligned(rows, right=(1,)) == [
        "  name           number",
        "  a longer name       7  mark",
        "  b              12,345",
    ]
