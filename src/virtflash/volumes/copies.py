"""The table's two copies on the flash: finding the newest, making both alike, writing a new one.

**Both copies are written at each change**, one after the other, and not only the older one. With one copy of each
generation, damage to the newer would bring the older back into force: a volume that was made since would be gone, its
granules free, and what its owner had written there would lie in wait for the next owner. So a table is in force when
both copies have it; a single one is what a power cut leaves, before anything that the new table allows was done, and it
is made up for before anything is done again. Either copy may then be damaged at any time, and nothing is lost.
"""

from collections.abc import Sequence
from errno import EIO, ENODATA

from virtflash.volumes.errors import DamagedTableError, ForeignTableError, NoTableError, TableError, TamperedTableError
from virtflash.volumes.flash import SECTOR_BYTES, Flash
from virtflash.volumes.table import COPIES, HEADER, Table, length_told, parsed, serialised, tampered

GRANULE_BYTES_PROBED = [1 << shift for shift in range(9, 31)]


class Copies:
    """`granule_sectors`: in the last two of these granules the copies lie."""

    def __init__(self, flash: Flash, granule_sectors: int) -> None:
        self.flash, self.granule_sectors = flash, granule_sectors

    def position(self, copy: int) -> int:
        """Its first sector. `copy`: 0 or 1."""
        return (self.flash.user_sectors // self.granule_sectors - COPIES + copy) * self.granule_sectors

    def read(self, copy: int) -> Table | TableError:
        """What one copy says, or what is wrong with it."""
        start, unit = self.position(copy), self.flash.unit_bytes // SECTOR_BYTES
        try:
            data = self.flash.read(start, max(unit, -(-HEADER.size // SECTOR_BYTES)))
            length = -(-length_told(data) // SECTOR_BYTES)
            if length > self.granule_sectors:
                return DamagedTableError("it is longer than its granule")
            return parsed(self.flash.read(start, length) if length * SECTOR_BYTES > len(data) else data)
        except TableError as error:
            return error
        except OSError as error:
            if error.errno not in (EIO, ENODATA):
                raise
            return DamagedTableError("it cannot be read")

    def newest(self) -> Table:
        """TableError: none is to be trusted."""
        return newest([self.read(copy) for copy in range(COPIES)])

    def repair(self, table: Table) -> bool:
        """Write the copies that say something else. False: there was none. OSError: one cannot be written."""
        wrong = [copy for copy in range(COPIES) if self.read(copy) != table]
        for copy in wrong:
            self._write(copy, table)
        return bool(wrong)

    def write(self, table: Table) -> None:
        """Both, each once the one before is safe. OSError: the old table may be in force, or the new one."""
        for copy in range(COPIES):
            self._write(copy, table)

    def _write(self, copy: int, table: Table) -> None:
        """In whole units, which are old or new after a cut: an empty table, of one unit, is never half written."""
        data = serialised(table)
        data += bytes(-len(data) % self.flash.unit_bytes)
        self.flash.write(self.position(copy), data, reliable=True)
        self.flash.flush()
        if self.flash.read(self.position(copy), len(data) // SECTOR_BYTES) != data:
            raise OSError(EIO, "the table of volumes does not read as it was written")


def newest(copies: Sequence[Table | TableError]) -> Table:
    """The one in force. TableError: both are damaged, or there is none; or one is whole, and not to be trusted."""
    for copy in copies:
        if isinstance(copy, ForeignTableError | TamperedTableError):
            raise copy
    tables = [copy for copy in copies if isinstance(copy, Table)]
    if not tables:
        if all(isinstance(copy, NoTableError) for copy in copies):
            raise NoTableError("there is no table of volumes")
        wrong = "; ".join(f"copy {number}: {copy}" for number, copy in enumerate(copies))
        raise DamagedTableError(
            f"both copies of the table of volumes are damaged ({wrong}); restore the flash, or format it, which"
            " loses all volumes"
        )
    if any(table.generation == tables[0].generation and table != tables[0] for table in tables):
        raise tampered(f"its copies of generation {tables[0].generation} differ")
    return max(tables, key=lambda table: table.generation)


def granule_found(flash: Flash) -> int:
    """Bytes of the granules that a table on this flash was made with, which is not in its place; 0: there is none."""
    for granule_bytes in GRANULE_BYTES_PROBED:
        sectors = granule_bytes // SECTOR_BYTES
        if granule_bytes % flash.unit_bytes or flash.user_sectors // sectors <= COPIES:
            continue
        copies = Copies(flash, sectors)
        for copy in range(COPIES):
            found = copies.read(copy)
            if isinstance(found, Table) and found.granule_sectors == sectors:
                return granule_bytes
    return 0
