"""What every backing tells of itself."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from virtflash.backing.emulated_flash import EmulatedStorage


class ServedTarget(Protocol):
    """Storage that this process emulates, as the data plane calls it."""

    @property
    def capsule(self) -> object:
        """A PyCapsule called "virtflash.backing.Target"."""


SECTOR_BYTES = 512


class BackingError(Exception):
    """What was named cannot be served; one line that says which, why, and what to do."""


@dataclass
class Backing:
    """An open backing and what it can. It owns its descriptors.

    `fd` is -1 where nothing is kept, or `flash` keeps it. `fd_unaligned` takes what `fd` (O_DIRECT) cannot. A limit
    of 0 sectors: cannot.
    """

    description: str
    fd: int
    capacity_sectors: int
    read_only: bool = False
    fd_unaligned: int = -1
    block_device: bool = False
    in_memory: bool = False  # a file on tmpfs or ramfs, which no device stands behind
    direct: bool = False
    logical_block_bytes: int = SECTOR_BYTES
    physical_block_bytes: int = SECTOR_BYTES
    optimal_io_bytes: int = 0
    memory_alignment: int = 1  # bytes, of the buffers that `fd` takes
    offset_alignment: int = 1  # bytes
    max_discard_sectors: int = 0
    discard_alignment_sectors: int = 1
    max_write_zeroes_sectors: int = 0
    zero_range: bool = False  # zeroes can be written without sending them
    unmap_zeroes: bool = False  # writing zeroes may give the space back
    max_secure_erase_sectors: int = 0
    secure_erase_alignment_sectors: int = 1
    life_time_fd: int = -1  # of the kernel's attributes of an eMMC; -1: there are none that mean anything
    pre_eol_fd: int = -1
    lifetime: bool = False  # is it told by the target?
    target: "ServedTarget | None" = field(default=None, repr=False)  # called instead of `fd`
    flash: "EmulatedStorage | None" = field(default=None, repr=False)  # emulated here, and closed with this
    measure: Callable[[], int] | None = field(default=None, repr=False)  # size in bytes, now

    def current_capacity(self) -> int:
        """Sectors, looked at again: what lies below may have grown."""
        return self.capacity_sectors if self.measure is None else self.measure() // SECTOR_BYTES

    def close(self) -> None:
        """OSError: what was written could not be kept; everything is closed all the same."""
        if self.flash is not None:
            self.flash.close()
        for fd in (self.fd, self.fd_unaligned, self.life_time_fd, self.pre_eol_fd):
            if fd >= 0:
                os.close(fd)
