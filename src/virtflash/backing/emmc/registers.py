"""What of an eMMC's state outlives its supply beside the data, on its own flash: EXT_CSD and write protection."""

import struct
import zlib
from typing import Protocol

from virtflash.backing.emmc.ext_csd import EXT_CSD_BYTES

UNIT_BYTES = 4096
SECTORS_OF_UNIT = UNIT_BYTES // 512
HEADER = struct.Struct("<8sIII")  # magic, version, CRC-32 of what follows, bytes that follow
MAGIC = b"VFEMMCRG"
VERSION = 1
PERMANENT, TEMPORARY = 3, 1  # kinds of protection that outlive the supply, as SEND_WRITE_PROT_TYPE tells them
GROUPS_OF_BYTE = 4


class Storage(Protocol):
    """Of sectors of the flash."""

    def read(self, sector: int, sectors: int) -> bytes: ...
    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None: ...


class RegistersError(Exception):
    """The registers on the flash are of another kind, or damaged; one line."""


class Registers:
    """`start`: their first sector."""

    def __init__(self, storage: Storage, start: int) -> None:
        self._storage, self._start = storage, start

    def load(self) -> bytes | None:
        """EXT_CSD as `ExtCsd.stored` gave it, and a byte for each boot partition; None: a device that is new."""
        unit = self._storage.read(self._start, SECTORS_OF_UNIT)
        if not any(unit):
            return None
        magic, version, checksum, length = HEADER.unpack_from(unit)
        if magic != MAGIC or version != VERSION:
            raise RegistersError(
                f"registers of another kind or version ({version}) than this program knows ({VERSION})"
            )
        content = unit[HEADER.size : HEADER.size + length]
        if length != 2 * EXT_CSD_BYTES + 2 or zlib.crc32(content) != checksum:
            raise RegistersError("the registers on the flash are damaged")
        return content

    def store(self, content: bytes) -> None:
        header = HEADER.pack(MAGIC, VERSION, zlib.crc32(content), len(content))
        self._storage.write(self._start, (header + content).ljust(UNIT_BYTES, b"\0"), reliable=True)

    def load_protection(self, groups: int) -> bytes:
        """Kinds, one byte for each group."""
        packed = self._storage.read(self._start + SECTORS_OF_UNIT, -(-groups // (GROUPS_OF_BYTE * 512)))
        return bytes(packed[group // GROUPS_OF_BYTE] >> 2 * (group % GROUPS_OF_BYTE) & 3 for group in range(groups))

    def store_protection(self, kinds: bytes, group: int) -> None:
        """`kinds`: of all groups, TEMPORARY, PERMANENT or 0. The sector with the one that has changed is written."""
        first = group // (GROUPS_OF_BYTE * 512) * GROUPS_OF_BYTE * 512
        sector = bytearray(512)
        for at, kind in enumerate(kinds[first : first + GROUPS_OF_BYTE * 512]):
            sector[at // GROUPS_OF_BYTE] |= kind << 2 * (at % GROUPS_OF_BYTE)
        where = self._start + SECTORS_OF_UNIT + first // (GROUPS_OF_BYTE * 512)
        self._storage.write(where, bytes(sector), reliable=True)
