"""The report on a flash as text."""

from collections.abc import Iterable, Iterator

from virtflash.report.flash_report import MOVES, PRE_EOL, Bin, FlashReport, Geometry
from virtflash.report.quantities import binary_bytes, counted, decimal_bytes, duration, number
from virtflash.report.wear_picture import wear_picture
from virtflash.text_table import aligned

BAR_WIDTH = 32
MOVE_WORDS = {
    "level": "to level wear",
    "refresh": "to refresh data",
    "retire": "out of blocks that fail",
    "collect": "to collect free space",
    "purge": "for secure erase",
}
LIFE_EXCEEDED = 11

Row = tuple[str, str]


def report_lines(report: FlashReport) -> list[str]:
    rows = [*device_rows(report), *state_rows(report), *write_rows(report), *error_rows(report)]
    lines = [f"{report.image}: {report.profile} ({report.kind})", "", *aligned(rows, left=2), ""]
    return [*lines, *histogram_lines(report), "", "wear across the device", *wear_picture(report.columns)]


def device_rows(report: FlashReport) -> Iterator[Row]:
    shape, blocks = report.geometry, report.blocks
    yield "for guests", f"{binary_bytes(shape.capacity_bytes)}, of which {binary_bytes(report.mapped_bytes)} hold data"
    yield "flash", f"{counted(shape.blocks, 'block')} of {block_text(shape)}"
    yield (
        "blocks",
        f"{blocks.data:,} with data, {blocks.metadata:,} with metadata, {blocks.open:,} open, {blocks.free:,} free",
    )
    yield "bad blocks", f"{blocks.bad:,}, of which {blocks.factory_bad:,} from the factory"
    yield "spare blocks", f"{blocks.spare_left:,} left of {blocks.spare:,}"


def block_text(shape: Geometry) -> str:
    """6 MiB: 128 pages of 48 KiB, 3 bits in a cell."""
    text = f"{binary_bytes(shape.block_bytes)}: {shape.pages_per_block} pages of {binary_bytes(shape.page_bytes)}"
    if shape.slc_page_bytes:
        text += f"; in SLC mode {shape.slc_pages_per_block} of {binary_bytes(shape.slc_page_bytes)}"
    return text


def state_rows(report: FlashReport) -> Iterator[Row]:
    age, wear, life = report.age, report.wear, report.lifetime
    yield (
        "age",
        f"{duration(age.hours)}, worth {duration(age.effective_hours)} at {number(age.reference_celsius)} degC; "
        f"now at {number(round(age.celsius, 1))} degC",
    )
    yield (
        "data is",
        f"{duration(age.median_data_hours)} old, the oldest {duration(age.oldest_data_hours)}, as heat counts",
    )
    yield (
        "wear",
        f"{number(round(wear.mean, 1))} cycles, from {number(round(wear.least, 1))} to {number(round(wear.most, 1))}, "
        f"of {wear.rated_cycles:,} rated",
    )
    yield "lifetime used", f"A (SLC) {estimate(life.estimate_a)}, B (main) {estimate(life.estimate_b)}"
    yield "PRE_EOL_INFO", f"{life.pre_eol_info}, {PRE_EOL[life.pre_eol_info]}"
    if report.blocks.read_only:
        yield "writes", "not taken any more: the spare blocks are used up"


def estimate(code: int) -> str:
    """What a DEVICE_LIFE_TIME_EST says, and its code."""
    if code == 0:
        return "undefined (0)"
    if code >= LIFE_EXCEEDED:
        return f"over 100 % ({code})"
    return f"{10 * (code - 1)} to {10 * code} % ({code})"


def write_rows(report: FlashReport) -> Iterator[Row]:
    written = report.amplification
    yield "written by guests", decimal_bytes(written.host_bytes)
    yield "written to flash", decimal_bytes(written.flash_bytes)
    if written.total is None:
        return
    yield "write amplification", f"{written.total:.3f}, of it"
    yield "", "1.000 the guests' own"
    causes = {name: MOVE_WORDS[name] for name in MOVES} | {"padding": "left empty in pages", "metadata": "metadata"}
    for name, words in causes.items():
        if getattr(written, f"{name}_bytes"):
            yield "", f"{written.share(name):.3f} {words}"


def error_rows(report: FlashReport) -> Iterator[Row]:
    errors, done = report.errors, report.operations
    yield "bits corrected", f"{errors.corrected_bits:,}"
    yield "reads uncorrectable", f"{errors.uncorrectable_reads:,}"
    yield "units lost", f"{errors.lost_units:,}"
    yield "failed", f"{counted(errors.failed_programs, 'program')}, {counted(errors.failed_erases, 'erase')}"
    yield "refreshed, levelled", f"{done['refreshed_blocks']:,} and {counted(done['levelled_blocks'], 'block')}"


def histogram_lines(report: FlashReport) -> Iterator[str]:
    parts = [("P/E cycles, by block", report.wear.main)]
    if report.wear.slc:
        parts.append(("P/E cycles in SLC mode, by block", report.wear.slc))
    for title, bins in parts:
        yield title
        yield from bars(bins)


def bars(bins: Iterable[Bin]) -> list[str]:
    most = max((each.blocks for each in bins), default=0)
    rows = [
        [
            f"{each.first:,}" if each.first == each.last else f"{each.first:,} to {each.last:,}",
            "#" * -(-each.blocks * BAR_WIDTH // most),
            f"{each.blocks:,}",
        ]
        for each in bins
    ]
    return [f"  {line}" for line in aligned(rows, left=2)]
