"""The table at the end of `virtflash demo`."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from virtflash.backing import create_flash
from virtflash.demo.demo import Outcome, Part, look_at
from virtflash.demo.summary import summary
from virtflash.report.flash_report import FlashReport

BOUNDS = [256, 1_000, 1_000_000, 117_441_000]
KINDS = ("read", "write", "flush", "discard", "write_zeroes")
TRIMMED = "/run/disk: 486 MiB (509571072 bytes) trimmed"


def statistics(count: int, counts: list[int]) -> dict[str, Any]:
    queue: dict[str, Any] = dict.fromkeys(("bytes_read", "bytes_written", "bytes_discarded"), count << 20)
    queue |= dict.fromkeys(("interrupts", "interrupts_suppressed", "errors", "malformed"), count)
    queue["requests"] = dict.fromkeys(KINDS, count)
    queue["latency"] = dict.fromkeys(KINDS, counts)
    device = dict.fromkeys(("bytes_written", "units_trimmed", "flushes"), count)
    return {"latency_bounds_ns": BOUNDS, "volumes": [{"queues": [queue, queue], "flash": {"device": device}}]}


@cache
def flash() -> FlashReport:
    """Of a small one that was just made."""
    with TemporaryDirectory() as directory:
        image = Path(directory) / "small.vflash"
        create_flash(image, "automotive-tlc-emmc", capacity_bytes=64 << 20, seed=1)
        return look_at(image)


def rows(count: int = 1, counts: Sequence[int] = (0, 0, 0, 0), trimmed: str = TRIMMED) -> dict[str, list[str]]:
    """The cells of each row by its label."""
    reports = {"kernel": "6.1.176-custom", "files": "208", "bytes": str(64 << 20), "trimmed": trimmed}
    outcomes = [
        Outcome(Part(name, "f2fs", "p"), reports, 12.3, count << 20, statistics(count, list(counts)), flash())
        for name in ("cluster", "infotainment")
    ]
    lines = summary(outcomes)
    assert max(map(len, lines)) <= 80
    assert lines == [line.rstrip() for line in lines]
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {row[0]: row[1:] for row in cells if row}


@pytest.mark.parametrize("count", [0, 1, 999_999])
def test_it_fits_a_terminal(count: int) -> None:
    assert rows(count, [0, 0, 0, count])["errors"] == [str(4 * count)] * 2


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([0, 0, 0, 0], "-"),
        ([1, 0, 0, 0], "at once / at once"),
        ([0, 1, 0, 0], "< 1 us / < 1 us"),
        ([0, 5, 4, 1], "< 1 us / < 117 ms"),
        ([5, 0, 4, 1], "at once / < 117 ms"),
        ([0, 0, 9, 0], "< 1.0 ms"),
    ],
)
def test_times_have_the_unit_that_fits(counts: list[int], text: str) -> None:
    assert rows(counts=counts)["read latency, p50 / p99"][0].startswith(text)


@pytest.mark.parametrize(
    ("said", "text"),
    [(TRIMMED, "486.0 MiB"), ("/run/disk: 0 B (0 bytes) trimmed", "0.0 MiB"), ("/run/disk: nothing", "nothing")],
)
def test_one_figure_says_how_much_was_trimmed(said: str, text: str) -> None:
    assert rows(trimmed=said)["trimmed by fstrim"] == [text] * 2


def test_what_was_discarded_is_all_of_it() -> None:
    assert rows(503)["discarded or zeroed, in all"] == ["1006.0 MiB"] * 2


def test_what_happened_to_the_flash() -> None:
    cells = rows(3)
    assert cells["part"] == ["automotive 3D TLC eMMC"] * 2
    assert cells["trimmed"] == ["0.0 MiB"] * 2
    assert cells["flushes"] == ["3"] * 2
    assert cells["write amplification"] == ["-"] * 2
    assert cells["lifetime used, A / B"] == ["< 10 % / < 10 %"] * 2
    assert sum(label.startswith("wear across the flash of") for label in cells) == 2
