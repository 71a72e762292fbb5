"""A server that is attacked on one volume while a guest of another one is served: what holds after every attack."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from shared_emmc import SharedEmmc
from stamping_guest import PLACES, SECTORS, Bystander, stamp
from watched_server import Vitals, WatchedServer, has_direct_io, wait_until

from virtflash.driver.blk import BlkDriver
from virtflash.driver.front_end import FrontEnd
from virtflash.virtio.blk import SECTOR_BYTES

IMAGE_BYTES = 16 << 20
MEMORY_MARGIN_KIB = 3072  # by which the process may have grown: Python's own, and pages of a pool that was used
JUDGEMENT_KIB = 9216  # more, once: what judgement on a flash is passed with (numpy) is loaded after some seconds
PATIENCE_SECONDS = (
    2.0  # longest round of the bystander: a starved one takes until the attack ends, and its own deadline
)
DISK_SECONDS = 60.0  # that a disk may need which others keep busy
MEMORY = Path("/dev/shm")
VOLUMES = ("attacked", "bystander")
FIRST_STAMPS = b"".join(stamp(0, place * SECTORS) for place in range(PLACES))
PIECE_BYTES = 128 << 10  # read at once
CHECKED = 1000  # sector at which the volume is tried after an attack


def make_image(path: Path) -> Path:
    """An image with the first stamps on it, sparse behind them."""
    path.write_bytes(FIRST_STAMPS)
    os.truncate(path, IMAGE_BYTES)
    return path


class Files:
    """Two image files, served by the words of the command line; the bystander's stays out of a slow disk's way."""

    margin_kib = MEMORY_MARGIN_KIB
    answers_at_once = False

    def __init__(self, directory: Path, *, options: Sequence[str] = (), read_only: bool = False) -> None:
        if "--direct" in options and not has_direct_io(directory):
            pytest.skip(f"{directory}: its file system has no direct I/O")
        self.read_only = read_only
        self._quiet = quiet_directory(direct="--direct" in options)
        self._attacked = make_image(directory / "attacked.img")
        images = [self._attacked, make_image(Path(self._quiet.name) / "bystander.img")]
        self.process = WatchedServer(directory, images, *options, *(["--read-only"] if read_only else []))

    def content(self, _driver: BlkDriver) -> bytes:
        return self._attacked.read_bytes()

    def content_left_by(self, driver: BlkDriver) -> bytes:
        return self.content(driver)

    def close(self) -> None:
        self._quiet.cleanup()


class SharedFlash:
    """Two volumes of one eMMC, as a configuration says: their data lies in the same erase blocks."""

    margin_kib = MEMORY_MARGIN_KIB + JUDGEMENT_KIB
    answers_at_once = True  # most of the time, before the next request is looked at

    def __init__(self, _directory: Path, *, read_only: bool = False) -> None:
        self.read_only = read_only
        self._quiet = quiet_directory()
        emmc = SharedEmmc(Path(self._quiet.name), VOLUMES, IMAGE_BYTES >> 20)
        with emmc.server() as server, BlkDriver(server.sockets[1]) as driver:
            driver.write(0, FIRST_STAMPS).check()
            driver.close()
        self.process = emmc.server(read_only=read_only)

    def content(self, driver: BlkDriver) -> bytes:
        """What its guest sees."""
        return content_of(driver)

    def content_left_by(self, driver: BlkDriver) -> bytes:
        """What the next guest sees."""
        driver.kill()
        with BlkDriver(self.process.sockets[0]) as other:
            return content_of(other)

    def close(self) -> None:
        self._quiet.cleanup()


Medium = Files | SharedFlash
on_files_and_flash = pytest.mark.parametrize(
    "server",
    [Files, partial(Files, options=("--io", "threads")), SharedFlash],
    ids=["auto", "threads", "emmc"],
    indirect=True,
)


def quiet_directory(*, direct: bool = False) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() and not direct else None)


def content_of(driver: BlkDriver) -> bytes:
    pieces = range(0, IMAGE_BYTES // SECTOR_BYTES, PIECE_BYTES // SECTOR_BYTES)
    return b"".join(driver.read(sector, PIECE_BYTES).check().data for sector in pieces)


class AttackedServer:
    """The process, with a volume for attackers and one for the bystander."""

    def __init__(self, medium: Medium) -> None:
        self.medium, self.process, self.read_only = medium, medium.process, medium.read_only
        self.socket = self.process.sockets[0]
        self.bystander: Bystander | None = None
        self.baseline = Vitals(0, 0, 0)

    @contextmanager
    def running(self) -> Iterator["AttackedServer"]:
        with closing(self.medium), self.process, ExitStack() as stack:
            self.bystander = Bystander(self.process.sockets[1], read_only=self.read_only)
            stack.callback(self.bystander.close)
            for _ in range(2):  # what is made on first use is made before the first attack
                self.use_volume()
            wait_until(lambda: self.process.lines()[-1].find("front end left") >= 0, "the front end left")
            self.baseline = self.process.vitals()
            yield self

    def use_volume(self) -> None:
        """The attacked volume, by a new front end that behaves."""
        content = os.urandom(4096)
        with BlkDriver(self.socket, timeout=DISK_SECONDS) as driver:
            if not self.read_only:
                driver.write(CHECKED, content).check()
                driver.discard(CHECKED + 64, 64).check()
                assert driver.read(CHECKED, 4096).check().data == content
            driver.read(0, 4096).check()
            driver.flush().check()
            driver.close()

    def check_unharmed(self, since: int) -> None:
        """All that must hold after an attack. `since`: the first line of the log that belongs to it."""
        assert self.process.alive, f"the server died: {self.process.lines()[since:]}"
        wait_until(self._settled, lambda: f"{self.process.vitals()} where it was {self.baseline}")
        self.use_volume()
        self.check_bystander()

    def check_bystander(self) -> int:
        """How many rounds it has done since the last time, all of them well."""
        assert self.bystander is not None
        report = self.bystander.report()
        assert report.error is None
        assert report.rounds > 0
        assert report.slowest < PATIENCE_SECONDS, "the guest of the other volume had to wait"
        return report.rounds

    def _settled(self) -> bool:
        now, before = self.process.vitals(), self.baseline
        grown = now.memory_kib - before.memory_kib
        return (now.descriptors, now.threads) == (before.descriptors, before.threads) and grown < self.medium.margin_kib


class Attack:
    """One attack: the front ends that it makes, and what the server may say about it."""

    def __init__(self, server: AttackedServer) -> None:
        self.server = server
        self.socket = server.socket
        self.since = len(server.process.lines())
        self._said: list[str] = []
        self._may_say: list[str] = []
        self._stack = ExitStack()

    def driver(self, **options: Any) -> BlkDriver:
        """A driver of the attacked volume; it hangs up when the attack is over."""
        return self._stack.enter_context(BlkDriver(self.socket, **options))

    def front_end(self, **options: Any) -> FrontEnd:
        return self._stack.enter_context(FrontEnd(self.socket, **options))

    def content(self, driver: BlkDriver) -> bytes:
        """All of the attacked volume, to which `driver` is connected."""
        return self.server.medium.content(driver)

    def content_left_by(self, driver: BlkDriver) -> bytes:
        """The same, where no more requests can be made by `driver`; it may be gone afterwards."""
        return self.server.medium.content_left_by(driver)

    def says(self, pattern: str) -> None:
        """One line of warning or error must match, and only one."""
        self._said.append(pattern)

    def may_say(self, pattern: str) -> None:
        """Such lines may be there: those that are held back when they come too often."""
        self._may_say.append(pattern)

    def over(self) -> None:
        """Hang up, and see that nothing is worse than before."""
        self._stack.close()
        self.server.check_unharmed(self.since)
        self.check_log()

    def check_log(self) -> None:
        lines = self.server.process.loud_lines(self.since)
        for pattern in self._said:
            assert sum(bool(re.search(pattern, line)) for line in lines) == 1, f"{pattern!r} once in {lines}"
        known = self._said + self._may_say
        strange = [line for line in lines if not any(re.search(pattern, line) for pattern in known)]
        assert not strange, f"not expected in the log: {strange}"
