"""What came of an ageing run: figures, as JSON and as text."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from virtflash.lab.errors import LabError
from virtflash.lab.tables import read_text
from virtflash.report.flash_report import MOVES, FlashReport
from virtflash.report.flash_text import estimate
from virtflash.report.quantities import counted, decimal_bytes, number
from virtflash.report.wear_picture import wear_picture
from virtflash.text_table import aligned

FORMAT = "virtflash lab age 1"


@dataclass(frozen=True)
class Sample:
    """How it stood at a time. Counts are of the run, from its beginning."""

    years: float
    mean_celsius: float  # since the sample before
    host_bytes: int
    flash_bytes: int
    mean_cycles: float
    used_percent: float  # of the rated cycles
    spare_left: int
    refreshed_blocks: int
    uncorrectable_reads: int
    lost_units: int
    probed_units: int  # read, through a second mount that changes nothing
    unreadable_units: int  # of these
    wrong_units: int
    corrected_bits_per_unit: float  # in the mean of those that read right


@dataclass(frozen=True)
class LifeStep:
    """From when on PRE_EOL_INFO and the lifetime estimates were so."""

    years: float
    pre_eol_info: int
    estimate_a: int
    estimate_b: int


@dataclass
class AgeingReport:
    """Bytes, units, bits and blocks are those of the run, not of the device's life before it."""

    image: str
    profile: str
    temperature: str
    load: str
    refresh: bool
    seed: int
    years: float  # that were run through
    worn_after_years: float | None  # when it took no more writes; None: it still does
    effective_hours: float
    reference_celsius: float
    mean_celsius: float
    least_celsius: float
    most_celsius: float
    filled_units: int
    unit_bytes: int
    host_bytes: int
    moved_bytes: dict[str, int]
    flash_bytes: int
    rated_cycles: int
    cycles: float
    used_percent: float  # of the rated cycles, the life before the run with it
    used_percent_before: float
    spare_left: int
    spare: int
    refreshed_blocks: int
    levelled_blocks: int
    corrected_bits: int
    uncorrectable_reads: int
    failed_programs: int
    failed_erases: int
    lost_units: int
    checked_units: int
    unreadable_units: int
    wrong_units: int
    run_seconds: float  # of this host
    life: list[LifeStep] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def amplification(self) -> float | None:
        return self.flash_bytes / self.host_bytes if self.host_bytes else None

    @property
    def years_at_this_load(self) -> float | None:
        """From the beginning of the run until the rated cycles are used; None: it wears nothing."""
        used = self.used_percent - self.used_percent_before
        return (100 - self.used_percent_before) * self.years / used if used > 0 and self.years > 0 else None

    def to_json(self) -> dict[str, Any]:
        more = {"amplification": self.amplification, "years_at_this_load": self.years_at_this_load}
        return {"format": FORMAT, **asdict(self), **more}

    @classmethod
    def from_json(cls, made: dict[str, Any]) -> "AgeingReport":
        """Raises KeyError or TypeError where it is no such report."""
        if made["format"] != FORMAT:
            raise KeyError("format")
        kept = {name: made[name] for name in cls.__dataclass_fields__}
        lists = {
            "life": [LifeStep(**each) for each in made["life"]],
            "samples": [Sample(**each) for each in made["samples"]],
        }
        return cls(**kept | lists)


def write_report(report: AgeingReport, path: Path) -> None:
    try:
        path.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None


def read_report(path: Path) -> AgeingReport:
    """One that `write_report` wrote. LabError."""
    try:
        return AgeingReport.from_json(json.loads(read_text(path)))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LabError(f"{path}: not a report of virtflash lab age --report") from None


def ageing_lines(report: AgeingReport, flash: FlashReport) -> list[str]:
    rows = [*run_rows(report), *wear_rows(report), *error_rows(report)]
    title = f"{report.image}: {report.profile}, {number(round(report.years, 2))} years"
    lines = [title, "", *aligned(rows, left=2), *life_lines(report)]
    return [*lines, "", "wear across the device", *wear_picture(flash.columns)]


def life_lines(report: AgeingReport) -> Iterator[str]:
    """How what an eMMC tells of its life has changed, where it has."""
    if len(report.life) > 1:
        table = [["years", "PRE_EOL_INFO", "estimate A", "estimate B"]]
        for step in report.life:
            values = step.pre_eol_info, step.estimate_a, step.estimate_b
            table.append([f"{step.years:.2f}", *map(str, values)])
        yield ""
        yield from aligned(table, left=0)


def run_rows(report: AgeingReport) -> Iterator[tuple[str, str]]:
    yield (
        "temperature",
        f"{report.temperature}: {report.mean_celsius:.1f} degC in the mean, "
        f"{report.least_celsius:.1f} to {report.most_celsius:.1f}",
    )
    worth = report.effective_hours / 8766
    yield "", f"for the data as {number(round(worth, 2))} years at {number(report.reference_celsius)} degC"
    yield "load", f"{report.load}: {decimal_bytes(report.host_bytes)} written"
    yield "refresh", "yes" if report.refresh else "no"
    yield "took", f"{report.run_seconds:.1f} s"


def wear_rows(report: AgeingReport) -> Iterator[tuple[str, str]]:
    last = report.life[-1]
    if report.worn_after_years is not None:
        yield "writes", f"not taken any more after {report.worn_after_years:.2f} years: the spare blocks are used up"
    yield (
        "lifetime left",
        f"{max(100 - report.used_percent, 0):.1f} % of {report.rated_cycles:,} rated cycles; "
        f"A (SLC) {estimate(last.estimate_a)}, B (main) {estimate(last.estimate_b)} used",
    )
    yield "PRE_EOL_INFO", f"{last.pre_eol_info}; spare blocks: {report.spare_left} left of {report.spare}"
    if report.years_at_this_load is not None:
        yield "at this load", f"the rated cycles last {number(round(report.years_at_this_load, 1))} years"
    yield "written to flash", decimal_bytes(report.flash_bytes)
    if report.amplification is not None:
        parts = [f"{report.moved_bytes[why] / report.host_bytes:.3f} {why}" for why in (*MOVES, "padding", "metadata")]
        yield "write amplification", f"{report.amplification:.3f}: the guest's own 1,"
        yield "", ", ".join(parts)
    yield "refreshed, levelled", f"{report.refreshed_blocks:,} and {counted(report.levelled_blocks, 'block')}"


def error_rows(report: AgeingReport) -> Iterator[tuple[str, str]]:
    yield "bits corrected", f"{report.corrected_bits:,}"
    yield "reads uncorrectable", f"{report.uncorrectable_reads:,} until the read-back"
    yield "failed", f"{counted(report.failed_programs, 'program')}, {counted(report.failed_erases, 'erase')}"
    yield "units lost", f"{report.lost_units:,}, that could not be read when they had to be moved"
    yield (
        "read back",
        f"{counted(report.checked_units, 'unit')}: {report.unreadable_units:,} could not be read, "
        f"{report.wrong_units:,} read wrong",
    )
