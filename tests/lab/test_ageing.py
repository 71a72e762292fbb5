"""Ageing: heat takes data that nobody refreshes, writing takes life, and the figures say so."""

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from virtflash.lab.ageing import Ageing, Settings
from virtflash.lab.ageing_report import AgeingReport, read_report, write_report
from virtflash.lab.checked_data import Found
from virtflash.lab.errors import LabError
from virtflash.lab.load import PRESETS, GeneratedLoad, Load
from virtflash.lab.opened_flash import opened_flash
from virtflash.lab.temperature import load_temperature

PROGRAM = Path(sys.executable).with_name("virtflash")
DEADLINE_SECONDS = 50
HOT = load_temperature("constant:85")


def aged(image: Path, load: Load = PRESETS["idle"], **settings: Any) -> AgeingReport:
    """The image itself, through years."""
    chosen = Settings(**{"years": 3.0, "temperature": HOT, "steps_per_year": 52, "samples_per_year": 2} | settings)
    with opened_flash(image, refresh=chosen.refresh) as storage:
        workload = GeneratedLoad(load, storage.target.user_sectors // 8, storage.target.unit_bytes, chosen.seed)
        return Ageing(str(image), storage, workload, chosen, load_name=load.name).run()


def bad_units(report: AgeingReport) -> int:
    return report.unreadable_units + report.wrong_units


def test_heat_takes_what_is_not_refreshed(make_image: Callable[..., Path]) -> None:
    """Three years at 85 degC: 64 at 55, where this part is good for about two."""
    left, refreshed = (aged(make_image(name=name), refresh=name == "b") for name in ("a", "b"))
    assert left.effective_hours == pytest.approx(3 * 8760 * 21.8, rel=0.02)
    assert left.effective_hours == pytest.approx(refreshed.effective_hours)
    assert left.unreadable_units > 0.5 * left.filled_units
    assert left.wrong_units == 0  # what is lost is known to be lost
    assert bad_units(refreshed) == refreshed.lost_units == refreshed.uncorrectable_reads == 0
    assert left.refreshed_blocks == 0
    assert refreshed.refreshed_blocks > 2 * refreshed.filled_units * 4096 / (768 * 1024)
    assert refreshed.moved_bytes["refresh"] > refreshed.host_bytes
    shares = [sample.unreadable_units / sample.probed_units for sample in left.samples]
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(left.unreadable_units / left.filled_units, abs=0.05)
    assert all(sample.unreadable_units == 0 for sample in refreshed.samples)


def test_the_cold_keeps_what_the_heat_takes(make_image: Callable[..., Path]) -> None:
    cold = aged(make_image(), temperature=load_temperature("constant:25"), refresh=False)
    assert bad_units(cold) == 0
    assert cold.effective_hours < cold.years * 8760 / 30


def test_errors_grow_until_somebody_refreshes(make_image: Callable[..., Path]) -> None:
    report = aged(make_image(), years=0.3, refresh=False, samples_per_year=20)
    bits = [sample.corrected_bits_per_unit for sample in report.samples]
    assert bits[-1] > 1.5 * bits[0]
    assert bits == sorted(bits)


def test_the_same_seed_is_the_same_run(make_image: Callable[..., Path]) -> None:
    reports = [
        aged(make_image(name=name), years=1.0, load=PRESETS["skewed"], seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, second, other = (dataclasses.replace(each, run_seconds=0.0, image="") for each in reports)
    assert first == second
    assert first != other


def test_its_own_looks_are_not_counted(make_image: Callable[..., Path]) -> None:
    """More samples read more, and the device's figures stay what they are without."""
    few, many = (
        aged(make_image(name=str(count)), years=1.0, refresh=False, samples_per_year=count) for count in (1, 12)
    )
    assert len(many.samples) > len(few.samples)
    looked_at = sum(sample.probed_units * sample.corrected_bits_per_unit for sample in many.samples)
    assert many.corrected_bits == pytest.approx(few.corrected_bits, abs=1e-4 * looked_at)
    assert few.uncorrectable_reads == many.uncorrectable_reads == 0
    assert few.refreshed_blocks == many.refreshed_blocks == 0


def test_figures_of_a_run_are_those_of_the_run(make_image: Callable[..., Path]) -> None:
    """A second run on the same image begins at 0, but for what its cells have behind them; data is still checked."""
    image = make_image()
    load = Load("x", 0.5, static=0.25, flush_units=64)
    first, second = (aged(image, load, years=1.0, temperature=load_temperature("garage")) for _ in range(2))
    assert second.host_bytes == pytest.approx(0.5 * 365 * 16 * (1 << 20), rel=0.2)  # the cache takes some of them
    assert second.host_bytes == pytest.approx(first.host_bytes, rel=0.05)
    assert second.used_percent_before == pytest.approx(first.used_percent, rel=0.01)
    assert second.used_percent > first.used_percent
    assert second.flash_bytes == second.host_bytes + sum(second.moved_bytes.values())
    assert first.years_at_this_load == pytest.approx(second.years_at_this_load or 0, rel=0.1)
    assert (first.least_celsius, first.most_celsius) == (second.least_celsius, second.most_celsius)
    assert bad_units(first) == bad_units(second) == 0


@pytest.fixture
def worn_out(make_image: Callable[..., Path]) -> tuple[AgeingReport, Found, Path]:
    """A device of few cycles, written until it takes no more; and what is found when it is opened again."""
    image = make_image(cycles=40, slc_cycles=100, reserve_percent=30, slc_share=0.2)
    load = Load("mixed", 1.0, static=0.3, flush_units=3)
    cool = load_temperature("constant:40")
    settings = Settings(years=100, temperature=cool, until_worn=True, steps_per_year=8760, samples_per_year=12)
    with opened_flash(image) as storage:
        workload = GeneratedLoad(load, storage.target.user_sectors // 8, storage.target.unit_bytes, 1)
        ageing = Ageing(str(image), storage, workload, settings, load_name="mixed")
        report = ageing.run()
        with pytest.raises(OSError) as refused:
            storage.target.write(0, bytes(4096))
        assert refused.value.errno == errno.EROFS
        storage.target.flush()
    with opened_flash(image) as again:
        assert again.translation.read_only
        return report, ageing.data.read_back(target=again.target), image


def test_a_device_wears_out_in_order(worn_out: tuple[AgeingReport, Found, Path]) -> None:
    report, found_again, _ = worn_out
    assert report.worn_after_years is not None
    assert report.years == pytest.approx(report.worn_after_years, abs=0.01)
    assert report.spare_left == 0
    assert report.failed_programs + report.failed_erases >= report.spare
    # Nothing is lost, now or when it is mounted again.
    assert report.checked_units > 4000
    assert bad_units(report) == report.lost_units == 0
    assert (found_again.unreadable, found_again.wrong) == (0, 0)
    # Every value on the way, each after the one before it.
    assert distinct([step.pre_eol_info for step in report.life]) == [1, 2, 3]
    assert distinct([step.estimate_a for step in report.life]) == list(range(1, 12))
    assert distinct([step.estimate_b for step in report.life]) == list(range(1, 12))


def distinct(values: list[int]) -> list[int]:
    """Without repetitions, in the order that they came in."""
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]


def test_what_is_worn_out_can_be_told_of(worn_out: tuple[AgeingReport, Found, Path]) -> None:
    ended = subprocess.run(
        [str(PROGRAM), "info", worn_out[2]], capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS
    )
    assert "not taken any more" in ended.stdout
    assert "3, urgent" in ended.stdout


class Full:
    """A workload on a host whose disk fills up."""

    filled = 0.1

    def operations(self, begin: float, end: float) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_host_ends_it_in_one_line(make_image: Callable[..., Path]) -> None:
    with opened_flash(make_image()) as storage:
        ageing = Ageing("image", storage, Full(), Settings(years=1, temperature=HOT), load_name="full")
        with pytest.raises(LabError, match="no room left"):
            ageing.run()


def test_a_report_is_read_as_it_was_written(make_image: Callable[..., Path], tmp_path: Path) -> None:
    report = aged(make_image(), years=0.2)
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report
    with pytest.raises(LabError, match="directory"):
        write_report(report, tmp_path / "no" / "report.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": "virtflash lab age 1"}', '{"format": "x"}', "[" * 10**5])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(LabError, match="not a report"):
        read_report(tmp_path / "report.json")


# The command


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "lab", "age", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_reports_and_leaves_the_image_alone(make_image: Callable[..., Path], tmp_path: Path) -> None:
    image = make_image()
    before = digest(image)
    first = run(image, "--years", 0.5, "--load", "idle", "--report", tmp_path / "a.json")
    assert first.returncode == 0, first.stderr
    for word in ("lifetime left", "write amplification", "PRE_EOL_INFO", "read back", "took", "wear across"):
        assert word in first.stdout
    assert digest(image) == before
    more = ["--no-refresh", "--plot", tmp_path / "both.svg", "--compare", tmp_path / "a.json", "-o", tmp_path / "kept"]
    second = run(image, "--years", 0.5, "--load", "idle", *more)
    assert second.returncode == 0, second.stderr
    drawing = (tmp_path / "both.svg").read_text()
    assert drawing.startswith("<?xml")
    assert digest(image) == before
    assert digest(tmp_path / "kept") != before
    assert json.loads((tmp_path / "a.json").read_text())["years"] == pytest.approx(0.5)


def test_on_a_terminal_it_shows_how_far_it_is(make_image: Callable[..., Path]) -> None:
    ours, theirs = os.openpty()
    command = [str(PROGRAM), "lab", "age", str(make_image()), "--years", "3", "--load", "idle"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as process:
        os.close(theirs)
        shown = b"".join(iter(lambda: read_terminal(ours), b""))
        assert process.stdout is not None
        said = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    assert "read back" in said
    assert b"of 3 years" in shown


def read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 4096)
    except OSError:  # EIO: nobody has it open any more
        return b""


def test_in_place_the_image_itself_grows_old(make_image: Callable[..., Path]) -> None:
    image = make_image()
    assert run(image, "--years", 0.1, "--load", "idle", "--in-place").returncode == 0
    with opened_flash(image) as storage:
        assert storage.chip.counters()["hours"] == pytest.approx(876)


def test_a_trace_is_played(make_image: Callable[..., Path], tmp_path: Path) -> None:
    image, trace = make_image(), tmp_path / "trace.csv"
    trace.write_text("seconds,op,sector,sectors\n0,W,0,64\n10,R,0,64\n20,D,64,8\n30,F,0,0\n86400,F,0,0\n")
    ended = run(image, "--years", 0.1, "--load", trace, "--fill", "20%", "--report", tmp_path / "a.json")
    assert ended.returncode == 0, ended.stderr
    report = read_report(tmp_path / "a.json")
    assert report.host_bytes == pytest.approx(36.5 * 8 * 4096, rel=0.03)
    assert report.filled_units == 4096 // 5
    assert bad_units(report) == 0


MISUSE = {
    "no image": ("{tmp}/no", "No such file"),
    "no such preset": ("{image} --temperature mars", "garage"),
    "no such load": ("{image} --load none", "skewed"),
    "two places": ("{image} --in-place -o {tmp}/copy", "--in-place"),
    "nothing to draw into": ("{image} --compare {tmp}/a.json", "--plot"),
    "nothing to compare": ("{image} --plot {tmp}/a.png --compare {tmp}/a.json", "a.json"),
    "no time": ("{image} --years 0", "--years"),
    "not a number of years": ("{image} --years nan", "nan"),
    "a report in no directory": ("{image} --report {tmp}/no/a.json", "directory"),
    "a plot of no format": ("{image} --plot {tmp}/a.pdf", ".svg"),
    "a copy that is there": ("{image} -o {image}", "exists already"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_what_a_user_got_wrong_is_told_in_one_line(case: str, make_image: Callable[..., Path], tmp_path: Path) -> None:
    arguments, named = MISUSE[case]
    image = make_image()
    ended = run(*arguments.format(image=image, tmp=tmp_path).split())
    assert ended.returncode > 0
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert named in ended.stderr
