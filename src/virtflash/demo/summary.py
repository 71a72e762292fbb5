"""The table at the end of the demonstration."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from virtflash.demo.demo import Outcome

MEBIBYTE = 1 << 20


def summary(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Two Linux guests on virtflash")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.part.name)
    for cells in zip(*(_rows(outcome) for outcome in outcomes), strict=True):
        table.add_row(cells[0][0], *(text for _, text in cells))
    return table


def _rows(outcome: Outcome) -> Iterable[tuple[str, str]]:
    yield from _guest_rows(outcome)
    yield from _server_rows(outcome.statistics["volumes"][0], outcome.statistics["latency_bounds_ns"])
    yield "host disk taken, at most", f"{outcome.peak_host_bytes / MEBIBYTE:.1f} MiB"
    yield "host disk taken, after the trim", f"{outcome.final_host_bytes / MEBIBYTE:.1f} MiB"


def _guest_rows(outcome: Outcome) -> Iterable[tuple[str, str]]:
    reports = outcome.reports
    yield "guest", f"Linux {reports['kernel']}, {outcome.part.filesystem}"
    yield "files written, read back, same", f"{reports['files']} ({int(reports['bytes']) / MEBIBYTE:.1f} MiB)"
    yield "fstrim", reports["trimmed"].rpartition(": ")[2]
    yield "boot to power off", f"{outcome.seconds:.1f} s"


def _server_rows(statistics: dict[str, Any], bounds_ns: list[int]) -> Iterable[tuple[str, str]]:
    queues: list[dict[str, Any]] = statistics["queues"]
    requests = _sum_of_dicts(queue["requests"] for queue in queues)
    yield "requests", "\n".join(f"{count} {kind}" for kind, count in requests.items() if count)
    for label, key in (("read", "bytes_read"), ("written", "bytes_written"), ("discarded", "bytes_discarded")):
        yield f"bytes {label}", f"{sum(queue[key] for queue in queues) / MEBIBYTE:.1f} MiB"
    for kind in ("read", "write", "flush"):
        yield f"{kind} latency, p50 / p99", _latency(bounds_ns, [queue["latency"][kind] for queue in queues])
    yield "interrupts sent", str(sum(queue["interrupts"] for queue in queues))
    yield "completions without one", str(sum(queue["interrupts_suppressed"] for queue in queues))
    yield "errors", str(sum(queue["errors"] + queue["malformed"] for queue in queues))


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
    return " / ".join(f"< {_quantile(bounds, counts, share) / 1000:.0f} us" for share in (0.5, 0.99))


def _quantile(bounds: Sequence[int], counts: Sequence[int], share: float) -> int:
    """The bound of the histogram under which this share of the requests lies."""
    wanted = share * sum(counts)
    seen = 0
    for bound, count in zip(bounds, counts, strict=True):
        seen += count
        if seen >= wanted:
            return bound
    return bounds[-1]
