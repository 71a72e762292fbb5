"""What volumes have spent of their wear budgets, as it stands on the flash.

One unit, which a power cut leaves old or new; two of them, written in turn, at the ends of the table's granules. All
numbers are little-endian, what is reserved is 0.

| offset | type | field |
|---|---|---|
| 0 | 8 bytes | magic: `76 66 73 70 6e 74 0d 0a` ("vfspnt", carriage return, line feed) |
| 8 | u32 | version: 1 |
| 12 | u32 | checksum: CRC-32 (IEEE 802.3) of the whole, with this field 0 |
| 16 | u64 | generation: one more with each |
| 24 | u32 | entries, at most 127 |
| 28 | u32 | reserved |
| 32 | 32 bytes each | entries: volume (UUID, 16 bytes), u64 bytes owed, i64 the time of that (nanoseconds since 1970) |

*Owed* is what was programmed and not paid for by time yet, at that time, by the wall clock. It may be more than was
truly spent, by the step from one record to the next; it is less by one request at most.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from errno import EIO, ENODATA
from uuid import UUID

from virtflash.volumes.errors import VolumeError
from virtflash.volumes.flash import SECTOR_BYTES, Flash
from virtflash.volumes.table import COPIES

MAGIC = b"vfspnt\r\n"
VERSION = 1
HEADER = struct.Struct("<8sIIQI4x")
ENTRY = struct.Struct("<16sQq")
CHECKSUM = slice(12, 16)
RECORD_BYTES = 4096
GRANULE_LEAST = 65536  # bytes: in smaller ones only a table has room
ENTRIES_MOST = (RECORD_BYTES - HEADER.size) // ENTRY.size


@dataclass(frozen=True)
class Owed:
    """Bytes of flash, at a time in nanoseconds since 1970."""

    amount: int
    at_ns: int

    def left_of_it(self, rate: float, now_ns: int) -> float:
        """Bytes still owed now, at so many a second paid. A clock that went back pays nothing."""
        return max(self.amount - rate * max(now_ns - self.at_ns, 0) / 1e9, 0)


@dataclass(frozen=True)
class WearRecord:
    generation: int = 0
    owed: Mapping[UUID, Owed] = field(default_factory=dict)


def serialised(record: WearRecord) -> bytes:
    """ValueError: too many entries."""
    if len(record.owed) > ENTRIES_MOST:
        raise ValueError(f"{len(record.owed)} budgets; a record has room for {ENTRIES_MOST}")
    entries = b"".join(ENTRY.pack(uuid.bytes, owed.amount, owed.at_ns) for uuid, owed in record.owed.items())
    data = bytearray(HEADER.pack(MAGIC, VERSION, 0, record.generation, len(record.owed)) + entries)
    data += bytes(RECORD_BYTES - len(data))
    data[CHECKSUM] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


def parsed(data: bytes) -> WearRecord | None:
    """None: it is no record, or a damaged one."""
    magic, version, checksum, generation, count = HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION) or count > ENTRIES_MOST:
        return None
    blank = bytearray(data)
    blank[CHECKSUM] = bytes(4)
    if zlib.crc32(blank) != checksum:
        return None
    entries = (ENTRY.unpack_from(data, HEADER.size + number * ENTRY.size) for number in range(count))
    return WearRecord(generation, {UUID(bytes=uuid): Owed(amount, at) for uuid, amount, at in entries})


def record_room(granule_sectors: int) -> int:
    """Bytes that a granule of the table keeps for it; 0: it is too small."""
    return RECORD_BYTES if granule_sectors * SECTOR_BYTES >= GRANULE_LEAST else 0


class WearRecords:
    """Of a flash, in the last bytes of the granules in which the copies of its table lie. VolumeError: those are too
    small."""

    def __init__(self, flash: Flash, granule_sectors: int) -> None:
        if not record_room(granule_sectors):
            raise VolumeError(
                f"granules of {granule_sectors} sectors have no room for what is spent of wear budgets; a part needs"
                f" erase groups of {GRANULE_LEAST >> 10} KiB at least"
            )
        self._flash, self._granule_sectors = flash, granule_sectors

    def position(self, place: int) -> int:
        """Its first sector. `place`: 0 or 1."""
        end = self._flash.user_sectors // self._granule_sectors - COPIES + place + 1
        return end * self._granule_sectors - RECORD_BYTES // SECTOR_BYTES

    def newest(self) -> WearRecord:
        """An empty one, if there is none. OSError."""
        found = [record for place in range(COPIES) if (record := self._read(place)) is not None]
        return max(found, key=lambda record: record.generation, default=WearRecord())

    def _read(self, place: int) -> WearRecord | None:
        try:
            return parsed(self._flash.read(self.position(place), RECORD_BYTES // SECTOR_BYTES))
        except OSError as error:
            if error.errno not in (EIO, ENODATA):
                raise
            return None

    def write(self, record: WearRecord) -> None:
        """In the place of the older one; it survives a power cut once this has returned. OSError, ValueError."""
        self._flash.write(self.position(record.generation % COPIES), serialised(record), reliable=True)
