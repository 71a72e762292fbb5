"""An emulated flash lives through years: heat, a load, its own care, in steps; and is read back at the end."""

import errno
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.lab.ageing_report import AgeingReport, LifeStep, Sample
from virtflash.lab.care import Care
from virtflash.lab.checked_data import CheckedData, WriteRefusedError
from virtflash.lab.errors import LabError
from virtflash.lab.load import Operation, Workload
from virtflash.lab.passing_time import HOUR_SECONDS, PassingTime
from virtflash.lab.probe import probe
from virtflash.lab.temperature import YEAR_HOURS, TemperatureProfile
from virtflash.report.flash_report import MOVES, FlashReport, report_flash

CAUSES = (*MOVES, "padding", "metadata")
SAMPLED = ("host_bytes", "flash_bytes", "refreshed_blocks", "uncorrectable_reads", "lost_units")

OnProgress = Callable[[float], None]  # years that passed


@dataclass(frozen=True)
class Settings:
    """How to age. `until_worn`: end when it takes no more writes, or after `years`."""

    years: float
    temperature: TemperatureProfile
    refresh: bool = True
    steps_per_year: int = 365
    samples_per_year: float = 4.0
    patrol_days: float = 30.0  # in which all data is read once
    until_worn: bool = False
    seed: int = 1


class Ageing:
    """One run, on a device that nobody else uses. `image`, `load_name`: what to call them in the report."""

    def __init__(
        self, image: str, storage: EmulatedStorage, workload: Workload, settings: Settings, *, load_name: str
    ) -> None:
        self._names = image, load_name
        self._storage, self._workload, self._settings = storage, workload, settings
        self._started = time.monotonic()
        self._random = numpy.random.default_rng(settings.seed)
        self.data = CheckedData(storage.target)
        self._time = PassingTime(storage.chip, settings.temperature)
        self._care = Care(storage, refresh=settings.refresh, patrol_days=settings.patrol_days)
        self._worn_after: float | None = None
        self._samples: list[Sample] = []
        self._life: list[LifeStep] = []
        self._probe_cost: Counter[str] = Counter()
        self._sampled_degrees = 0.0

    @property
    def years(self) -> float:
        return self._time.hours / YEAR_HOURS

    def run(self, on_progress: OnProgress = lambda _years: None) -> AgeingReport:
        """Everything: fill, live, read back. LabError: the host has no room for what is written."""
        try:
            self._begin()
            self._live(on_progress)
            return self._end()
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> LabError:
        if error.errno == errno.ENOSPC:
            return LabError(
                f"{self._names[0]}: the host has no room left for the flash's data: work where there is (-o)"
            )
        return LabError(f"{self._names[0]}: after {self.years:.2f} years: {error.strerror or error}")

    def _begin(self) -> None:
        self.data.adopt()
        try:
            self.data.fill(self._workload.filled)
        except WriteRefusedError:
            self._worn_after = 0.0
        self._filled = len(self.data.holding())
        self._before, self._counted_before = self._report(), self._all_counts()
        self._note_life()
        self._sample()

    def _live(self, on_progress: OnProgress) -> None:
        settings = self._settings
        steps = max(round(settings.years * settings.steps_per_year), 1)
        hours = settings.years * YEAR_HOURS / steps
        share = settings.samples_per_year / settings.steps_per_year
        for step in range(steps):
            self._step(step * hours, (step + 1) * hours)
            if int((step + 1) * share) > int(step * share) or step == steps - 1:
                self._sample()
            on_progress(self.years)
            if self._worn_after is not None and settings.until_worn:
                self._sample()
                return

    def _step(self, begin: float, end: float) -> None:
        """The load comes at some hour of the step, so that all temperatures of the day see writes."""
        moment = begin + (end - begin) * self._random.random()
        self._time.until(moment)
        self._work_load(begin * HOUR_SECONDS, end * HOUR_SECONDS)
        self._care.idle(end - begin)
        self._time.until(end)
        self._note_life()

    def _work_load(self, begin: float, end: float) -> None:
        for operation in self._workload.operations(begin, end):
            if self._worn_after is None or operation.kind == "read":
                self._do(operation)
        if self._worn_after is None:
            self.data.flush()

    def _do(self, operation: Operation) -> None:
        try:
            if operation.kind == "write":
                self.data.write(operation.units)
            elif operation.kind == "read":
                self.data.read(operation.units)
            elif operation.kind == "trim":
                self.data.trim(operation.units)
            else:
                self.data.flush()
        except WriteRefusedError:
            self._worn_after = self.years

    # Looking

    def _note_life(self) -> None:
        pre_eol, type_a, type_b = self._storage.target.lifetime()
        step = LifeStep(self.years, pre_eol, type_a, type_b)
        if not self._life or replace(step, years=self._life[-1].years) != self._life[-1]:
            self._life.append(step)

    def _report(self) -> FlashReport:
        return report_flash(Path(self._names[0]), self._storage)

    def _all_counts(self) -> Counter[str]:
        """Of the device's life so far, but for what was only looked at."""
        report = self._report()
        errors, written = report.errors, report.amplification
        counts = {f"{why}_bytes": getattr(written, f"{why}_bytes") for why in CAUSES}
        return Counter(
            counts
            | {
                "host_bytes": written.host_bytes,
                "flash_bytes": written.flash_bytes,
                "corrected_bits": errors.corrected_bits - self._probe_cost["corrected_bits"],
                "uncorrectable_reads": errors.uncorrectable_reads - self._probe_cost["uncorrectable"],
                "failed_programs": errors.failed_programs,
                "failed_erases": errors.failed_erases,
                "lost_units": errors.lost_units,
                "refreshed_blocks": report.operations["refreshed_blocks"],
                "levelled_blocks": report.operations["levelled_blocks"],
            }
        )

    def _counts(self) -> dict[str, int]:
        """Of this run."""
        now = self._all_counts()
        return {name: now[name] - self._counted_before[name] for name in now}

    def _sample(self) -> None:
        """How it stands now, and what a part of the data reads like."""
        probed = probe(self._storage, self.data, self._random)
        self._probe_cost += probed.cost
        counts, report = self._counts(), self._report()
        last = self._samples[-1].years if self._samples else 0.0
        hours = self._time.hours - last * YEAR_HOURS
        self._samples.append(
            Sample(
                years=self.years,
                mean_celsius=(self._time.degree_hours - self._sampled_degrees) / hours if hours else 0.0,
                mean_cycles=report.wear.mean,
                used_percent=report.wear.used_percent,
                spare_left=report.blocks.spare_left,
                probed_units=probed.found.units,
                unreadable_units=probed.found.unreadable,
                wrong_units=probed.found.wrong,
                corrected_bits_per_unit=probed.cost["corrected_bits"] / max(probed.found.good, 1),
                **{name: counts[name] for name in SAMPLED},
            )
        )
        self._sampled_degrees = self._time.degree_hours

    def _end(self) -> AgeingReport:
        """Read everything back, as a guest would."""
        counts, flash = self._counts(), self._report()
        age, before, time_ = flash.age, self._before, self._time
        found = self.data.read_back()
        return AgeingReport(
            image=self._names[0],
            profile=flash.profile,
            temperature=self._settings.temperature.name,
            load=self._names[1],
            refresh=self._settings.refresh,
            seed=self._settings.seed,
            years=self.years,
            worn_after_years=self._worn_after,
            effective_hours=age.effective_hours - before.age.effective_hours,
            reference_celsius=age.reference_celsius,
            mean_celsius=time_.degree_hours / time_.hours,
            least_celsius=time_.least,
            most_celsius=time_.most,
            filled_units=self._filled,
            unit_bytes=flash.geometry.unit_bytes,
            host_bytes=counts["host_bytes"],
            moved_bytes={why: counts[f"{why}_bytes"] for why in CAUSES},
            flash_bytes=counts["flash_bytes"],
            rated_cycles=flash.wear.rated_cycles,
            cycles=flash.wear.mean,
            used_percent=flash.wear.used_percent,
            used_percent_before=before.wear.used_percent,
            spare_left=flash.blocks.spare_left,
            spare=flash.blocks.spare,
            refreshed_blocks=counts["refreshed_blocks"],
            levelled_blocks=counts["levelled_blocks"],
            corrected_bits=counts["corrected_bits"],
            uncorrectable_reads=counts["uncorrectable_reads"],
            failed_programs=counts["failed_programs"],
            failed_erases=counts["failed_erases"],
            lost_units=counts["lost_units"],
            checked_units=found.units,
            unreadable_units=found.unreadable,
            wrong_units=found.wrong,
            run_seconds=time.monotonic() - self._started,
            life=self._life,
            samples=self._samples,
        )
