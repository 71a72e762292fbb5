"""What a flash has to be able to do for volumes to lie on it. `backing.flash_target.FlashTarget` can.

Sectors are of 512 bytes. OSError: as there.
"""

from typing import Protocol

SECTOR_BYTES = 512


class Flash(Protocol):
    @property
    def user_sectors(self) -> int: ...
    @property
    def unit_bytes(self) -> int:
        """That are old or new after a power cut, when written reliably."""

    def read(self, sector: int, sectors: int) -> bytes: ...
    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None: ...
    def change(self, kind: int, sector: int, sectors: int) -> None: ...
    def flush(self) -> None: ...
