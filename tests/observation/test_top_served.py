"""`virtflash top` beside a running server under load: every figure on the screen is what the server has counted.

What `top` is told is overheard, so that the figures of an interval can be compared however busy the machine is; and
what it was told lies between what another client is told before and afterwards.
"""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from configured import MIB, Configured
from overheard_socket import OverheardSocket
from terminal_screen import Screen, run_top
from top_figures import Figures, counted, differences, shown

from virtflash.driver.blk import BlkDriver
from virtflash.status import Status
from virtflash.virtio.blk import RequestType
from virtflash.virtio.blk import Status as Answer

DEPTH = 8
PIECE = 16384
VOLUMES = {
    "cluster": '16 MiB\nwear_budget = "10 GB/day"\nwear_burst = "500 MB"\niops = "300 /s"\niops_burst = 30',
    "infotainment": '32 MiB\nwear_budget = "100 MB/day"\nwear_burst = "4 MiB"\nwhen_spent = "read-only"',
}


class Load(threading.Thread):
    """A guest that reads and writes, as much as it may. `answers`: how many, by type and status."""

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self._socket, self._over = socket, threading.Event()
        self.answers: Counter[tuple[int, int]] = Counter()

    def run(self) -> None:
        number = 0
        with BlkDriver(self._socket) as driver:
            while not self._over.is_set():
                kinds = [RequestType.OUT if (number + i) % 3 else RequestType.IN for i in range(DEPTH)]
                self._round(driver, kinds, number)
                number += DEPTH

    def _round(self, driver: BlkDriver, kinds: list[RequestType], number: int) -> None:
        pending = []
        for place, kind in enumerate(kinds, number):
            sector = place * PIECE % (8 * MIB) // 512
            writes = kind is RequestType.OUT
            pending.append(driver.submit(kind, sector, os.urandom(PIECE) if writes else b"", 0 if writes else PIECE))
        for kind, each in zip(kinds, pending, strict=True):
            self.answers[kind, driver.complete(each).status] += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Configured]:
    """Served by a child."""
    made = Configured(tmp_path, VOLUMES, "", 'timing = "real"\n')
    with made.in_a_child():
        yield made


@pytest.fixture
def loads(configured: Configured) -> Iterator[dict[str, Load]]:
    """On both volumes."""
    running = {name: Load(configured.socket(name)) for name in VOLUMES}
    for load in running.values():
        load.start()
    yield running
    for load in running.values():
        load.stop()


@pytest.fixture
def overheard(configured: Configured, tmp_path: Path) -> Iterator[OverheardSocket]:
    with OverheardSocket(tmp_path / "o.sock", configured.socket("control")) as socket:
        yield socket


@pytest.fixture
def screen(overheard: OverheardSocket) -> Iterator[Screen]:
    started = Screen(overheard.path, 120, 24, {}, interval=0.3)
    yield started
    started.close()


def status(configured: Configured) -> Status:
    return msgspec.convert(configured.ask("status"), Status)


def requests(told: Status) -> list[int]:
    """Of each volume."""
    return [sum(volume.requests.values()) for volume in told.volumes]


def test_the_screen_is_what_the_server_counts(
    configured: Configured, loads: dict[str, Load], overheard: OverheardSocket, screen: Screen
) -> None:
    """Under load, in a narrow terminal too, and after it."""

    def shows(text: str, holds: Callable[[dict[str, Figures]], object], *but: str) -> bool:
        """All of one of the last intervals, in which much happened, or nothing."""
        return any(
            holds(counted(earlier, later)) and not differences(text, earlier, later, but)
            for earlier, later in pairwise(overheard.statuses[-3:])
        )

    def much(figures: dict[str, Figures]) -> object:
        cluster, infotainment = figures["cluster"], figures["infotainment"]
        return cluster["delayed"] and cluster["wa"] and infotainment["errors"] and infotainment["depth"]

    def nothing(figures: dict[str, Figures]) -> bool:
        return all(figures[name]["iops"] == figures[name]["wear"] == 0 for name in VOLUMES)

    before = requests(status(configured))
    text = screen.until(lambda text: shows(text, much))
    told = list(overheard.statuses)
    after = requests(status(configured))
    for earliest, *between, latest in zip(before, *map(requests, told), after, strict=True):
        assert earliest <= between[0] < between[-1] <= latest
    assert shown(text)["infotainment"]["state"] == "read-only"
    assert shown(text)["cluster"]["process"] == os.getpid()
    screen.resize(80, 24)
    screen.process.send_signal(signal.SIGWINCH)
    screen.until(lambda text: shows(text, much, "process", "user"))
    for load in loads.values():
        load.stop()
    screen.resize(120, 24)
    screen.process.send_signal(signal.SIGWINCH)
    text = screen.until(lambda text: shows(text, nothing) and is_as_told(shown(text)["emmc0"], status(configured)))
    check_totals(shown(text), status(configured), loads)


def is_as_told(figures: Figures, told: Status) -> bool:
    """Of a flash, which may go on by itself for a while."""
    flash = told.flashes[0]
    blocks = (flash.free_blocks, flash.blocks, flash.spare_blocks)
    figures_are_near = abs(figures["ever"] - flash.write_amplification) < 0.01
    return (figures["free"], figures["blocks"], figures["spare"]) == blocks and figures_are_near


def check_totals(figures: dict[str, Figures], told: Status, loads: dict[str, Load]) -> None:
    """What is counted since the start, or holds now, is what another client is told, and what guests have counted."""
    for volume in told.volumes:
        answers, seen = loads[volume.name].answers, figures[volume.name]
        done = {kind: sum(answers[kind, status] for status in Answer) for kind in (RequestType.IN, RequestType.OUT)}
        assert (volume.requests["read"], volume.requests["write"]) == (done[RequestType.IN], done[RequestType.OUT])
        failed = sum(count for (_, status), count in answers.items() if status != Answer.OK)
        assert volume.errors == failed == (seen["errors"] or 0)
        assert (seen["iops"], seen["read"], seen["written"], seen["wa"], seen["depth"]) == (0, 0, 0, None, 0)
        assert volume.budget is not None and volume.state == seen["state"]
        assert abs(seen["left"] - 100 * volume.budget.left / volume.budget.burst) < 1


def test_once_as_json(configured: Configured, loads: dict[str, Load], overheard: OverheardSocket) -> None:
    before = requests(status(configured))
    ended = run_top(overheard.path, "--once", "--json", "--interval", "0.3")
    after = requests(status(configured))
    assert (ended.returncode, ended.stderr) == (0, "")
    told, rates = (json.loads(ended.stdout)[key] for key in ("status", "rates"))
    earlier, later = overheard.statuses
    assert msgspec.convert(told, Status) == later
    for counts in zip(before, requests(earlier), requests(later), after, strict=True):
        assert list(counts) == sorted(counts)
    assert sum(requests(earlier)) < sum(requests(later))
    assert rates["seconds"] == later.uptime - earlier.uptime >= 0.3
    true = counted(earlier, later)
    for name, volume in rates["volumes"].items():
        names = {"iops": "iops", "read": "bytes_read", "written": "bytes_written", "wear": "programmed"}
        assert {key: volume[other] for key, other in names.items()} == {key: true[name][key] for key in names}
        assert volume["write_amplification"] == true[name]["wa"]
        for kind in ("read", "write"):
            percentiles = (volume["latency"][kind]["p50"], volume["latency"][kind]["p99"])
            assert percentiles == (true[name][f"{kind}50"], true[name][f"{kind}99"])
    assert rates["flashes"]["emmc0"]["write_amplification"] == true["emmc0"]["wa"]


def test_once_as_text(configured: Configured, loads: dict[str, Load], overheard: OverheardSocket) -> None:
    ended = run_top(overheard.path, "--once", "--interval", "0.3")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert differences(ended.stdout, *overheard.statuses) == []
