"""The table of volumes: what it says, and its bytes.

All numbers are little-endian; what is reserved is 0 when written and ignored when read. A table is a header of 96 bytes
and an entry for each volume, one behind the other, sorted by nothing. docs/volumes.md has the reasons.

Header:

| offset | type | field |
|---|---|---|
| 0 | 8 bytes | magic: `76 66 76 6f 6c 73 0d 0a` ("vfvols", carriage return, line feed) |
| 8 | u32 | version: 1 |
| 12 | u32 | checksum: CRC-32 (IEEE 802.3, as zlib) of all bytes of the table, with this field 0 |
| 16 | u32 | bytes of the table, the header included |
| 20 | u32 | volumes, at most 127 |
| 24 | u64 | generation: one more with each change |
| 32 | 16 bytes | identity of the flash |
| 48 | u64 | sectors of the flash's user area |
| 56 | u32 | sectors of a granule |
| 60 | u32 | reserved |
| 64 | u64 | features; 0 |
| 72 | 24 bytes | reserved |

Entry:

| offset | type | field |
|---|---|---|
| 0 | 16 bytes | identity of the volume (UUID, in network order) |
| 16 | u64 | sectors of the volume, as asked for; at least 1 |
| 24 | u32 | flags: bit 0 read-only, bit 1 to be erased securely when deleted; others 0 |
| 28 | u8 | state: 1 live, 2 being erased |
| 29 | u8 | bytes of the name, 1 to 63 |
| 30 | u16 | extents, 1 to 64 |
| 32 | 64 bytes | name, ASCII |
| 96 | 8 bytes each | extents: u32 first granule, u32 granules |

The first 24 bytes are the same in every version, and what the checksum covers, so that a newer table is told from one
that is damaged.
A table is refused that says what is never written: see `contradiction`.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from uuid import UUID

from virtflash.volumes.errors import DamagedTableError, ForeignTableError, NoTableError, TamperedTableError
from virtflash.volumes.extents import EXTENTS_MOST, Extent, Extents, granules_in, misplaced

MAGIC = b"vfvols\r\n"  # a transfer that takes it for text damages it visibly
VERSION = 1
HEADER = struct.Struct("<8sIIIIQ16sQIIQ24x")
ENTRY = struct.Struct("<16sQIBBH64s")
EXTENT = struct.Struct("<II")
CHECKSUM_OFFSET = 12
VOLUMES_MOST = 127  # as many as the flash tells apart, which counts what is programmed for each
TABLE_BYTES_MOST = HEADER.size + VOLUMES_MOST * (ENTRY.size + EXTENTS_MOST * EXTENT.size)
COPIES = 2  # each in a granule of its own, the last ones of the user area
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.ASCII)


class State(IntEnum):
    LIVE = 1
    ERASING = 2  # deleted: what it held goes, and then its entry


class Flags(IntFlag):
    READ_ONLY = 1
    SECURE_DELETE = 2


NO_FLAGS = Flags(0)


@dataclass(frozen=True, kw_only=True)
class Volume:
    """`sectors`: of 512 bytes, that it shows; its extents are as much, rounded up to granules."""

    name: str
    uuid: UUID
    sectors: int
    extents: Extents
    flags: Flags = NO_FLAGS
    state: State = State.LIVE

    @property
    def read_only(self) -> bool:
        return Flags.READ_ONLY in self.flags

    @property
    def secure_delete(self) -> bool:
        return Flags.SECURE_DELETE in self.flags


@dataclass(frozen=True, kw_only=True)
class Table:
    """`identity`: 16 bytes, of the flash. `capacity_sectors`: of its user area. Volumes in the order they were made."""

    identity: bytes
    capacity_sectors: int
    granule_sectors: int
    generation: int = 1
    volumes: tuple[Volume, ...] = ()

    @property
    def granules(self) -> int:
        """That volumes are made of: all but those of the table."""
        return self.capacity_sectors // self.granule_sectors - COPIES

    @property
    def taken(self) -> Iterator[Extent]:
        return (extent for volume in self.volumes for extent in volume.extents)


def granules_for(sectors: int, granule_sectors: int) -> int:
    return -(-sectors // granule_sectors)


def contradiction(table: Table) -> str:
    """What no table says that this program has written; empty: nothing."""
    if table.granule_sectors < 1 or table.granules < 1:
        return f"granules of {table.granule_sectors} sectors on a flash of {table.capacity_sectors}"
    if len(table.volumes) > VOLUMES_MOST:
        return f"{len(table.volumes)} volumes"
    for volume in table.volumes:
        if problem := wrong_with(volume, table.granule_sectors):
            return problem
    for what, of_each in (
        ("name", [volume.name for volume in table.volumes]),
        ("uuid", [str(volume.uuid) for volume in table.volumes]),
    ):
        if twice := next((one for one in of_each if of_each.count(one) > 1), None):
            return f"two volumes have the {what} {twice}"
    return misplaced(table.taken, table.granules)


def wrong_with(volume: Volume, granule_sectors: int) -> str:
    if not NAME.fullmatch(volume.name):
        return f"a volume is named {volume.name!r}"
    if not 1 <= len(volume.extents) <= EXTENTS_MOST:
        return f"volume {volume.name} has {len(volume.extents)} extents"
    needed, has = granules_for(volume.sectors, granule_sectors), granules_in(volume.extents)
    if volume.sectors < 1 or needed != has:
        return f"volume {volume.name} of {volume.sectors} sectors has {has} granules, not {needed}"
    return ""


def table_bytes(table: Table) -> int:
    return HEADER.size + sum(ENTRY.size + EXTENT.size * len(volume.extents) for volume in table.volumes)


def serialised(table: Table) -> bytes:
    """ValueError: it contradicts itself, and would be refused when it is read."""
    if problem := contradiction(table):
        raise ValueError(problem)
    data = packed(table, checksum=0)
    return packed(table, checksum=zlib.crc32(data))


def packed(table: Table, *, checksum: int) -> bytes:
    header = HEADER.pack(
        MAGIC,
        VERSION,
        checksum,
        table_bytes(table),
        len(table.volumes),
        table.generation,
        table.identity,
        table.capacity_sectors,
        table.granule_sectors,
        0,
        0,
    )
    return header + b"".join(packed_entry(volume) for volume in table.volumes)


def packed_entry(volume: Volume) -> bytes:
    name, extents = volume.name.encode("ascii"), volume.extents
    entry = ENTRY.pack(volume.uuid.bytes, volume.sectors, volume.flags, volume.state, len(name), len(extents), name)
    return entry + b"".join(EXTENT.pack(extent.first, extent.count) for extent in extents)


def length_told(start: bytes) -> int:
    """Bytes of the table that begins so; `start` has at least those of a header. NoTableError."""
    if not start.startswith(MAGIC):
        raise NoTableError("there is no table of volumes")
    return int(HEADER.unpack_from(start)[3])


def parsed(data: bytes) -> Table:
    """A table, with anything behind it.

    NoTableError; DamagedTableError: its checksum is another; ForeignTableError: a newer program has written it;
    TamperedTableError: its checksum is right, and what it says cannot be.
    """
    length = length_told(data)
    if not HEADER.size <= length <= min(len(data), TABLE_BYTES_MOST):
        raise DamagedTableError(f"it is {length} bytes long")
    _, version, checksum, _, count, generation, identity, capacity, granule, _, features = HEADER.unpack_from(data)
    whole = bytearray(data[:length])
    whole[CHECKSUM_OFFSET : CHECKSUM_OFFSET + 4] = bytes(4)
    if zlib.crc32(whole) != checksum:
        raise DamagedTableError("its checksum is wrong")
    if version != VERSION or features:
        raise ForeignTableError(
            f"the table of volumes is of version {version}, features {features:#x}; this program knows version"
            f" {VERSION} and no features: use the one that wrote it"
        )
    table = Table(
        identity=identity,
        capacity_sectors=capacity,
        granule_sectors=granule,
        generation=generation,
        volumes=tuple(parsed_entries(bytes(whole), count)),
    )
    if problem := contradiction(table):
        raise tampered(problem)
    return table


def tampered(problem: str) -> TamperedTableError:
    return TamperedTableError(
        f"the table of volumes has been tampered with: {problem}; restore the flash, or format it, which"
        " loses all volumes"
    )


def parsed_entries(table: bytes, count: int) -> Iterator[Volume]:
    at = HEADER.size
    try:
        for _ in range(count):
            volume, at = parsed_entry(table, at)
            yield volume
    except (struct.error, ValueError) as error:
        raise tampered(f"entry at byte {at}: {error}") from None
    if at != len(table):
        raise tampered(f"{len(table) - at} bytes follow the last entry")


def parsed_entry(table: bytes, at: int) -> tuple[Volume, int]:
    """One entry, and where the next one begins. struct.error, ValueError: it is none."""
    uuid, sectors, flags, state, name_bytes, count, name = ENTRY.unpack_from(table, at)
    end = at + ENTRY.size + count * EXTENT.size
    if end > len(table):
        raise ValueError(f"{count} extents are beyond the end")
    if flags & ~sum(Flags):
        raise ValueError(f"flags {flags:#x}")
    extents = tuple(Extent(*two) for two in EXTENT.iter_unpack(table[at + ENTRY.size : end]))
    volume = Volume(
        name=name[:name_bytes].decode("ascii"),
        uuid=UUID(bytes=uuid),
        sectors=sectors,
        extents=extents,
        flags=Flags(flags),
        state=State(state),
    )
    return volume, end
