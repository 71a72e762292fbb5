"""A guest of another volume, in a process of its own: it writes stamps, reads them back and compares, without end.

Run as a program it talks with `Bystander` by lines: one on standard input asks for a report, which comes as JSON after
some more rounds; the end of the input ends it.
"""

import json
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import FrontEndError

STAMP = struct.Struct("<QQ")  # round, sector
PLACES = 64  # where stamps lie
SECTORS = 8  # of each
PAUSE_SECONDS = 0.0005  # between two rounds, listening
REPORT_ROUNDS = 3
FLUSH_ROUNDS = 16
DISCARD_ROUNDS = 64
REPORT_SECONDS = 20.0


@dataclass
class Report:
    """Since the last report: rounds done, and the longest one in seconds. `error`: what went wrong, ever; or None."""

    rounds: int = 0
    slowest: float = 0.0
    error: str | None = None


def stamp(number: int, sector: int) -> bytes:
    return STAMP.pack(number, sector) * (SECTORS * 512 // STAMP.size)


class Guest:
    """Expects the stamps of round 0 to be there. `read_only`: it leaves them as they are."""

    def __init__(self, driver: BlkDriver, *, read_only: bool) -> None:
        self.driver = driver
        self.read_only = read_only
        self.expected = {place: stamp(0, place * SECTORS) for place in range(PLACES)}
        self.random = random.Random(1)
        self.number = 0
        self.report = Report()

    def turn(self) -> None:
        """One round, unless one went wrong before."""
        if self.report.error is not None:
            return
        begun = time.monotonic()
        try:
            self.round()
        except (FrontEndError, ValueError) as error:
            self.report.error = f"{type(error).__name__}: {error}"
        self.report.rounds += 1
        self.report.slowest = max(self.report.slowest, time.monotonic() - begun)

    def round(self) -> None:
        """One write, one read of anything written before; now and then what else a guest does."""
        self.number += 1
        if not self.read_only:
            self.write()
        place = self.random.randrange(PLACES)
        found = self.driver.read(place * SECTORS, SECTORS * 512).check().data
        if found != self.expected[place]:
            raise ValueError(f"round {self.number}: sector {place * SECTORS} holds {found[:16].hex()}")
        if self.number % FLUSH_ROUNDS == 0:
            self.driver.flush().check()

    def write(self) -> None:
        place = self.random.randrange(PLACES)
        self.expected[place] = stamp(self.number, place * SECTORS)
        self.driver.write(place * SECTORS, self.expected[place]).check()
        if self.number % DISCARD_ROUNDS == 0:
            self.driver.discard(PLACES * SECTORS, 64).check()


def questions(guest: Guest) -> Iterator[bool]:
    """Between two rounds, until the input ends: was a report asked for?"""
    while True:
        patience = PAUSE_SECONDS if guest.report.error is None else None
        asked = bool(select.select([sys.stdin], [], [], patience)[0])
        if asked and not sys.stdin.readline():
            return
        yield asked


def serve(socket: str, *, read_only: bool) -> None:
    """Until the end of the input."""
    due: int | None = None  # rounds after which a report is to be given
    with BlkDriver(socket) as driver:
        guest = Guest(driver, read_only=read_only)
        for asked in questions(guest):
            due = guest.report.rounds + REPORT_ROUNDS if asked else due
            guest.turn()
            if due is not None and (guest.report.rounds >= due or guest.report.error is not None):
                sys.stdout.write(json.dumps(asdict(guest.report)) + "\n")
                sys.stdout.flush()
                guest.report, due = Report(error=guest.report.error), None


class Bystander:
    """The other end: starts the guest, asks it how it fares. The first stamps have to be on the volume."""

    def __init__(self, socket: Path, *, read_only: bool = False) -> None:
        command = [sys.executable, str(Path(__file__)), str(socket), *(["--read-only"] if read_only else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.report()

    def report(self) -> Report:
        """After some more rounds. AssertionError: there is no answer in time."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], REPORT_SECONDS)
        assert ready, "the guest of the other volume makes no progress"
        line = self.process.stdout.readline()
        assert line, "the guest of the other volume died"
        return Report(**json.loads(line))

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(REPORT_SECONDS)
        self.process.stdout.close()


if __name__ == "__main__":
    serve(sys.argv[1], read_only="--read-only" in sys.argv)
