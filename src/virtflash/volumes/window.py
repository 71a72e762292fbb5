"""A volume's sectors, as whoever serves or fills it from Python sees them: nothing of what lies beside them."""

from collections.abc import Iterator

from virtflash.volumes.errors import VolumeError
from virtflash.volumes.extents import pieces
from virtflash.volumes.flash import SECTOR_BYTES, Flash
from virtflash.volumes.table import Volume


class Window:
    """Sectors of 512 bytes, from 0 to what the volume has. It shows the volume as it was when the window was made:
    after it has grown one makes another; once it is deleted, nobody may use it any more.

    VolumeError: a range is not within the volume. OSError: as of the flash.
    """

    def __init__(self, flash: Flash, volume: Volume, granule_sectors: int) -> None:
        self.flash, self.volume, self.granule_sectors = flash, volume, granule_sectors

    def pieces(self, sector: int, sectors: int) -> Iterator[tuple[int, int]]:
        """Where on the flash a range lies: first sector there and their number, in order."""
        if min(sector, sectors) < 0 or sector + sectors > self.volume.sectors:
            raise VolumeError(
                f"volume {self.volume.name}: {sectors} sectors at {sector}: it has {self.volume.sectors}; write less"
            )
        return pieces(self.volume.extents, self.granule_sectors, sector, sectors)

    def read(self, sector: int, sectors: int) -> bytes:
        return b"".join(self.flash.read(at, count) for at, count in self.pieces(sector, sectors))

    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None:
        """A read-only volume too: what is in it was written so. ValueError: no whole sectors."""
        if len(data) % SECTOR_BYTES:
            raise ValueError(f"{len(data)} bytes are no whole number of sectors")
        done = 0
        for at, count in self.pieces(sector, len(data) // SECTOR_BYTES):
            self.flash.write(at, data[done : done + count * SECTOR_BYTES], reliable=reliable)
            done += count * SECTOR_BYTES

    def change(self, kind: int, sector: int, sectors: int) -> None:
        """As `FlashTarget.change`."""
        for at, count in self.pieces(sector, sectors):
            self.flash.change(kind, at, count)


def pieces_of(volume: Volume, granule_sectors: int) -> list[tuple[int, int]]:
    """Where on the flash all of a volume lies: first sector there and their number, in order."""
    return list(pieces(volume.extents, granule_sectors, 0, volume.sectors))
