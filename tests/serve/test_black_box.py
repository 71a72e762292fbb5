"""The black box of a flash that is served: what is noted, how soon, how much of a flood, and what outlives a kill."""

import errno
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from configured import MIB, Configured
from watched_server import wait_until

from virtflash.backing import BackingError, create_flash
from virtflash.backing.emulated_flash import open_storage
from virtflash.black_box import GATHER_SECONDS, KINDS, STARTED, STOPPED, WAITING_MOST, BlackBox, belongs
from virtflash.driver.blk import BlkDriver
from virtflash.event_thinning import AT_ONCE, REMEMBERED, SECONDS_EACH, EventThinning
from virtflash.logs import Log
from virtflash.shared_flash import open_pool
from virtflash.virtio.blk import Status
from virtflash.volumes.event_log import WRITES_AT_ONCE, EventLog, EventRecord

PROGRAM = Path(sys.executable).with_name("virtflash")
SOON_SECONDS = 10.0  # on a machine that is busy
BUDGET = 'wear_budget = "1 GB/day"\nwear_burst = "1 MiB"\nwhen_spent = "read-only"'
DISTURBED = [("io-error", "cluster"), ("budget-spent", "infotainment")]


def event(kind: str = "io-error", name: str = "cluster", words: str = "it") -> EventRecord:
    return EventRecord(kind=kind, name=name, words=words, monotonic_ns=0, time_ns=0)


# What of a flood is noted


class Seconds:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_of_a_flood_the_first_are_noted_and_later_the_last_with_a_count() -> None:
    clock = Seconds()
    thinning = EventThinning(clock)
    noted = [thinning.take(event(words=str(number))) for number in range(1, 101)]
    assert [record.words for record in noted if record] == [str(number) for number in range(1, AT_ONCE + 1)]
    assert thinning.due() == []
    assert thinning.seconds_to_wait() == pytest.approx(SECONDS_EACH)
    clock.now += SECONDS_EACH
    (last,) = thinning.due()
    assert (last.words, last.left_out) == ("100", 100 - AT_ONCE - 1)
    assert thinning.seconds_to_wait() is None
    assert thinning.take(event()) is None, "its turn was taken by the one that waited"


def test_one_that_comes_while_another_waits_takes_its_place() -> None:
    """Although it might be noted itself: what is noted is in order."""
    clock = Seconds()
    thinning = EventThinning(clock)
    for number in range(AT_ONCE + 1):
        thinning.take(event(words=str(number)))
    clock.now += 5 * SECONDS_EACH
    assert thinning.take(event(words="later")) is None
    (last,) = thinning.due()
    assert (last.words, last.left_out) == ("later", 1)
    assert thinning.take(event(words="next")) is not None


def test_kinds_and_volumes_do_not_thin_each_other() -> None:
    thinning = EventThinning(Seconds())
    for _ in range(AT_ONCE + 5):
        thinning.take(event())
    assert thinning.take(event("budget-spent")) is not None
    assert thinning.take(event(name="radio")) is not None


@pytest.mark.parametrize("seconds", [86400.0])
def test_a_day_of_one_flood(seconds: float) -> None:
    clock = Seconds()
    thinning, noted, left_out = EventThinning(clock), 0, 0
    for _ in range(int(seconds)):
        clock.now += 1
        for record in [*thinning.due(), thinning.take(event())]:
            noted += record is not None
            left_out += record.left_out if record else 0
    for record in thinning.rest():
        noted, left_out = noted + 1, left_out + record.left_out
    assert noted <= AT_ONCE + seconds / SECONDS_EACH + 1
    assert noted + left_out == seconds, "all are counted"


def test_what_is_remembered_is_bounded() -> None:
    clock = Seconds()
    thinning = EventThinning(clock)
    for number in range(3 * REMEMBERED):
        clock.now += 1
        thinning.take(event(name=f"volume {number}"))
    assert len(thinning._taps) <= REMEMBERED


@pytest.mark.parametrize(
    ("kind", "level", "wanted"),
    [
        *((kind, "info", True) for kind in sorted(KINDS)),
        ("health-state", "info", True),
        ("left", "info", False),
        ("malformed", "warning", False),
        ("queue-broken", "error", True),
    ],
)
def test_what_is_for_it(kind: str, level: str, wanted: bool) -> None:
    assert belongs(kind, level) is wanted


# A flash in this process


class Carved:
    """An eMMC of 96 MiB with a volume `cluster`, and its black box, started."""

    def __init__(self, directory: Path) -> None:
        path = directory / "emmc0.vflash"
        create_flash(path, "automotive-tlc-emmc", capacity_bytes=96 * MIB, seed=5)
        self.storage = open_storage(path, host_sync=False)
        self.pool = open_pool(self.storage)
        self.pool.create("cluster", 8)
        self.box = self.begin()

    def begin(self) -> BlackBox:
        self.box = BlackBox("emmc0", self.storage.target, Log("emmc0"), lambda name: name in ("emmc0", "cluster"))
        self.box.start(self.pool.granule_sectors, "as it was left")
        return self.box

    @property
    def records(self) -> list[EventRecord]:
        return EventLog(self.storage.target, self.pool.granule_sectors).records()

    @property
    def words(self) -> list[str]:
        """But of starts and stops."""
        return [record.words for record in self.records if record.kind not in (STARTED, STOPPED)]


@pytest.fixture
def carved(tmp_path: Path) -> Iterator[Carved]:
    flash = Carved(tmp_path)
    yield flash
    flash.box.stop()
    flash.storage.close()


def happen(kind: str, name: str = "cluster", text: str = "it happened", level: int = logging.WARNING) -> None:
    Log(name).log(level, text, extra={"event": {"kind": kind}})


def test_what_is_logged_is_on_the_flash_soon(carved: Carved) -> None:
    happen("io-error", text="the first")
    happen("io-error", "telematics", "of another flash")
    happen("left", text="not for it")
    Log("cluster").error("no event")
    happen("sync-failed", "", "of the server", logging.ERROR)
    wait_until(lambda: len(carved.words) == 2, "both are there", SOON_SECONDS)
    started, first, second = carved.records
    assert (started.kind, started.name, started.run) == (STARTED, "emmc0", 1)
    assert "as it was left" in started.words
    assert (first.kind, first.name, first.words, first.level) == ("io-error", "cluster", "the first", "warning")
    assert (second.kind, second.name, second.words, second.level) == ("sync-failed", "", "of the server", "error")
    assert 0 < second.monotonic_ns - started.monotonic_ns < 60e9
    assert abs(second.time_ns - started.time_ns) < 60e9


def test_a_run_follows_another(carved: Carved) -> None:
    for run in (1, 2, 3):
        happen("io-error", text=f"in run {run}")
        carved.box.stop()
        carved.begin()
    assert carved.box.flush(SOON_SECONDS)
    assert [(record.run, record.kind) for record in carved.records] == [
        *((run, kind) for run in (1, 2, 3) for kind in (STARTED, "io-error", STOPPED)),
        (4, STARTED),
    ]
    assert [record.number for record in carved.records] == list(range(1, 11))


def test_while_it_is_frozen_nothing_is_written_and_nothing_lost(
    carved: Carved, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert carved.box.flush(SOON_SECONDS)
    tries: list[int] = []
    write = BlackBox._write

    def counted(box: BlackBox, ring: EventLog, *, reserve: int) -> None:
        tries.append(reserve)
        write(box, ring, reserve=reserve)

    monkeypatch.setattr(BlackBox, "_write", counted)
    carved.box.frozen = True
    before = carved.storage.chip.operations
    for number in range(3):
        happen("health-state", text=f"change {number}")
    assert not carved.box.flush(2 * GATHER_SECONDS)
    assert (carved.words, carved.storage.chip.operations, tries) == ([], before, []), "and its thread sleeps"
    carved.box.frozen = False
    wait_until(lambda: carved.words == [f"change {number}" for number in range(3)], "they are written", SOON_SECONDS)


def test_what_cannot_be_written_at_the_end_is_said(carved: Carved, caplog: pytest.LogCaptureFixture) -> None:
    assert carved.box.flush(SOON_SECONDS)
    before = carved.storage.chip.operations
    carved.box.frozen = True
    happen("io-error")
    with caplog.at_level(logging.WARNING, "virtflash"):
        carved.box.stop()
    assert "2 events could not be noted" in caplog.text
    assert carved.storage.chip.operations == before


def test_a_flood_is_thinned_and_counted(carved: Carved) -> None:
    before = carved.storage.chip.operations
    for number in range(5000):
        happen("io-error", text=f"failure {number}")
    carved.box.stop()
    noted = [record for record in carved.records if record.kind == "io-error"]
    assert [record.words for record in noted] == [f"failure {number}" for number in [*range(AT_ONCE), 4999]]
    assert noted[-1].left_out == 5000 - AT_ONCE - 1
    assert carved.storage.chip.operations - before < 100


def test_what_waits_in_memory_is_bounded(carved: Carved) -> None:
    carved.box.frozen = True
    for number in range(2 * WAITING_MOST):
        happen(f"health-{number}", text=f"{number}")
    assert len(carved.box._waiting) == WAITING_MOST
    carved.box.frozen = False
    carved.box.stop()
    assert sorted(map(int, carved.words)) == list(range(2 * WAITING_MOST))


def test_who_makes_it_happen_waits_for_nobody(carved: Carved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while a write goes on for ever."""
    begun, goes_on = threading.Event(), threading.Event()
    append = EventLog.append

    def slow(log: EventLog, *arguments: Any, **more: Any) -> int:
        begun.set()
        assert goes_on.wait(SOON_SECONDS)
        return append(log, *arguments, **more)

    monkeypatch.setattr(EventLog, "append", slow)
    happen("io-error", text="before")
    assert begun.wait(SOON_SECONDS)
    for number in range(20):
        happen(f"health-{number}", text="meanwhile")
    carved.box.frozen = True
    carved.box.frozen = False
    goes_on.set()
    assert carved.box.flush(SOON_SECONDS)
    assert len(carved.words) == 21


def test_a_flash_that_takes_no_more_is_told_of_and_nobody_fails(
    carved: Carved, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fails(*_arguments: Any, **_more: Any) -> int:
        failed.set()
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(EventLog, "append", fails)
    with caplog.at_level(logging.WARNING, "virtflash"):
        happen("io-error")
        assert failed.wait(SOON_SECONDS)
        carved.box.stop()
    assert "events cannot be noted on the flash: Read-only file system" in caplog.text


def test_a_log_that_cannot_be_read_stops_nobody(
    carved: Carved, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    carved.box.stop()

    def fails(_log: EventLog) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventLog, "begin", fails)
    with caplog.at_level(logging.WARNING, "virtflash"):
        carved.begin()
        wait_until(lambda: "cannot be read" in caplog.text, "it is told")
        happen("io-error")
        carved.box.stop()


def test_starts_without_end_do_not_wear_the_flash(carved: Carved) -> None:
    """And the stops find their place as long as there is one."""
    for _ in range(2 * WRITES_AT_ONCE):
        carved.box.stop()
        carved.begin()
    carved.box.stop()
    units = EventLog(carved.storage.target, carved.pool.granule_sectors).units()
    assert sum(unit.edition for unit in units) <= WRITES_AT_ONCE
    assert units[-1].writes_left <= 2


# A server


def run_log(image: Path, *options: str) -> list[dict[str, Any]]:
    command = [str(PROGRAM), "log", str(image), "--json", *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (ended.returncode, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def kinds(told: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["kind"], one["volume"]) for one in told]


@contextmanager
def disturbed(configured: Configured) -> Iterator[None]:
    """Events of two volumes happen to a server in this process."""
    with configured.served() as service:
        served = service.server.find("cluster")
        assert served is not None
        with BlkDriver(configured.socket("cluster")) as driver:
            served.export.binding.inject_fault("read", errno.EIO)
            assert driver.read(0, 4096).status == Status.IOERR
        spend(configured)
        yield


def spend(configured: Configured) -> None:
    """The infotainment's budget."""
    with BlkDriver(configured.socket("infotainment")) as driver:
        for sector in range(0, 16 * MIB // 512, 128):
            if driver.write(sector, os.urandom(65536)).status == Status.IOERR:
                return
    raise AssertionError("its budget was never spent")


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    volumes = {"cluster": "16 MiB", "infotainment": f"32 MiB\n{BUDGET}"}
    return Configured(tmp_path, volumes, flash="host_sync = false\n")


def test_a_server_that_ends_leaves_its_story(configured: Configured) -> None:
    with disturbed(configured):
        pass
    image = configured.directory / "emmc0.vflash"
    told = run_log(image)
    assert kinds(told)[0] == (STARTED, "emmc0")
    assert kinds(told)[-1] == (STOPPED, "emmc0")
    assert [one for one in kinds(told) if one in DISTURBED] == DISTURBED
    assert kinds(run_log(image, "--volume", "cluster")) == DISTURBED[:1]


def on_the_flash(image: Path) -> list[str]:
    """The kinds of events that would be found if the machine stopped now: in a copy, which may come out torn."""
    copy = image.with_suffix(".copy")
    shutil.copy(image, copy)
    try:
        storage = open_storage(copy, read_only=True, host_sync=False)
    except BackingError:
        return []
    try:
        return [record.kind for record in EventLog(storage.target, 1024).records()]
    finally:
        storage.close()


def test_what_was_noted_outlives_a_kill_and_the_next_start_tells_of_it(configured: Configured) -> None:
    image = configured.directory / "emmc0.vflash"
    with configured.in_a_child(signal.SIGKILL):
        spend(configured)
        wait_until(lambda: "budget-spent" in on_the_flash(image), "it is noted", SOON_SECONDS)
    before = hashlib.sha256(image.read_bytes()).digest()
    told = run_log(image)
    assert kinds(told)[:2] == [(STARTED, "emmc0"), ("budget-spent", "infotainment")]
    assert "as it was left" in told[0]["text"]
    assert hashlib.sha256(image.read_bytes()).digest() == before, "reading changes nothing"
    with configured.in_a_child():
        pass
    after = run_log(image)
    assert after[: len(told)] == told
    (started, *_, stopped) = after[len(told) :]
    assert (started["run"], started["kind"], stopped["kind"]) == (2, STARTED, STOPPED)
    assert "recovered: its server was killed" in started["text"]


def test_kills_at_any_moment_cost_nothing_that_was_there(configured: Configured) -> None:
    """Also while the start of the next server is being noted."""
    image, told = configured.directory / "emmc0.vflash", []
    for _ in range(6):
        with configured.in_a_child(signal.SIGKILL):
            pass
        before, told = told, run_log(image)
        assert told[: len(before)] == before
        assert [one["number"] for one in told] == list(range(1, len(told) + 1))
    with configured.in_a_child():
        pass
    told = run_log(image)
    assert [one["kind"] for one in told[-2:]] == [STARTED, STOPPED]
    runs = [one["run"] for one in told]
    assert runs == sorted(runs)
