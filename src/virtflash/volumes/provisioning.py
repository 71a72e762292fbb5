"""A volume filled with a raw image, once, before its machine ever runs: erased, written, made safe, and read back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from virtflash.backing.flash_target import UNMAP_ZEROES
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.flash import SECTOR_BYTES
from virtflash.volumes.window import Window

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Provisioned:
    """Bytes written, and of them those of pieces that are all zeroes, which take no room."""

    written: int
    left_out: int


def provision(window: Window, image: BinaryIO, size: int, progress: Callable[[str, int], None]) -> Provisioned:
    """Write `size` bytes of `image`; what is behind them in the volume reads as zeroes. A part of a sector is filled up
    with zeroes.

    progress: called with "writing" or "verifying", and the bytes done so far. VolumeError: it does not fit, is shorter
    than it was said to be, or reads otherwise than it was written. OSError.
    """
    name, room = window.volume.name, window.volume.sectors * SECTOR_BYTES
    if size > room:
        raise VolumeError(f"volume {name} has {room} bytes, and the image has {size}; make the volume larger")
    window.change(UNMAP_ZEROES, 0, window.volume.sectors)
    left_out = 0
    for at, piece in pieces(image, size):
        if any(piece):
            window.write(at // SECTOR_BYTES, piece)
        else:
            left_out += len(piece)
        progress("writing", min(at + len(piece), size))
    window.flash.flush()
    verify(window, image, size, progress)
    return Provisioned(size, left_out)


def verify(window: Window, image: BinaryIO, size: int, progress: Callable[[str, int], None]) -> None:
    """VolumeError: a sector is not what the image has there."""
    for at, piece in pieces(image, size):
        if window.read(at // SECTOR_BYTES, len(piece) // SECTOR_BYTES) != piece:
            raise VolumeError(
                f"volume {window.volume.name} does not read as it was written, in the MiB at {at}; write it again, and"
                " look at the flash if that does not help"
            )
        progress("verifying", min(at + len(piece), size))


def pieces(image: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """From its beginning: their places in bytes, and whole sectors."""
    image.seek(0)
    for at in range(0, size, PIECE_BYTES):
        wanted = min(PIECE_BYTES, size - at)
        data = image.read(wanted)
        if len(data) != wanted:
            raise VolumeError("the image has become shorter while it was read; leave it alone, and begin again")
        yield at, data + bytes(-wanted % SECTOR_BYTES)
