"""Python's view of an emulated chip. Compiled code uses its `chip` (`chip.pxd`, `emulated.pxd`).

One thread at a time: whoever has given the chip to a data plane calls nothing here until that has stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias

import numpy

from virtflash.flash.image import Superblock
from virtflash.flash.profile_sections import Profile

# How an operation ended: FLASH_* of chip.pxd.
OK: int
ERASED: int  # of a read: nothing is programmed there, all bytes are 0xff
UNCORRECTABLE: int
FAILED: int
POWER_LOST: int
NO_ROOM: int
MISUSE: int

RANDOM_CUT: int  # what a power cut leaves is drawn, by the chances of the profile
RECORD_SIZES: dict[str, int]  # bytes, as compiled

Bytes: TypeAlias = bytes | bytearray | memoryview
Counters: TypeAlias = dict[str, int | float]

def crc32c(data: Bytes) -> int: ...
def crc32c_without_instruction(data: Bytes) -> int:
    """The same on machines that lack the instruction; for tests."""

class EmulatedFlash:
    """A chip in an image. Use it as a context manager, or close it."""

    @classmethod
    def in_memory(
        cls,
        *,
        profile: str | Path | Profile | None = None,
        pair_table: Sequence[int | None] | None = None,
        factory_bad_share: float | None = None,
        timing: Literal["real"] | None = None,
        host_sync: bool = False,
        track_sync: bool = False,
        **figures: Any,
    ) -> EmulatedFlash:
        """A chip whose image is in memory only.

        profile: part, physics and geometry; None: flash without errors. pair_table: by page, the earlier page that its
        program endangers, or None or 65535. timing: "real" makes operations tell when the real part would be done.
        host_sync: pages carry checksums. track_sync: `host_crash` can be called. figures: fields of `image.Superblock`
        that differ from the profile's: kind ("nand", "nor"), page_bytes, spare_bytes, pages_per_block, blocks,
        slc_page_bytes, slc_pages_per_block, bits_per_cell, endurance, slc_endurance, dies, seed, capacity_bytes,
        unit_bytes.

        ImageError: no chip can be so. ProfileError.
        """

    @classmethod
    def create(
        cls,
        path: str | Path,
        profile: str | Path | Profile,
        *,
        capacity_bytes: int | None = None,
        over_provisioning: float | None = None,
        blocks: int | None = None,
        unit_bytes: int = 4096,
        seed: int | None = None,
        host_sync: bool = True,
        timing: Literal["real"] | None = None,
        factory_bad_share: float | None = None,
    ) -> EmulatedFlash:
        """A new image in a new file, sparse; open and locked.

        capacity_bytes: what a translation layer is to export. over_provisioning: percent; None: the profile's. blocks:
        instead of as many as the capacity takes. seed: of all that is random; None: another one each time.

        ImageError: the file exists or cannot be made, its disk is full or cannot reserve room, the capacity does not
        fit. ProfileError.
        """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        read_only: bool = False,
        host_sync: bool = True,
        timing: Literal["real"] | None = None,
        cut: int = ...,
    ) -> EmulatedFlash:
        """Open and lock an image. After a process that was killed, its last operation is cut as `arm_cut` would.

        read_only: the file is not changed; reads go on, everything else answers NO_ROOM. host_sync: pages that are
        programmed carry checksums, so that a crash of the host is seen in those it has hurt.

        ImageError: it is no image, damaged, truncated, too new, used by another server, or not to be had.
        """
    superblock: Superblock
    profile_text: str  # empty: flash without errors
    crashed: str  # how the use before ended: "no", "process" (it was killed), "host" (it was not synced in time)

    @property
    def fd(self) -> int:
        """Of the image, to be synced with fdatasync; -1 when closed."""
    @property
    def kind(self) -> str:
        """ "nand" or "nor"."""
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def unit_bytes(self) -> int: ...
    @property
    def operations(self) -> int:
        """Programs and erases begun since it was opened."""
    @property
    def lost_power(self) -> bool: ...
    @property
    def cut_outcomes(self) -> int:
        """Below this, each `how` of `arm_cut` means something of its own."""

    def close(self) -> None:
        """Let go of the image, in order; with `host_sync`, once it is on the disk. OSError: it cannot be synced."""
    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def read(self, block: int, page: int, offset: int = 0, length: int | None = None) -> tuple[int, bytes, bytes]:
        """Status, data (by default to the end of the page) and spare bytes."""
    def read_fully(
        self, block: int, page: int, offset: int = 0, length: int | None = None
    ) -> tuple[int, bytes, bytes, int, int, int]:
        """As `read`, and: corrected bits, percent of the ECC's strength used, when it is done (ns, monotonic)."""
    def program(self, block: int, page: int, data: Bytes, spare: Bytes | None = None, offset: int = 0) -> int: ...
    def program_fully(
        self, block: int, page: int, data: Bytes, spare: Bytes | None = None, offset: int = 0
    ) -> tuple[int, int]:
        """Status, and when it is done (ns, monotonic)."""
    def erase(self, block: int, *, slc: bool = False, physical: bool = False) -> int: ...
    def is_bad(self, block: int) -> bool: ...
    def mark_bad(self, block: int) -> int: ...
    def purge(self, first: int = 0, count: int = 0) -> int:
        """Wipe from the image what was erased, and all of bad blocks; `count` 0: of every block from `first` on."""
    def give_back(self, first: int = 0, count: int | None = None) -> int:
        """Give the room of blocks that are erased and unused back to the host. Blocks that had some."""
    def page_bytes(self, block: int) -> int:
        """Of a page of this block, in the mode that it is in. IndexError."""
    def advance(self, seconds: float, celsius: float | None = None) -> None:
        """Let the device live so long, at a temperature that it keeps. ValueError: closed."""
    def arm_cut(self, after: int, how: int = ...) -> None:
        """Let power go in the `after`-th program or erase from now (1: the next one).

        how, of a program, modulo 5: 0 not begun, 1 torn, 2 reads right or not at all by turns, 3 reads erased or not at
        all by turns, 4 complete; from 5 to 9 the same, and the page that it endangers is lost. Of an erase, modulo 4: 0
        not begun, 1 each page old, unreadable or erased, 2 looks erased and holds nothing, 3 complete. RANDOM_CUT.
        """
    def power_on(self) -> None:
        """Power is back; a cut that was not reached is called off."""
    def fail_next(self, kind: Literal["program", "erase"], number: int = 1) -> None:
        """The `number`-th such operation from now fails, and breaks its block."""
    def keep_no_data(self) -> None:
        """For measurements on devices larger than memory: data in pages that are not in SLC mode is not kept from now
        on, and reads as zeroes. Their records, and metadata in SLC mode, are."""
    def spoil(self, block: int, page: int, *, unstable: bool = False) -> None:
        """Make a programmed page uncorrectable, or unstable. ValueError: it is not programmed; closed. IndexError."""
    def sync(self) -> None:
        """What was programmed is on the host's disk."""
    def host_crash(self, seed: int) -> None:
        """The host has crashed and is up again: what was written since `sync` is there or not, page by page.

        ValueError: not made with `track_sync`.
        """
    def counters(self) -> Counters:
        """Operations since the image was made, bits corrected, failures, hours lived, and so on."""
    def block_table(self) -> numpy.ndarray[Any, Any]:
        """A copy, by block: cycles, slc_cycles, reads (since its erase), next_page, factor, failures, erased_hours, and
        slc, bad, factory_bad, broken, erase_cut, weak, not_wiped."""
