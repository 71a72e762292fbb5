"""Data whose every unit can be checked: what it must hold follows from its number and its version.

Units that held something before are known by a checksum of it.
"""

import errno
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray

from virtflash.backing.flash_target import DISCARD, FlashTarget
from virtflash.lab.load import Units

SECTOR_BYTES = 512
NOT_WRITTEN, FOREIGN = 0, (1 << 64) - 1  # versions that are none: it reads zeroes; its checksum is known
BATCH_UNITS = 1024
READ_UNITS = 256
PIECE_UNITS = 16  # that lie one behind the other are written at once

# Odd, so that no two versions of a unit, and no two units of a version, are the same. (From splitmix64.)
UNIT_FACTOR = numpy.uint64(0x9E3779B97F4A7C15)
VERSION_FACTOR = numpy.uint64(0xBF58476D1CE4E5B9)
WORD_FACTOR = numpy.uint64(0x94D049BB133111EB)


class WriteRefusedError(Exception):
    """The device takes no more writes."""


@dataclass
class Found:
    """What a read-back found: units checked, and of these the ones that could not be read or did not read right."""

    units: int = 0
    unreadable: int = 0
    wrong: int = 0

    @property
    def good(self) -> int:
        return self.units - self.unreadable - self.wrong


class CheckedData:
    """The user's units of a device, and what each of them must read."""

    def __init__(self, target: FlashTarget) -> None:
        self._target = target
        self._unit_sectors = target.unit_bytes // SECTOR_BYTES
        self.units = target.user_sectors // self._unit_sectors
        self.written = 0  # units, so far; also the last version
        self._versions = numpy.zeros(self.units, dtype=numpy.uint64)
        self._checksums: dict[int, int | None] = {}  # None: it could not be read, whatever it was
        self._others: dict[
            int, list[int]
        ] = {}  # versions that are as good: whether the write came through is not known
        self._ramp = numpy.arange(target.unit_bytes // 8, dtype=numpy.uint64) * WORD_FACTOR

    def adopt(self) -> None:
        """Remember what the device holds already."""
        for unit in range(self.units):
            if self._target.translation.is_mapped(unit):
                data = self._read(unit, 1)
                self._versions[unit] = FOREIGN
                self._checksums[unit] = None if data is None else zlib.crc32(data)

    def holding(self) -> Units:
        """Units that hold data."""
        return numpy.flatnonzero(self._versions != NOT_WRITTEN)

    def fill(self, share: float) -> None:
        """Write what holds nothing yet, from the start of the device up to a share of it."""
        empty = numpy.flatnonzero(self._versions[: int(self.units * share)] == NOT_WRITTEN)
        self.write(empty)
        self._target.flush()

    # Doing

    def write(self, units: Units) -> None:
        """Write new versions, in order. WriteRefusedError; OSError: the host's disk is full."""
        for start in range(0, len(units), BATCH_UNITS):
            self._write_batch(units[start : start + BATCH_UNITS])

    def _write_batch(self, units: Units) -> None:
        versions = numpy.arange(self.written + 1, self.written + len(units) + 1, dtype=numpy.uint64)
        data = self._contents(units, versions)
        before = self._versions[units]
        self.written += len(units)
        self._versions[units] = versions  # of a unit that comes twice the last one counts
        for start, stop in pieces(units):
            try:
                self._target.write(int(units[start]) * self._unit_sectors, data[start:stop].data.cast("B"))
            except OSError as error:
                self._note_refused(units, versions, before, start, stop)
                if error.errno == errno.EROFS:
                    raise WriteRefusedError from error
                raise

    def _note_refused(self, units: Units, versions: NDArray[Any], before: NDArray[Any], start: int, stop: int) -> None:
        """Of the piece that failed each unit may be old or new; what lies behind it is old."""
        self._versions[units] = before
        self._versions[units[:start]] = versions[:start]
        for i in range(start, stop):
            self._others[int(units[i])] = [int(versions[i])]

    def read(self, units: Units) -> Found:
        """Read and check, as a guest would who knows what must be there."""
        found, size = Found(), self._target.unit_bytes
        for start in range(0, len(units), BATCH_UNITS):
            batch = units[start : start + BATCH_UNITS]
            expected = self._contents(batch, self._versions[batch]).tobytes()  # a memoryview compares byte by byte
            for i, unit in enumerate(batch.tolist()):
                data = self._read(unit, 1)
                if data is not None and data == expected[i * size : (i + 1) * size]:
                    found.units += 1
                else:
                    self._check(found, unit, data)
        return found

    def trim(self, units: Units) -> None:
        for start, stop in pieces(units):
            self._target.change(DISCARD, int(units[start]) * self._unit_sectors, (stop - start) * self._unit_sectors)
        self._versions[units] = NOT_WRITTEN

    def flush(self) -> None:
        self._target.flush()

    # Checking

    def read_back(self, units: Units | None = None, target: FlashTarget | None = None) -> Found:
        """Check these units, or all, on this device, or another that shows the same flash."""
        found = Found()
        wanted = numpy.arange(self.units) if units is None else units
        for start, stop in pieces(wanted, READ_UNITS):
            first, count = int(wanted[start]), stop - start
            data = self._read(first, count, target)
            expected = self._contents(wanted[start:stop], self._versions[first : first + count])
            if data is not None and data == expected.tobytes():
                found.units += count
                continue
            for unit in range(first, first + count):
                self._check(found, unit, self._read(unit, 1, target))
        return found

    def _read(self, unit: int, count: int, target: FlashTarget | None = None) -> bytes | None:
        """None: it cannot be read."""
        try:
            return (target or self._target).read(unit * self._unit_sectors, count * self._unit_sectors)
        except OSError:
            return None

    def _check(self, found: Found, unit: int, data: bytes | None) -> None:
        found.units += 1
        if data is None:
            found.unreadable += 1
        elif not any(self._is(unit, version, data) for version in self._acceptable(unit)):
            found.wrong += 1

    def _acceptable(self, unit: int) -> Iterator[int]:
        yield int(self._versions[unit])
        yield from self._others.get(unit, [])

    def _is(self, unit: int, version: int, data: bytes) -> bool:
        if version == FOREIGN:
            return self._checksums[unit] in (None, zlib.crc32(data))
        units, versions = numpy.array([unit]), numpy.array([version], dtype=numpy.uint64)
        return data == self._contents(units, versions).tobytes()

    def _contents(self, units: Units, versions: NDArray[Any]) -> NDArray[Any]:
        """A row of words for each unit; of foreign data, something that it is not."""
        start = (units.astype(numpy.uint64) * UNIT_FACTOR) ^ (versions * VERSION_FACTOR)
        rows: NDArray[Any] = start[:, None] + self._ramp
        rows[versions == NOT_WRITTEN] = 0
        return rows


def pieces(units: Units, most: int = PIECE_UNITS) -> Iterator[tuple[int, int]]:
    """Where units that lie one behind the other begin and end, in pieces of at most so many."""
    breaks = numpy.flatnonzero(numpy.diff(units) != 1) + 1
    edges = [0, *breaks.tolist(), len(units)] if len(units) else [0]
    for begin, end in itertools.pairwise(edges):
        for start in range(begin, end, most):
            yield start, min(start + most, end)
