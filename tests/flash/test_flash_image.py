"""The image file: made, locked, refused where it is wrong, laid out as specified, on a full disk, and wiped."""

import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from virtflash.flash import image
from virtflash.flash.emulated import (
    ERASED,
    MISUSE,
    NO_ROOM,
    OK,
    RECORD_SIZES,
    EmulatedFlash,
    crc32c,
    crc32c_without_instruction,
)
from virtflash.flash.image import ImageError
from virtflash.flash.profiles import load_profile

PAGE = 2048
FORMAT = Path(__file__).parents[2] / "docs" / "image-format.md"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An image with one page programmed, closed."""
    place = tmp_path / "chip.vflash"
    with EmulatedFlash.create(place, "slc-nand-256m", blocks=16, capacity_bytes=1 << 20, seed=7) as flash:
        assert flash.program(3, 0, b"a" * PAGE, b"spare") == OK
    return place


def test_what_was_programmed_is_there_again(path: Path) -> None:
    with EmulatedFlash.open(path) as flash:
        assert flash.crashed == "no"
        assert flash.read(3, 0) == (OK, b"a" * PAGE, b"spare".ljust(32, b"\xff"))
        assert flash.read(3, 1)[0] == ERASED
        assert flash.program(3, 0, b"b") == MISUSE
        assert (flash.capacity_bytes, flash.unit_bytes, flash.kind) == (1 << 20, 4096, "nand")
        assert flash.profile_text == load_profile("slc-nand-256m").text


def test_time_wear_and_chance_go_on(path: Path) -> None:
    with EmulatedFlash.open(path) as flash:
        flash.advance(7200, 85)
        flash.erase(1)
        flash.mark_bad(2)
        flash.read(3, 0)
        before, table = flash.counters(), flash.block_table()
    with EmulatedFlash.open(path) as flash:
        assert flash.counters() == before
        assert (flash.block_table() == table).all()
        assert flash.is_bad(2)


def test_it_is_sparse(tmp_path: Path) -> None:
    with EmulatedFlash.create(tmp_path / "big", "automotive-tlc-emmc", blocks=12000, seed=1) as flash:
        size = os.fstat(flash.fd)
        assert size.st_size > 64 << 30
        assert size.st_blocks * 512 < 4 << 20
        assert flash.program(11999, 0, b"z" * 49152) == OK
    with EmulatedFlash.open(tmp_path / "big") as flash:
        assert flash.read(11999, 0, 0, 1)[1] == b"z"


def test_the_same_seed_makes_the_same_chip(tmp_path: Path) -> None:
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        with EmulatedFlash.create(tmp_path / name, "mlc-emmc", blocks=50, seed=seed) as flash:
            tables.append(flash.block_table()["factor"].tolist())
    assert tables[0] == tables[1] != tables[2]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_two_writers(path: Path) -> None:
    with EmulatedFlash.open(path):
        for read_only in (False, True):
            with pytest.raises(ImageError, match="another server uses it; stop that one first"):
                EmulatedFlash.open(path, read_only=read_only)
    with EmulatedFlash.open(path, read_only=True), EmulatedFlash.open(path, read_only=True) as second:
        assert second.read(3, 0)[0] == OK
        with pytest.raises(ImageError, match="another server"):
            EmulatedFlash.open(path)
    EmulatedFlash.open(path).close()


def corrected(data: bytes) -> bytes:
    """With the checksum of the superblock made right."""
    zeroed = data[:12] + bytes(4) + data[16:4096]
    return data[:12] + crc32c(zeroed).to_bytes(4, "little") + data[16:]


def with_bytes(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


REFUSED = {
    "empty": (lambda data: b"", "not an image of emulated flash"),
    "foreign": (lambda data: b"QFI\xfb" + data[4:], "not an image of emulated flash"),
    "short": (lambda data: data[:100], "truncated: its superblock ends early"),
    "truncated": (lambda data: data[:-4096], "truncated: .* bytes of"),
    "one bit": (lambda data: with_bytes(data, 70, bytes([data[70] ^ 1])), "superblock is damaged"),
    "one bit of the rest": (lambda data: with_bytes(data, 4000, b"\x01"), "superblock is damaged"),
    "newer": (lambda data: corrected(with_bytes(data, 8, b"\x02")), "version 2, and this program knows 1"),
    "version 0": (lambda data: corrected(with_bytes(data, 8, b"\x00")), "superblock is damaged"),
    "unknown feature": (lambda data: corrected(with_bytes(data, 152, b"\x01")), "contradicts itself"),
    "other offsets": (lambda data: corrected(with_bytes(data, 144, bytes(8))), "contradicts itself"),
    "no blocks": (lambda data: corrected(with_bytes(data, 80, bytes(4))), "contradicts itself .blocks is 0"),
    "endless blocks": (lambda data: corrected(with_bytes(data, 80, b"\xff" * 4)), "contradicts itself .blocks is"),
    "other kind": (lambda data: corrected(with_bytes(data, 64, b"\x07")), "contradicts itself .kind is number 7"),
    "profile": (lambda data: with_bytes(data, 8192, b"\xff\xfe"), "the profile in it is damaged"),
    "profile text": (lambda data: with_bytes(data, 8192, b"[part"), "its profile"),
    "in flight": (lambda data: with_bytes(data, 4096, b"\x09"), "its state is damaged"),
    "flight beyond": (
        lambda data: with_bytes(data, 4096, struct.pack("<IIII", 1, 16, 0, 0)) + b"", "its state is damaged"
    ),
    "hours": (lambda data: with_bytes(data, 4096 + 24, b"\xff" * 8), "its state is damaged"),
    "left": (lambda data: with_bytes(data, 4096 + 12, b"\x05"), "its state is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("read_only", [False, True])
def test_refused(path: Path, case: str, read_only: bool) -> None:
    change, message = REFUSED[case]
    path.write_bytes(change(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ImageError, match=message) as caught:
        EmulatedFlash.open(path, read_only=read_only)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    with path.open("rb") as file:  # and let go of
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_pairing_table_that_points_forward_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "mlc-emmc", blocks=2, seed=1) as flash:
        offset = flash.superblock.pairs_offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\x05\x00")
    with pytest.raises(ImageError, match="pairing table is damaged"):
        EmulatedFlash.open(path)


@pytest.mark.parametrize(
    ("kind", "message"), [("missing", "No such file"), ("directory", "not a file"), ("fifo", "not a file")]
)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "chip"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ImageError, match=message):
        EmulatedFlash.open(path)


def test_nothing_is_written_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ImageError, match="it exists already; remove it first"):
        EmulatedFlash.create(path, "slc-nand-256m", blocks=4)
    assert path.read_bytes() == before


def test_a_size_is_needed_where_the_part_has_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="name a capacity"):
        EmulatedFlash.create(tmp_path / "a", "mlc-emmc")
    with pytest.raises(ImageError, match="the part has 2048; ask for less"):
        EmulatedFlash.create(tmp_path / "a", "slc-nand-256m", capacity_bytes=1 << 30)
    assert not list(tmp_path.iterdir())
    with EmulatedFlash.create(tmp_path / "a", "mlc-emmc", capacity_bytes=256 << 20) as flash:
        assert flash.superblock.blocks * flash.superblock.block_bytes > 256 << 20
        assert flash.superblock.over_provisioning_milli == 15000


# What lies where.


def test_the_layout_is_the_documented_one() -> None:
    """Offsets in the tables of docs/image-format.md against what is compiled."""
    assert RECORD_SIZES == {"state": 4096, "block record": 64, "header of a page record": 32}
    text = FORMAT.read_text()
    superblock = text[text.index("## Superblock") : text.index("## State")]
    rows = re.findall(r"^\| (\d+) \| (u8|u16|u32|u64|16 bytes|8 bytes) \|", superblock, re.MULTILINE)
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "8 bytes": 8, "16 bytes": 16}
    expected = 0
    for offset, kind in rows:
        assert int(offset) == expected
        expected += sizes[kind]
    assert expected == image.SUPERBLOCK.size


def test_records_straddle_nothing() -> None:
    """Neither a page of the host nor a sector of its disk, for any spare size."""
    for spare in range(image.SPARE_BYTES_MAX + 1):
        record = replace(example(), spare_bytes=spare).record_bytes
        assert record >= image.PAGE_HEADER_BYTES + spare
        assert 512 % record == 0
    assert replace(example(), spare_bytes=32).record_bytes == 64
    assert replace(example(), spare_bytes=80).record_bytes == 128


def example() -> image.Superblock:
    return image.new_superblock(
        kind="nand", capacity_bytes=0, unit_bytes=4096, over_provisioning_milli=0, seed=0, bits_per_cell=3,
        page_bytes=49152, spare_bytes=80, pages_per_block=128, blocks=12000, slc_page_bytes=16384,
        slc_pages_per_block=128, endurance=3000, slc_endurance=30000, dies=2, profile_bytes=5000, pairs=0,
    )  # fmt: skip


def test_parts_do_not_overlap_and_data_is_aligned() -> None:
    superblock = example()
    assert superblock.profile_offset == 8192
    assert superblock.profile_offset + 5000 <= superblock.pairs_offset <= superblock.block_records_offset
    assert superblock.block_records_offset + 12000 * 64 <= superblock.page_records_offset
    assert superblock.page_records_offset + 12000 * 128 * 128 <= superblock.data_offset
    assert superblock.data_offset % (2 << 20) == 0
    assert superblock.image_bytes == superblock.data_offset + 12000 * 128 * 49152
    assert image.unpacked(Path("x"), superblock.packed(crc32c), crc32c) == superblock


def test_crc32c() -> None:
    """RFC 3720 B.4, and both ways of computing it alike."""
    vectors = {
        bytes(32): 0x8A9136AA,
        b"\xff" * 32: 0x62A8AB43,
        bytes(range(32)): 0x46DD794E,
        bytes(reversed(range(32))): 0x113FDB5C,
        b"123456789": 0xE3069283,
        b"": 0,
    }
    for data, expected in vectors.items():
        assert crc32c(data) == crc32c_without_instruction(data) == expected
    data = bytes(i * i & 0xFF for i in range(20000))
    for size in (1, 7, 8, 4079, 4080, 4081, 8160, 16384, 20000):
        assert crc32c(data[:size]) == crc32c_without_instruction(data[:size])


# What is left in the file.

SECRET = b"a secret of some length"


def secrets(path: Path) -> int:
    return path.read_bytes().count(SECRET)


@pytest.mark.parametrize("way", ["erase", "physical", "purge", "give_back", "bad"])
def test_what_was_erased_is_gone_when_it_has_to_be(tmp_path: Path, way: str) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=4, seed=1) as flash:
        for page in range(64):
            flash.program(1, page, SECRET, SECRET)
            flash.program(2, page, SECRET, SECRET)
        flash.mark_bad(2)
        assert secrets(path) == 4 * 64
        before = os.fstat(flash.fd).st_blocks
        flash.erase(1, physical=way == "physical")
        if way == "purge":
            flash.purge(1, 1)
        elif way == "give_back":
            assert flash.give_back() == 1
            assert flash.give_back() == 0
        elif way == "bad":
            flash.purge()
        remaining = {"erase": 256, "physical": 128, "purge": 128, "give_back": 128, "bad": 0}[way]
        assert secrets(path) == remaining
        if remaining < 256:
            assert os.fstat(flash.fd).st_blocks < before - 64 * PAGE // 512 * 9 // 10
        assert flash.read(1, 0)[0] == ERASED
        assert flash.program(1, 0, b"new") == OK
        assert flash.read(1, 0, 0, 3)[:2] == (OK, b"new")


def test_purge_leaves_what_is_programmed(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=4, seed=1) as flash:
        for page in range(64):
            flash.program(1, page, SECRET, SECRET)
        flash.erase(1)
        for page in (0, 3):
            flash.program(1, page, bytes([page]) * PAGE)
        assert secrets(path) == 2 * 64 - 4
        flash.purge()
        assert secrets(path) == 0
        for page in (0, 3):
            assert flash.read(1, page)[:2] == (OK, bytes([page]) * PAGE)
        assert flash.read(1, 1)[0] == ERASED
        assert flash.program(1, 4, SECRET) == OK
        assert flash.read(1, 4, 0, len(SECRET))[1] == SECRET


def test_purge_reaches_what_other_modes_leave(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "automotive-tlc-emmc", blocks=2, seed=1) as flash:
        for page in range(128):
            flash.program(1, page, SECRET * 2000, SECRET)
        flash.erase(1, slc=True)
        flash.program(1, 0, b"x" * 16384)
        assert secrets(path) > 100000
        flash.purge()
        assert secrets(path) == 0
        assert flash.read(1, 0)[1] == b"x" * 16384


def test_purge_of_nor(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "qspi-nor-64m", blocks=2, seed=1) as flash:
        for page in range(256):
            flash.program(1, page, SECRET)
        flash.erase(1)
        flash.program(1, 9, b"\x00")
        flash.purge()
        assert secrets(path) == 0
        assert flash.read(1, 9)[1] == b"\x00" + b"\xff" * 255


# A full disk.

FILL = """
import sys
from pathlib import Path
from virtflash.flash.emulated import EmulatedFlash, NO_ROOM, OK, ERASED
path, host_sync = Path(sys.argv[1]), bool(int(sys.argv[2]))
with EmulatedFlash.create(path, "slc-nand-256m", blocks=128, seed=1, host_sync=host_sync, factory_bad_share=0) as flash:
    pages = ((block, page) for block in range(128) for page in range(64))
    written = []
    for block, page in pages:
        status = flash.program(block, page, bytes([page]) * 2048)
        if status != OK:
            break
        written.append((block, page))
    assert status == NO_ROOM, status
    full = (block, page)
    for other in range(block + 1, 128, 5):
        assert flash.program(other, 0, b"a" * 2048) in (OK, NO_ROOM)  # where room is left in a window
        assert flash.erase(other) == OK
    assert flash.read(*full)[0] == ERASED
    assert flash.program(*full, b"b") == NO_ROOM
    for block, page in written:
        assert flash.read(block, page)[:2] == (OK, bytes([page]) * 2048)
    # Room that is given back is room for others.
    for block in range(16):
        assert flash.erase(block, physical=True) == OK
    assert flash.program(*full, b"b" * 2048) == OK
    pages = ((block, page) for block in range(full[0] + 1, 128) for page in (1, 32))
    assert NO_ROOM in (flash.program(block, page, b"c" * 2048) for block, page in pages)
    statuses = {flash.program(block, page, b"d" * 2048) for block in range(16) for page in (0, 32, 63)}
    assert statuses <= {OK, NO_ROOM}, statuses
print(len(written) // 64)
with EmulatedFlash.open(path, host_sync=host_sync) as flash:
    assert flash.crashed == "no"
    assert flash.read(*full)[:2] == (OK, b"b" * 2048)
    assert NO_ROOM in [flash.program(block, 63, b"d" * 2048) for block in range(full[0] + 1, 128, 5)]
"""


@pytest.fixture(params=["tmpfs", "ext4", "xfs", pytest.param("btrfs", marks=pytest.mark.slow)])
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system that is too small for the chip."""
    kind = request.param
    if os.geteuid():
        pytest.skip("only root can mount a file system that is too small")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=10M", "none", str(place)]
    if kind != "tmpfs":
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"mkfs.{kind} is not installed")
        disk = tmp_path / "disk"
        disk.touch()
        os.truncate(disk, {"ext4": 20 << 20, "xfs": 310 << 20, "btrfs": 110 << 20}[kind])
        subprocess.run([f"mkfs.{kind}", "-q", disk], check=True)
        command = ["mount", "-o", "loop", str(disk), str(place)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip(f"no file system can be mounted here: {run.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("host_sync", [False, True])
def test_a_full_disk_is_a_program_that_fails(small_disk: Path, host_sync: bool) -> None:
    shutil.rmtree(small_disk / "lost+found", ignore_errors=True)
    leave_free(small_disk, 8 << 20)
    command = [sys.executable, "-c", FILL, small_disk / "chip", str(int(host_sync))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10


def leave_free(place: Path, size: int) -> None:
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    if free > size:
        with (place / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - size)


LOOK = """
import os, sys
from pathlib import Path
from virtflash.flash.emulated import OK, ERASED, EmulatedFlash

with EmulatedFlash.create(sys.argv[1], sys.argv[2], blocks=int(sys.argv[3]), capacity_bytes=1 << 20, seed=1) as flash:
    chip = flash.superblock
    size = chip.record_pages * chip.record_bytes
    starts = {block: chip.page_records_offset + block * size for block in range(chip.blocks)}
    blocks = [block for block, at in starts.items() if at // 65536 < (at + size - 1) // 65536][:16:2]
    assert blocks  # whose records lie on both sides of what room is asked for at once
    assert {flash.program(block, 0, bytes(chip.page_bytes)) for block in blocks} == {OK}
    with open(Path(sys.argv[1]).parent / "full", "wb", buffering=0) as file:
        try:
            while file.write(bytes(512)):
                pass
        except OSError:
            pass
    for block in blocks:
        assert {flash.read(block, page)[0] for page in range(1, chip.pages_per_block)} == {ERASED}
        assert flash.erase(block) == OK
    flash.give_back()
    assert {flash.erase(block, physical=True) for block in range(chip.blocks)} == {OK}
    assert flash.purge() == OK
"""


@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
@pytest.mark.parametrize(("profile", "blocks"), [("automotive-tlc-emmc", 64), ("qspi-nor-64m", 1024)])
def test_on_a_full_disk_it_looks_at_no_hole(small_disk: Path, profile: str, blocks: int) -> None:
    """Who reads a hole of a full tmpfs gets a SIGBUS: records of pages that were never programmed may be such holes."""
    command = [sys.executable, "-c", LOOK, small_disk / "chip", profile, str(blocks)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, (run.returncode, run.stderr)


def test_no_room_for_a_new_image(small_disk: Path) -> None:
    leave_free(small_disk, 8 << 20)
    with pytest.raises(ImageError, match="no room for it"):
        EmulatedFlash.create(small_disk / "chip", "automotive-tlc-emmc", blocks=200000)
    assert not (small_disk / "chip").exists()


def test_status_numbers() -> None:
    """As chip.pxd has them."""
    assert (OK, ERASED, NO_ROOM, MISUSE) == (0, 1, -4, -5)
