"""An image to experiment on: the user's own, or a copy of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from virtflash.flash.emulated import crc32c
from virtflash.flash.image import ImageError, open_image
from virtflash.lab.errors import LabError

MEMORY_DIRECTORY = Path("/dev/shm")  # so that a disk neither slows the experiment nor is worn by it


@contextmanager
def working_copy(image: Path, *, in_place: bool = False, output: Path | None = None) -> Iterator[Path]:
    """Where to experiment: on the image itself, on a copy that stays, or on one in memory that does not.

    LabError: the image is none, is in use, or there is no room for a copy.
    """
    if in_place:
        yield image
    elif output is not None:
        yield from kept_copy(image, output)
    else:
        yield from dropped_copy(image)


def dropped_copy(image: Path) -> Iterator[Path]:
    """In a file that has no name any more, so that nothing is left of it however this process ends."""
    parent = MEMORY_DIRECTORY if os.access(MEMORY_DIRECTORY, os.W_OK) else None
    with TemporaryDirectory(prefix="virtflash-lab-", dir=parent) as directory:
        copy = Path(directory, "image")
        copy_image(image, copy)
        fd = os.open(copy, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def kept_copy(image: Path, output: Path) -> Iterator[Path]:
    """What an experiment that was broken off leaves is removed."""
    copy_image(image, output)
    try:
        yield output
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def copy_image(image: Path, copy: Path) -> None:
    """Byte for byte, holes as holes, while no server uses it. LabError."""
    try:
        source = open_image(image, crc32c, read_only=True).fd
    except ImageError as error:
        raise LabError(str(error)) from error
    try:
        refuse_without_room(source, copy)
        copy_data(source, copy)
    except FileExistsError:
        raise LabError(f"{copy}: it exists already; name another file for the copy") from None
    except OSError as error:
        raise LabError(f"{copy}: cannot be made as a copy: {error.strerror}") from None
    finally:
        os.close(source)


def refuse_without_room(source: int, copy: Path) -> None:
    free = os.statvfs(copy.parent)
    needed = os.fstat(source).st_blocks * 512
    if needed > free.f_bavail * free.f_frsize:
        raise LabError(f"{copy.parent}: {needed >> 20} MiB are needed for a copy, and not free: name a place with -o")


def copy_data(source: int, copy: Path) -> None:
    size = os.fstat(source).st_size
    target = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(target, size)
        for start, end in data_ranges(source, size):
            os.lseek(target, start, os.SEEK_SET)
            done = start
            while done < end:
                done += os.sendfile(target, source, done, end - done)
    except BaseException:
        copy.unlink()
        raise
    finally:
        os.close(target)


def data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """What is no hole. A file system that knows none says that all is data."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end
