"""The table at the end of the demonstration."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

from virtflash.demo.demo import Outcome
from virtflash.report.flash_report import MOVES
from virtflash.report.wear_picture import wear_picture
from virtflash.text_table import aligned

Row: TypeAlias = tuple[str, str]

MEBIBYTE = 1 << 20
BYTES = (
    ("read", "bytes_read"),
    ("written", "bytes_written"),
    ("discarded or zeroed, in all", "bytes_discarded"),  # mkfs discards the whole volume before fstrim does its part
)


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of at most 80 columns."""
    rows = [["Two Linux guests on virtflash"], [""], ["", *(outcome.part.name for outcome in outcomes)]]
    rows += _table(outcomes, _rows)
    rows += [[""], ["What happened to the flash"], [""], *_table(outcomes, _flash_rows)]
    lines = aligned(rows, left=1 + len(outcomes))
    for outcome in outcomes:
        lines += ["", f"wear across the flash of {outcome.part.name}", *wear_picture(outcome.flash.columns)]
    return lines


def _table(outcomes: Sequence[Outcome], rows_of: Callable[[Outcome], Iterable[Row]]) -> list[list[str]]:
    """A column for each guest."""
    rows: list[list[str]] = []
    for cells in zip(*(rows_of(outcome) for outcome in outcomes), strict=True):
        rows.extend(_lines(cells[0][0], [text for _, text in cells]))
    return rows


def _lines(label: str, texts: Sequence[str]) -> list[list[str]]:
    """A row whose cells have several lines, as rows."""
    columns = ([label], *(text.split("\n") for text in texts))
    return [list(cells) for cells in zip_longest(*columns, fillvalue="")]


def _rows(outcome: Outcome) -> Iterable[Row]:
    yield from _guest_rows(outcome)
    yield from _server_rows(outcome.statistics["volumes"][0], outcome.statistics["latency_bounds_ns"])
    yield "host disk taken, at most", _mebibytes(outcome.peak_host_bytes)


def _flash_rows(outcome: Outcome) -> Iterable[Row]:
    flash, written = outcome.flash, outcome.flash.amplification
    device = outcome.statistics["volumes"][0]["flash"]["device"]
    yield "part", flash.profile
    yield "written by the guest", _mebibytes(device["bytes_written"])
    yield "  with zeroes, in units", _mebibytes(written.host_bytes)
    yield "written to cells", _mebibytes(written.flash_bytes)
    yield "write amplification", "-" if written.total is None else f"{written.total:.2f}"
    yield "  of it, moved", _mebibytes(sum(getattr(written, f"{name}_bytes") for name in MOVES))
    yield "  left empty in pages", _mebibytes(written.padding_bytes)
    yield "  metadata", _mebibytes(written.metadata_bytes)
    yield "erases", f"{flash.operations['erases']} of {flash.geometry.blocks} blocks"
    yield "trimmed", _mebibytes(device["units_trimmed"] * flash.geometry.unit_bytes)
    yield "flushes", str(device["flushes"])
    yield "bits corrected", f"{flash.errors.corrected_bits:,}"
    yield "spare blocks", f"{flash.blocks.spare_left} of {flash.blocks.spare}"
    yield "wear, mean", f"{flash.wear.mean:.2f} of {flash.wear.rated_cycles:,} cycles"
    yield "lifetime used, A / B", f"{_estimate(flash.lifetime.estimate_a)} / {_estimate(flash.lifetime.estimate_b)}"


def _estimate(code: int) -> str:
    """Of EXT_CSD: tenths of the rated cycles."""
    return "-" if code == 0 else f"< {10 * code} %"


def _guest_rows(outcome: Outcome) -> Iterable[Row]:
    reports = outcome.reports
    yield "guest", f"Linux {reports['kernel']}"
    yield "file system", outcome.part.filesystem
    yield "files found as written", f"{reports['files']} ({_mebibytes(int(reports['bytes']))})"
    yield "trimmed by fstrim", _trimmed(reports["trimmed"])
    yield "boot to power off", f"{outcome.seconds:.1f} s"


def _server_rows(statistics: dict[str, Any], bounds_ns: list[int]) -> Iterable[Row]:
    queues: list[dict[str, Any]] = statistics["queues"]
    requests = _sum_of_dicts(queue["requests"] for queue in queues)
    yield "requests", "\n".join(f"{count} {kind}" for kind, count in requests.items() if count)
    for label, key in BYTES:
        yield label, _mebibytes(sum(queue[key] for queue in queues))
    for kind in ("read", "write", "flush"):
        yield f"{kind} latency, p50 / p99", _latency(bounds_ns, [queue["latency"][kind] for queue in queues])
    yield "interrupts sent", str(sum(queue["interrupts"] for queue in queues))
    yield "completions without one", str(sum(queue["interrupts_suppressed"] for queue in queues))
    yield "errors", str(sum(queue["errors"] + queue["malformed"] for queue in queues))


def _mebibytes(count: int) -> str:
    return f"{count / MEBIBYTE:.1f} MiB"


def _trimmed(said: str) -> str:
    """Of "/mnt: 486 MiB (509571072 bytes) trimmed" the bytes; of another wording, all."""
    count = re.search(r"\b(\d+) bytes", said)
    return _mebibytes(int(count[1])) if count else said.rpartition(": ")[2]


def _time(nanoseconds: float) -> str:
    if nanoseconds < 1e6:
        return f"{nanoseconds / 1e3:.0f} us"
    return f"{nanoseconds / 1e6:.{1 if nanoseconds < 1e8 else 0}f} ms"


def _sum_of_dicts(dicts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in dicts:
        for kind, count in counts.items():
            total[kind] = total.get(kind, 0) + count
    return total


def _latency(bounds: Sequence[int], histograms: Sequence[list[int]]) -> str:
    counts = [sum(column) for column in zip(*histograms, strict=True)]
    if not sum(counts):
        return "-"
    return " / ".join(_bound(bounds, _quantile(bounds, counts, share)) for share in (0.5, 0.99))


def _bound(bounds: Sequence[int], bound: int) -> str:
    """The first bucket holds what was answered within one look at the clock, so its bound would say too much."""
    return "at once" if bound == bounds[0] else f"< {_time(bound)}"


def _quantile(bounds: Sequence[int], counts: Sequence[int], share: float) -> int:
    """The bound of the histogram under which this share of the requests lies."""
    wanted = share * sum(counts)
    seen = 0
    for bound, count in zip(bounds, counts, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return bounds[-1]
