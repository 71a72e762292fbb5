"""Images whose metadata somebody has tampered with, checksums and all; each is opened, mounted, read and written.

Run in a process of its own, since what it looks for kills or hangs one: `hostile_image.py DIRECTORY PART FIRST COUNT`
prints each seed before it is tried. The same seed makes the same image.
"""

import os
import random
import re
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from virtflash.backing import BackingError
from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.flash import image
from virtflash.flash.emulated import EmulatedFlash, crc32c
from virtflash.flash.image import Superblock
from virtflash.flash.profiles import load_profile
from virtflash.ftl.translation import Translation

MIB = 1 << 20
PARTS = {  # profile, figures instead of its own, capacity in bytes
    "tlc": ("automotive-tlc-emmc", {"pages_per_block": 16, "slc_pages_per_block": 16, "boot_partition_kib": 128}, 8),
    "mlc": ("mlc-emmc", {"boot_partition_kib": 128}, 8),
    "slc": ("slc-nand-256m", {"blocks": 96}, 4),
    "nor": ("qspi-nor-64m", {"blocks": 96}, 2),
}
MEMORY_MOST = 2 << 30
WORK_MOST = 20_000  # steps of idle work: more for so small a device is a loop without an end
LEAST_MANY = 50
RECORD_MAGIC = 0x4656
TRIM, END = 2, 5  # kinds of frames, see frame.pxd; between them the slices of a checkpoint
WRONG = [0, 1, 2, 3, 4, 7, 8, 15, 16, 63, 255, 256, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFF]
WRONG += [0x7FFFFFFF, 0x80000000, 0xFFFFFFEF, 0xFFFFFFF0, 0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF]
WRONG_LONG = [*WRONG, 1 << 32, 1 << 62, (1 << 63) - 1, (1 << 64) - 1025, (1 << 64) - 1]
WRONG_LONG += [struct.unpack("<Q", struct.pack("<d", value))[0] for value in (1e300, -1.0, float("inf"), float("nan"))]


def profile_text(name: str, figures: dict[str, int]) -> str:
    text = load_profile(name).text
    for key, value in figures.items():
        text = re.sub(rf"(?m)^{key} = [^ \n]+", f"{key} = {value}", text)
    return text


@dataclass(frozen=True)
class Pristine:
    """An image as it should be: what of its file is not a hole."""

    size: int
    extents: list[tuple[int, bytes]]

    @classmethod
    def of(cls, path: Path) -> "Pristine":
        extents, at = [], 0
        with path.open("rb") as file, suppress(OSError):  # no more data: ENXIO
            while True:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
                extents.append((at, os.pread(file.fileno(), end - at, at)))
                at = end
        return cls(path.stat().st_size, extents)

    def write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(self.size)
            for at, data in self.extents:
                os.pwrite(file.fileno(), data, at)


def make_pristine(directory: Path, part: str) -> list[Pristine]:
    """A device that was used, stopped in order, and one whose server was killed."""
    name, figures, mib = PARTS[part]
    profile, path = directory / f"{part}.toml", directory / f"{part}.new"
    profile.write_text(profile_text(name, figures))
    create_flash(path, profile, capacity_bytes=mib * MIB, seed=1)
    storage = open_storage(path, host_sync=False)
    use(storage.translation, random.Random(1), 900)
    storage.translation.checkpoint()
    use(storage.translation, random.Random(2), 60)
    killed = Pristine.of(path)
    storage.close()
    made = [Pristine.of(path), killed]
    path.unlink()
    return made


def use(translation: Translation, chosen: random.Random, writes: int) -> None:
    for _ in range(writes):
        count = chosen.choice([1, translation.units_of_frame])
        units = chosen.sample(range(translation.units // 2), count)
        translation.write(units, [bytes([chosen.randrange(256)]) * translation.unit_bytes] * count)
        if chosen.random() < 0.05:
            translation.trim(chosen.randrange(translation.units - 20), chosen.randrange(1, 20))
            translation.flush()


@dataclass
class Frame:
    """Where a frame of the translation layer lies in the file. Bytes."""

    record_at: int
    data_at: int
    data_bytes: int


class Tampered:
    """The file of an image, and what lies where in it."""

    def __init__(self, path: Path, chosen: random.Random) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.chosen = chosen
        self.superblock = image.unpacked(path, os.pread(self.fd, image.SUPERBLOCK_BYTES, 0), crc32c)
        self.frames = self.find_frames()

    def read(self, at: int, size: int) -> bytes:
        return os.pread(self.fd, size, at)

    def write(self, at: int, data: bytes) -> None:
        os.pwrite(self.fd, data, at)

    def find_frames(self) -> list[Frame]:
        return [
            frame
            for block in range(self.superblock.blocks)
            for frame in self.frames_of(block)
            if self.read(frame.record_at, 2) == RECORD_MAGIC.to_bytes(2, "little")
        ]

    def frames_of(self, block: int) -> list[Frame]:
        chip = self.superblock
        next_page, flags = struct.unpack("<II", self.read(self.block_at(block) + 8, 8))
        page_bytes = chip.slc_page_bytes if flags & 1 else chip.page_bytes
        unit_bytes, start = chip.unit_bytes, chip.data_offset + block * chip.block_bytes
        size = max(page_bytes, unit_bytes)
        if chip.kind == "nor":
            frames = chip.pages_per_block * page_bytes // (unit_bytes + 64)
            return [
                Frame(start + frames * unit_bytes + 64 * i, start + i * size, size) for i in range(frames) if next_page
            ]
        pages = max(unit_bytes // page_bytes, 1)
        first = chip.page_records_offset + block * chip.record_pages * chip.record_bytes
        return [
            Frame(first + ((i + 1) * pages - 1) * chip.record_bytes + 32, start + i * size, size)
            for i in range(next_page // pages)
        ]

    def block_at(self, block: int) -> int:
        return self.superblock.block_records_offset + block * image.BLOCK_RECORD_BYTES

    def wrong(self, bytes_: int) -> bytes:
        """A number that is likely to be out of some bounds."""
        chip, choose = self.superblock, self.chosen
        near = [chip.blocks, chip.pages_per_block, chip.record_pages, chip.capacity_bytes // chip.unit_bytes]
        near += [chip.blocks * chip.block_bytes // chip.unit_bytes, choose.getrandbits(32), choose.getrandbits(8)]
        value = choose.choice(WRONG_LONG if bytes_ == 8 else WRONG)
        if choose.random() < 0.5:
            value = choose.choice(near) + choose.choice([-1, 0, 0, 1])
        return (value % (1 << (8 * bytes_))).to_bytes(bytes_, "little")

    def spoil(self, at: int, size: int) -> None:
        """One aligned number in a stretch."""
        width = self.chosen.choice([1, 2, 4, 4, 4, 8])
        self.write(at + self.chosen.randrange(max(size // width, 1)) * width, self.wrong(width))

    # What is tampered with

    def spoil_superblock(self) -> None:
        name = self.chosen.choice([field.name for field in fields(Superblock) if field.name not in ("uuid", "kind")])
        value = int.from_bytes(self.wrong(8 if name in ("capacity_bytes", "seed") else 4), "little")
        with suppress(struct.error):
            figures: dict[str, Any] = {name: value}
            changed = replace(self.superblock, **figures)
            self.write(0, changed.packed(crc32c))
            if os.fstat(self.fd).st_size < changed.image_bytes < 1 << 40:
                os.ftruncate(self.fd, changed.image_bytes)

    def spoil_state(self) -> None:
        for _ in range(self.chosen.choice([1, 3])):
            self.spoil(4096, self.chosen.choice([24, 64, 256]))

    def kill_in_flight(self) -> None:
        """As if an operation had been under way when the server was killed."""
        chip, choose = self.superblock, self.chosen
        self.write(4096, struct.pack("<IIII", choose.choice([1, 2]), choose.choice([0, chip.blocks - 1]), 0, 0))
        self.write(4096 + 8, self.wrong(4))
        if choose.random() < 0.5:
            self.write(4096 + 192, self.read(self.block_at(0), 64))
            self.spoil(4096 + 192, 64)
        self.write(4096 + 144, image.boot_id())

    def spoil_blocks(self) -> None:
        for _ in range(self.chosen.choice([1, 1, 8])):
            self.spoil(self.block_at(self.chosen.randrange(self.superblock.blocks)), 48)

    def spoil_pages(self) -> None:
        for _ in range(self.chosen.choice([1, 1, 8])):
            chip = self.superblock
            page = self.chosen.randrange(chip.blocks * chip.record_pages)
            self.spoil(chip.page_records_offset + page * chip.record_bytes, 40)

    def spoil_record(self) -> None:
        frame = self.chosen.choice(self.frames)
        self.spoil(frame.record_at + 2, 86 if self.chosen.random() < 0.5 else 22)
        self.seal(frame)

    def spoil_payload(self) -> None:
        """Of a checkpoint or of trims."""
        some = [frame for frame in self.frames if TRIM <= self.kind(frame) <= END]
        frame = self.chosen.choice([frame for frame in some if self.kind(frame) == END] or some)
        if self.chosen.random() < 0.7:
            frame = self.chosen.choice(some)
        self.spoil_payload_of(frame)
        self.write(frame.record_at + 28, crc32c(self.read(frame.data_at, frame.data_bytes)).to_bytes(4, "little"))
        self.seal(frame)

    def spoil_payload_of(self, frame: Frame) -> None:
        for _ in range(self.chosen.choice([1, 1, 20])):
            self.spoil(frame.data_at, self.chosen.choice([40, 128, 512, frame.data_bytes]))

    def kind(self, frame: Frame) -> int:
        return self.read(frame.record_at + 2, 1)[0] & 0x7F

    def seal(self, frame: Frame) -> None:
        words = min(self.read(frame.record_at + 3, 1)[0], 16)
        self.write(frame.record_at + 4, bytes(4))
        self.write(frame.record_at + 4, crc32c(self.read(frame.record_at, 24 + 4 * words)).to_bytes(4, "little"))

    def spoil_bytes(self) -> None:
        """Without a thought of checksums."""
        for _ in range(self.chosen.choice([1, 10, 100])):
            self.write(self.chosen.randrange(self.superblock.data_offset), self.chosen.randbytes(1))

    def tamper(self) -> list[str]:
        names = ["superblock", "state", "blocks", "pages", "record", "payload", "payload", "bytes"]
        done = self.chosen.choices(names, k=self.chosen.choice([1, 1, 2, 5]))
        for name in done:
            getattr(self, f"spoil_{name}")()
        if self.chosen.random() < 0.2:
            self.kill_in_flight()
        os.close(self.fd)
        return done


def exercise(path: Path, chosen: random.Random) -> None:
    """Open, mount, read and write. BackingError and OSError are answers; anything else is not."""
    read_only = chosen.random() < 0.1
    storage = open_storage(path, host_sync=chosen.random() < 0.2, read_only=read_only)
    try:
        exercise_layer(storage.translation, storage.chip, chosen)
        with suppress(OSError):
            storage.target.read(0, 8)
            storage.statistics()
    finally:
        with suppress(OSError):
            storage.close()


def exercise_layer(translation: Translation, chip: EmulatedFlash, chosen: random.Random) -> None:
    units = min(translation.units, 4096)
    for unit in range(units):
        attempt(translation.read, unit)
    count = translation.units_of_frame
    for i in range(300):
        some = chosen.sample(range(units), min(count if i % 3 else 1, units))
        attempt(translation.write, some, [bytes(translation.unit_bytes)] * len(some), small=i % 2 == 0)
    attempt(translation.trim, 0, units // 2)
    attempt(translation.flush)
    if units >= count:
        attempt(translation.write_random, 300, 1, 0, units)
    attempt(translation.secure_trim, units // 2, units // 4)
    attempt(translation.patrol, 1000)
    steps = translation.work(WORK_MOST)
    assert steps < WORK_MOST, "idle work has no end"
    attempt(translation.sanitize)
    attempt(translation.snapshot)
    attempt(chip.block_table)


def attempt(call: Callable[..., object], *arguments: object, **named: object) -> None:
    with suppress(OSError):
        call(*arguments, **named)


def main(directory: Path, part: str, first: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MOST, MEMORY_MOST))
    pristine = make_pristine(directory, part)
    for untouched in pristine:
        untouched.write(directory / f"{part}.vflash")
        exercise(directory / f"{part}.vflash", random.Random(0))
    refused = 0
    for seed in range(first, first + count):
        chosen, path = random.Random(seed), directory / f"{part}.vflash"
        pristine[seed % 2].write(path)
        done = Tampered(path, chosen).tamper()
        sys.stdout.write(f"{seed} {' '.join(done)}\n")
        sys.stdout.flush()
        try:
            exercise(path, chosen)
        except BackingError as error:
            refused += 1
            assert "\n" not in str(error), error
    sys.stdout.write(f"{refused} of {count} refused\n")
    assert count < LEAST_MANY or refused < count / 2, "most of them are not looked into"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
