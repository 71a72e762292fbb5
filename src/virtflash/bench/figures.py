"""Tables of measurements, for people."""

from collections.abc import Callable, Sequence

from rich.table import Table

from virtflash.bench.comparison import Result
from virtflash.bench.measurement import Measurement

NOT_KNOWN = "-"

# Heading, figure, how it is written
COLUMNS: tuple[tuple[str, Callable[[Measurement], float | None], str], ...] = (
    ("requests/s", lambda run: run.iops, ",.0f"),
    ("MB/s", lambda run: run.bytes_per_second / 1e6, ",.0f"),
    ("p50 us", lambda run: run.latency_us(50), ",.1f"),
    ("p99 us", lambda run: run.latency_us(99), ",.1f"),
    ("p99.9 us", lambda run: run.latency_us(99.9), ",.1f"),
    ("CPU s/million", lambda run: run.cpu_per_million, ".2f"),
)
COMPARED = ("p50 us", "p99 us", "CPU s/million")


def text(value: float | None, form: str) -> str:
    return NOT_KNOWN if value is None else format(value, form)


def _table(headings: Sequence[str], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("load")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def measured(results: Sequence[Result]) -> Table:
    """One server: a row for each load."""
    table = _table([heading for heading, _, _ in COLUMNS])
    for result in results:
        table.add_row(str(result.workload), *(text(result.middle(0, figure), form) for _, figure, form in COLUMNS))
    return table


def compared(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Two servers: requests per second of each, their ratio, and other figures side by side."""
    pairs = [column for column in COLUMNS if column[0] in COMPARED]
    title = f"{names[0]} / {names[1]}"
    table = _table(["requests/s", "", "ratio", *(heading for heading, _, _ in pairs)], title)
    for result in results:
        rates = [text(result.middle(i, lambda run: run.iops), ",.0f") for i in (0, 1)]
        both = [" / ".join(text(result.middle(i, figure), form) for i in (0, 1)) for _, figure, form in pairs]
        table.add_row(str(result.workload), *rates, f"{result.ratio:.2f}", *both)
    return table
