"""A recorded trace: rows of seconds,op,sector,sectors, played in a loop.

`op` is the first letter of what blktrace and its relatives write: R or W, D for a discard, F for a flush; the others
(N: none) are skipped. Of a unit that is touched in part, all of it counts as written, as on the flash.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy

from virtflash.lab.errors import LabError
from virtflash.lab.load import BATCH_UNITS, FLUSH, Operation
from virtflash.lab.tables import read_csv, read_number

COLUMNS = ("seconds", "op", "sector", "sectors")
SECTOR_BYTES = 512
SECONDS_MOST = 1e9
Kind = Literal["write", "read", "trim", "flush"]
KINDS: dict[str, Kind] = {"R": "read", "W": "write", "D": "trim", "F": "flush"}


@dataclass(frozen=True)
class Event:
    kind: Kind
    first: int  # unit
    count: int

    def operations(self) -> Iterator[Operation]:
        if self.kind == "flush":
            yield FLUSH
        for start in range(self.first, self.first + self.count, BATCH_UNITS):
            stop = min(start + BATCH_UNITS, self.first + self.count)
            yield Operation(self.kind, numpy.arange(start, stop))


class Trace:
    """A `Workload` that was recorded. Its last row says how long it is, at least a second."""

    def __init__(self, path: Path, units: int, unit_bytes: int, filled: float) -> None:
        self.filled = filled
        self._units, self._unit_sectors = units, unit_bytes // SECTOR_BYTES
        self._times: list[float] = []
        self._events: list[Event] = []
        for where, row in read_csv(path, COLUMNS):
            self._add(where, *row)
        if not self._events:
            raise LabError(f"{path}: no rows of {','.join(COLUMNS)} in it")
        self.seconds = max(self._times[-1], 1.0)

    def _add(self, where: str, seconds: str, op: str, sector: str, sectors: str) -> None:
        time = read_number(where, "seconds", seconds, 0, SECONDS_MOST)
        if self._times and time < self._times[-1]:
            raise LabError(f"{where}: {seconds} seconds come before those of the row above: sort them")
        kind = KINDS.get(op[:1].upper())
        if kind is not None:
            self._times.append(time)
            self._events.append(self._event(where, kind, sector, sectors))

    def _event(self, where: str, kind: Kind, sector: str, sectors: str) -> Event:
        if kind == "flush":
            return Event(kind, 0, 0)
        most = self._units * self._unit_sectors
        first = int(read_number(where, "sector", sector, 0, most))
        end = first + int(read_number(where, "sectors", sectors, 1, most))
        if end > most:
            raise LabError(f"{where}: {sectors} sectors at {first}: the device has {most}")
        if kind == "trim":  # a unit of which a part is discarded stays as it is
            start, stop = -(-first // self._unit_sectors), end // self._unit_sectors
            return Event(kind, start, max(stop - start, 0))
        start, stop = first // self._unit_sectors, -(-end // self._unit_sectors)
        return Event(kind, start, stop - start)

    def operations(self, begin: float, end: float) -> Iterator[Operation]:
        lap = max(int(begin // self.seconds) - 1, 0)  # its last row comes when the next lap begins
        while lap * self.seconds < end:
            start = bisect_left(self._times, begin - lap * self.seconds)
            stop = bisect_left(self._times, end - lap * self.seconds)
            for event in self._events[start:stop]:
                yield from event.operations()
            lap += 1
