"""Tables of measurements, for people: at most 80 columns wide."""

from collections.abc import Callable, Sequence

from virtflash.bench.comparison import Result
from virtflash.bench.measurement import Measurement
from virtflash.bench.workload import Workload, size_text
from virtflash.text_table import aligned

NOT_KNOWN = "-"
NAME_CHARACTERS = 24  # of a server: more would not leave room for its figures
MILLISECONDS_FROM = 100_000  # microseconds

Figure = Callable[[Measurement], float | None]
Column = tuple[str, str, Figure, Callable[[float], str]]  # two lines of heading, the figure, how it is written


def counted(value: float) -> str:
    return f"{value:,.0f}"


def microseconds(value: float) -> str:
    """Without a unit, for a column that names it; "117 ms" and "10.2 s" where it would be too long."""
    if value >= 1e7:
        return f"{value / 1e6:.1f} s"
    if value >= MILLISECONDS_FROM:
        return f"{value / 1e3:.0f} ms"
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


RATE: Column = ("requests", "/s", lambda run: run.iops, counted)
THROUGHPUT: Column = ("", "MB/s", lambda run: run.bytes_per_second / 1e6, counted)
LATENCIES: tuple[Column, ...] = (
    ("p50", "us", lambda run: run.latency_us(50), microseconds),
    ("p99", "us", lambda run: run.latency_us(99), microseconds),
    ("p99.9", "us", lambda run: run.latency_us(99.9), microseconds),
)
CPU: Column = ("CPU us", "each", lambda run: run.cpu_per_million, lambda value: f"{value:.2f}")
MEASURED = (RATE, THROUGHPUT, *LATENCIES, CPU)
COMPARED = (*LATENCIES, CPU)


def measured(results: Sequence[Result]) -> list[str]:
    """One server: a line for each load."""
    rows = [
        ["", "depth", *(above for above, *_ in MEASURED)],
        ["load", "x queues", *(below for _, below, *_ in MEASURED)],
    ]
    for result in results:
        rows.append([*_load_cells(result.workload), *_cells(result, 0, MEASURED)])
        rows.extend(_failures(result, 0))
    return aligned(rows)


def compared(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Two servers: for each load a line of either, and the ratio of their requests per second."""
    rows = [
        ["", "requests", "", *(above for above, *_ in COMPARED)],
        ["", "/s", "ratio", *(below for _, below, *_ in COMPARED)],
    ]
    for result in results:
        rows.append([str(result.workload)])
        ratios = [_text(result.ratio, lambda value: f"{value:.2f}"), ""]
        for server, (name, ratio) in enumerate(zip(names, ratios, strict=True)):
            cells = _cells(result, server, COMPARED)
            rows.append([f"  {short(name)}", *_cells(result, server, [RATE]), ratio, *cells])
            rows.extend(_failures(result, server))
    return aligned(rows)


def short(name: str) -> str:
    """The end of a name that is too long: where it is a path, that tells more than its beginning."""
    return name if len(name) <= NAME_CHARACTERS else f"...{name[3 - NAME_CHARACTERS :]}"


def _load_cells(workload: Workload) -> tuple[str, str]:
    queues = f" x {workload.queues}" if workload.queues > 1 else ""
    return f"{workload.direction} {size_text(workload.block_bytes)}", f"{workload.depth}{queues}"


def _cells(result: Result, server: int, columns: Sequence[Column]) -> list[str]:
    return [_text(result.middle(server, figure), write) for _, _, figure, write in columns]


def _text(value: float | None, write: Callable[[float], str]) -> str:
    return NOT_KNOWN if value is None else write(value)


def _failures(result: Result, server: int) -> list[list[str]]:
    """A line of its own below the figures, which are only of what succeeded."""
    wrong = result.wrong(server)
    return [[f"    not counted above: {wrong:,} requests that failed or gave the wrong data"]] if wrong else []
