"""Loads and traces: what is written, read and discarded, where, and how much of it."""

import itertools
from collections import Counter
from pathlib import Path

import numpy
import pytest

from virtflash.lab.errors import LabError
from virtflash.lab.load import DAY_SECONDS, PRESETS, GeneratedLoad, Load, Operation, Workload, load_figures
from virtflash.lab.trace import Trace

UNITS, UNIT_BYTES = 10000, 4096


def generated(load: Load, *, days: float = 10, steps: int = 10, seed: int = 1) -> list[Operation]:
    workload = GeneratedLoad(load, UNITS, UNIT_BYTES, seed)
    times = numpy.linspace(0, days * DAY_SECONDS, steps + 1)
    return [each for begin, end in itertools.pairwise(times) for each in workload.operations(begin, end)]


def units_of(operations: list[Operation], kind: str) -> numpy.ndarray:
    chosen = [each.units for each in operations if each.kind == kind]
    return numpy.concatenate(chosen) if chosen else numpy.zeros(0, dtype=int)


@pytest.mark.parametrize("steps", [1, 7, 240])
def test_as_much_is_written_as_is_said(steps: int) -> None:
    by_share = generated(Load("x", device_writes_per_day=0.3), days=10, steps=steps)
    assert len(units_of(by_share, "write")) == 3 * UNITS
    by_bytes = generated(Load("x", bytes_per_day=1e6), days=10, steps=steps)
    assert abs(len(units_of(by_bytes, "write")) - 1e7 / UNIT_BYTES) <= 1


def test_what_is_static_is_never_written_again() -> None:
    written = units_of(generated(Load("x", 0.5, filled=0.8, static=0.25)), "write")
    assert (written.min(), written.max()) == (2000, 7999)
    assert len(numpy.unique(written)) > 5900


def test_what_is_hot_gets_its_writes() -> None:
    load = Load("x", 5, filled=1.0, static=0.0, hot_share=0.1, hot_writes=0.9)
    written = units_of(generated(load), "write")
    assert (written < 1000).mean() == pytest.approx(0.9, abs=0.01)
    others = numpy.bincount(written[written >= 1000])[1000:]
    assert others.std() < 1.2 * others.mean() ** 0.5  # as chance has it


def test_a_logger_goes_round() -> None:
    written = units_of(generated(Load("x", 0.3, filled=0.5, static=0.5, sequential=True)), "write")
    assert written[:3].tolist() == [2500, 2501, 2502]
    assert (numpy.diff(written) % 2500 == 1).all()
    assert (written.min(), written.max()) == (2500, 4999)


def test_flushes_come_after_so_many_units() -> None:
    operations = generated(Load("x", 0.3, flush_units=16))
    between = 0
    for each in operations:
        between = 0 if each.kind == "flush" else between + len(each.units)
        assert between <= 16
    assert sum(each.kind == "flush" for each in operations) == 3 * UNITS // 16


def test_reads_are_as_many_as_is_said() -> None:
    operations = generated(Load("x", 0.3, filled=0.5, reads_per_write=1.5))
    read = units_of(operations, "read")
    assert len(read) == pytest.approx(1.5 * 3 * UNITS, abs=1)
    assert read.max() < 5000


def test_the_same_seed_is_the_same_load() -> None:
    first, second, other = (units_of(generated(PRESETS["skewed"], seed=seed), "write") for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("units", [1, 2, 10, 5000])
def test_presets_fit_every_device(preset: str, units: int) -> None:
    workload = GeneratedLoad(PRESETS[preset], units, UNIT_BYTES, 1)
    for each in workload.operations(0, 3 * DAY_SECONDS):
        assert ((each.units >= 0) & (each.units < units)).all()


def test_figures_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text("bytes_per_day = 1e6\nfilled = 0.9\nsequential = true\nflush_units = 8\n")
    assert load_figures(str(path)) == Load(str(path), bytes_per_day=1e6, filled=0.9, sequential=True, flush_units=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filled = 0.5", "bytes_per_day"),
        ("bytes_per_day = 1\ndevice_writes_per_day = 1", "either"),
        ("bytes_per_day = -1", "bytes_per_day"),
        ("bytes_per_day = nan", "bytes_per_day"),
        ("bytes_per_day = 1\nfilled = 2", "filled"),
        ("bytes_per_day = 1\nsequential = 1", "true or false"),
        ("bytes_per_day = 1\nhot = 1", "no such key"),
    ],
)
def test_figures_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ours.toml"
    path.write_text(text)
    with pytest.raises(LabError, match=message):
        load_figures(str(path))


def test_an_unknown_load_is_refused() -> None:
    with pytest.raises(LabError, match="infotainment"):
        load_figures("nosuch")


def trace(tmp_path: Path, rows: str, units: int = UNITS) -> Trace:
    path = tmp_path / "trace.csv"
    path.write_text(rows)
    return Trace(path, units, UNIT_BYTES, filled=0.5)


def played(workload: Workload, begin: float, end: float) -> list[tuple[str, list[int]]]:
    return [(each.kind, each.units.tolist()) for each in workload.operations(begin, end)]


def test_a_trace_is_played_with_whole_units(tmp_path: Path) -> None:
    rows = "seconds,op,sector,sectors\n0,W,8,8\n1,R,15,2\n2,D,4,20\n3,FWS,0,0\n4,N,0,0\n5,W,0,1\n"
    once = [
        ("write", [1]),
        ("read", [1, 2]),
        ("trim", [1, 2]),  # of unit 0 a part is kept
        ("flush", []),
    ]
    # The last row says when it begins again.
    assert played(trace(tmp_path, rows), 0, 5) == once
    assert played(trace(tmp_path, rows), 0, 9) == [*once, ("write", [0]), *once]


@pytest.mark.parametrize("cuts", [[0, 35], [0, 5, 10, 35], [0, 0.5, 9.5, 10.5, 20, 29.99, 35]])
def test_a_trace_is_played_in_a_loop(tmp_path: Path, cuts: list[float]) -> None:
    """However time is cut into steps, each event comes once in each lap."""
    workload = trace(tmp_path, "0,W,0,8\n4,W,8,8\n10,F,0,0\n")
    assert workload.seconds == 10
    seen: Counter[tuple[str, int]] = Counter()
    for begin, end in itertools.pairwise(cuts):
        seen.update((kind, units[0] if units else -1) for kind, units in played(workload, begin, end))
    assert seen == {("write", 0): 4, ("write", 1): 4, ("flush", -1): 3}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "no rows"),
        ("0,N,0,0", "no rows"),
        ("0,W,0", "line 1"),
        ("1,W,0,8\n0,W,0,8", "line 2.*sort"),
        ("0,W,x,8", "sector"),
        ("0,W,0,0", "sectors"),
        ("inf,W,0,8", "seconds"),
        ("0,W,79996,8", "the device has 80000"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        trace(tmp_path, rows)


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such file"):
        Trace(tmp_path / "no.csv", UNITS, UNIT_BYTES, filled=0.5)
