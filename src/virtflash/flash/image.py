"""An image file as a whole: its superblock, how its parts lie, making, opening, locking and refusing it.

Specified in docs/image-format.md. What changes while an image is used is in `image.pxd`.
"""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtflash.file_lock import lock_file

MAGIC = b"vflash\r\n"  # a transfer that takes it for text damages it visibly
VERSION = 1
SUPERBLOCK_BYTES = 4096
SUPERBLOCK = struct.Struct("<8sII16sQQQIIBBHIIIIIIIIIIIQQQQQQ")
CHECKSUM_OFFSET = 12
STATE_BYTES = 4096
BLOCK_RECORD_BYTES = 64
PAGE_HEADER_BYTES = 32
HOST_PAGE_BYTES = 4096
DATA_ALIGNMENT = 2 << 20  # of huge pages
KINDS = ("nand", "nor")  # by FLASH_NAND, FLASH_NOR
NOWHERE = 0xFFFF
PROFILE_BYTES_MAX = 65536
SPARE_BYTES_MAX = 480  # with its header a page record must not straddle a disk's sector
NOR_PAGE_BYTES_MAX = 2048
IMAGE_BYTES_MAX = 1 << 46
BLOCKS_MAX = 1 << 24  # some memory is taken for each, however little of a sparse file there is
UNIT_BYTES_MAX = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ImageError(Exception):
    """An image that cannot be made or used; one line that says which, what is wrong, and what to do."""


def rounded_up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple


@dataclass(frozen=True, kw_only=True)
class Superblock:
    """What an image is. Bytes, unless the name says otherwise; offsets are from the start of the file."""

    uuid: bytes
    kind: str  # "nand" or "nor"
    capacity_bytes: int  # that a translation layer exports; 0: not said
    unit_bytes: int  # of its mapping
    over_provisioning_milli: int  # thousandths of a percent
    seed: int
    bits_per_cell: int
    page_bytes: int
    spare_bytes: int
    pages_per_block: int
    blocks: int
    slc_page_bytes: int
    slc_pages_per_block: int
    endurance: int  # rated cycles
    slc_endurance: int
    dies: int
    profile_bytes: int
    pairs: int  # entries of the pairing table: 0, or pages_per_block

    @property
    def record_bytes(self) -> int:
        """Of a page record: a power of two, so that none straddles a page or a sector of the host."""
        return max(64, 1 << (PAGE_HEADER_BYTES + self.spare_bytes - 1).bit_length())

    @property
    def record_pages(self) -> int:
        """Page records of a block."""
        return max(self.pages_per_block, self.slc_pages_per_block)

    @property
    def block_bytes(self) -> int:
        """From one block's data to the next one's."""
        return max(self.pages_per_block * self.page_bytes, self.slc_pages_per_block * self.slc_page_bytes)

    @property
    def profile_offset(self) -> int:
        return SUPERBLOCK_BYTES + STATE_BYTES

    @property
    def pairs_offset(self) -> int:
        return rounded_up(self.profile_offset + self.profile_bytes, HOST_PAGE_BYTES)

    @property
    def block_records_offset(self) -> int:
        return rounded_up(self.pairs_offset + 2 * self.pairs, HOST_PAGE_BYTES)

    @property
    def page_records_offset(self) -> int:
        return rounded_up(self.block_records_offset + self.blocks * BLOCK_RECORD_BYTES, HOST_PAGE_BYTES)

    @property
    def data_offset(self) -> int:
        records = self.blocks * self.record_pages * self.record_bytes
        return rounded_up(self.page_records_offset + records, DATA_ALIGNMENT)

    @property
    def image_bytes(self) -> int:
        return rounded_up(self.data_offset + self.blocks * self.block_bytes, HOST_PAGE_BYTES)

    def problem(self) -> str:
        """Why a chip cannot be so; empty: it can."""
        limits = {
            "kind": self.kind in KINDS,
            "bits_per_cell": 1 <= self.bits_per_cell <= 8,
            "page_bytes": 16 <= self.page_bytes <= 1 << 24,
            "spare_bytes": 0 <= self.spare_bytes <= (SPARE_BYTES_MAX if self.kind == "nand" else 0),
            "pages_per_block": 1 <= self.pages_per_block < NOWHERE,
            "blocks": 1 <= self.blocks <= BLOCKS_MAX,
            "unit_bytes": 512 <= self.unit_bytes <= UNIT_BYTES_MAX and self.unit_bytes % 512 == 0,
            "slc_page_bytes": 0 <= self.slc_page_bytes <= 1 << 24,
            "slc_pages_per_block": 0 <= self.slc_pages_per_block < NOWHERE,
            "endurance": 0 <= self.endurance < 1 << 32 and 0 <= self.slc_endurance < 1 << 32,
            "dies": 1 <= self.dies <= 64,
            "profile_bytes": 0 <= self.profile_bytes <= PROFILE_BYTES_MAX,
            "pairs": self.pairs in (0, self.pages_per_block),
        }
        wrong = [name for name, good in limits.items() if not good]
        if not wrong and (self.slc_page_bytes > 0) != (self.slc_pages_per_block > 0):
            wrong.append("slc_pages_per_block")
        if not wrong and self.kind == "nor" and (self.page_bytes > NOR_PAGE_BYTES_MAX or self.slc_page_bytes):
            wrong.append("page_bytes")
        if not wrong and (
            self.capacity_bytes % self.unit_bytes or self.capacity_bytes > self.blocks * self.block_bytes
        ):
            wrong.append("capacity_bytes")
        if not wrong and self.image_bytes > IMAGE_BYTES_MAX:
            wrong.append("blocks")
        return f"{wrong[0]} is {getattr(self, wrong[0])}" if wrong else ""

    def packed(self, checksum: Callable[[bytes], int]) -> bytes:
        body = SUPERBLOCK.pack(
            MAGIC, VERSION, 0, self.uuid, self.image_bytes, self.capacity_bytes, self.seed, self.unit_bytes,
            self.over_provisioning_milli, KINDS.index(self.kind), self.bits_per_cell, self.record_bytes,
            self.page_bytes, self.spare_bytes, self.pages_per_block, self.blocks, self.slc_page_bytes,
            self.slc_pages_per_block, self.endurance, self.slc_endurance, self.dies, self.profile_bytes, self.pairs,
            self.profile_offset, self.pairs_offset, self.block_records_offset, self.page_records_offset,
            self.data_offset, 0,
        ).ljust(SUPERBLOCK_BYTES, b"\0")  # fmt: skip
        return body[:CHECKSUM_OFFSET] + checksum(body).to_bytes(4, "little") + body[CHECKSUM_OFFSET + 4 :]


def unpacked(path: Path, data: bytes, checksum: Callable[[bytes], int]) -> Superblock:
    """The superblock that these bytes are, checked. Raises ImageError."""
    if data[:8] != MAGIC:
        raise ImageError(f"{path}: not an image of emulated flash; make one with virtflash create")
    if len(data) < SUPERBLOCK_BYTES:
        raise ImageError(f"{path}: truncated: its superblock ends early; restore it from a copy")
    version, found = struct.unpack_from("<II", data, 8)
    if version > VERSION:
        raise ImageError(f"{path}: its format is version {version}, and this program knows {VERSION}; use a newer one")
    zeroed = data[:CHECKSUM_OFFSET] + bytes(4) + data[CHECKSUM_OFFSET + 4 :]
    if version < 1 or checksum(zeroed) != found:
        raise ImageError(f"{path}: its superblock is damaged (checksum); restore it from a copy")
    superblock = from_values(SUPERBLOCK.unpack_from(data))
    problem = superblock.problem()
    if problem or superblock.packed(checksum) != data:
        detail = f" ({problem})" if problem else ""
        raise ImageError(f"{path}: its superblock contradicts itself{detail}; make a new image")
    return superblock


def from_values(values: tuple[Any, ...]) -> Superblock:
    (_, _, _, identity, _, capacity, seed, unit, over_provisioning, kind, bits, _, *rest) = values
    geometry = ("page_bytes", "spare_bytes", "pages_per_block", "blocks", "slc_page_bytes", "slc_pages_per_block",
                "endurance", "slc_endurance", "dies", "profile_bytes", "pairs")  # fmt: skip
    named = dict(zip(geometry, rest, strict=False))
    return Superblock(
        uuid=identity, capacity_bytes=capacity, seed=seed, unit_bytes=unit, over_provisioning_milli=over_provisioning,
        kind=KINDS[kind] if kind < len(KINDS) else f"number {kind}", bits_per_cell=bits, **named,
    )  # fmt: skip


@dataclass(frozen=True)
class ImageFile:
    """An image that is open and locked: its descriptor, and the parts that never change."""

    fd: int
    superblock: Superblock
    profile_text: str  # empty: perfect flash
    endangers: tuple[int, ...]  # by page; empty: no page endangers any


def boot_id() -> bytes:
    """Of this run of the host; zeroes where it does not tell."""
    try:
        return uuid.UUID(BOOT_ID.read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def open_image(path: Path, checksum: Callable[[bytes], int], *, read_only: bool = False) -> ImageFile:
    """Open, check and lock an image. `checksum`: CRC32C. Raises ImageError."""
    fd = open_or_refuse(path, read_only=read_only)
    try:
        lock(path, fd, read_only=read_only)
        superblock = unpacked(path, os.pread(fd, SUPERBLOCK_BYTES, 0), checksum)
        if os.fstat(fd).st_size < superblock.image_bytes:
            raise ImageError(
                f"{path}: truncated: {os.fstat(fd).st_size} bytes of {superblock.image_bytes}; restore it from a copy"
            )
        return read_parts(path, fd, superblock)
    except OSError as error:
        os.close(fd)
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from None
    except BaseException:
        os.close(fd)
        raise


def open_or_refuse(path: Path, *, read_only: bool) -> int:
    try:
        # A FIFO must not make us wait, nor a device do what opening makes it do.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path}: not a file; name an image made with virtflash create")
        return os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        hint = "; it has to be writable, or opened read-only"
        writable = read_only or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise ImageError(f"{path}: {error.strerror}{'' if writable else hint}") from None


def lock(path: Path, fd: int, *, read_only: bool) -> None:
    """Two servers on one image destroy it. Raises ImageError."""
    try:
        lock_file(fd, shared=read_only)
    except BlockingIOError:
        raise ImageError(f"{path}: another server uses it; stop that one first") from None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOLCK):  # a file system without locks cannot be asked
            raise ImageError(f"{path}: cannot be locked: {error.strerror}") from None


def read_parts(path: Path, fd: int, superblock: Superblock) -> ImageFile:
    profile = os.pread(fd, superblock.profile_bytes, superblock.profile_offset)
    table = os.pread(fd, 2 * superblock.pairs, superblock.pairs_offset)
    endangers = struct.unpack(f"<{superblock.pairs}H", table)
    if any(lower != NOWHERE and lower >= page for page, lower in enumerate(endangers)):
        raise ImageError(f"{path}: its pairing table is damaged; restore it from a copy")
    try:
        return ImageFile(fd, superblock, profile.decode(), endangers)
    except UnicodeDecodeError:
        raise ImageError(f"{path}: the profile in it is damaged; restore it from a copy") from None


def new_superblock(**figures: Any) -> Superblock:
    """With an identity of its own. Raises ImageError where no chip can be so."""
    superblock = Superblock(uuid=uuid.uuid4().bytes, **figures)
    problem = superblock.problem()
    if problem:
        raise ImageError(f"no image can be made of such a chip: {problem}")
    return superblock


def write_parts(fd: int, superblock: Superblock, profile_text: str, endangers: tuple[int, ...]) -> None:
    """What never changes, but for the superblock, which comes when all the rest is there."""
    os.pwrite(fd, profile_text.encode(), superblock.profile_offset)
    os.pwrite(fd, struct.pack(f"<{len(endangers)}H", *endangers), superblock.pairs_offset)


def new_file(path: Path) -> int:
    """A locked, empty file where none was. Raises ImageError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ImageError(f"{path}: it exists already; remove it first, or name another file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be made: {error.strerror}") from None
    no_copy_on_write(fd)
    lock(path, fd, read_only=False)
    return fd


def no_copy_on_write(fd: int) -> None:
    """On Btrfs, so that room once reserved is there for each later write; other file systems have no such thing."""
    get_flags, set_flags, no_cow = 0x80086601, 0x40086602, 0x00800000  # FS_IOC_*FLAGS, FS_NOCOW_FL (linux/fs.h)
    with contextlib.suppress(OSError):
        flags = struct.unpack("<q", fcntl.ioctl(fd, get_flags, bytes(8)))[0]
        fcntl.ioctl(fd, set_flags, struct.pack("<q", flags | no_cow))


def cannot_reserve(path: Path, error: OSError) -> ImageError:
    if error.errno == errno.EOPNOTSUPP:
        return ImageError(f"{path}: its file system cannot reserve room; keep it on ext4, XFS, Btrfs or tmpfs")
    if error.errno in NO_SPACE:
        return ImageError(f"{path}: no room for it: {error.strerror}; free some, or make it smaller")
    return ImageError(f"{path}: cannot be made: {error.strerror}")
