"""Image: one whose first sectors a guest wrote looks like another format. Formats are named, never guessed."""

import struct
from pathlib import Path

import pytest
from attacked_server import make_image
from shared_emmc import SharedEmmc
from watched_server import WatchedServer

from virtflash.driver.blk import BlkDriver

SECTOR = 512
SIZE = 4 << 20
BACKING_FILE = b"/etc/passwd"


def qcow2() -> bytes:
    """A whole header, with a backing file and a size of its own."""
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 72, len(BACKING_FILE), 16, 1 << 40, 0, 1, 4096, 8192, 1, 0, 0
    )
    return header + BACKING_FILE


def partition_table() -> bytes:
    """One partition, behind the end."""
    return bytes(446) + struct.pack("<B3xB3xII", 0x80, 0x83, 1 << 20, 1 << 20) + bytes(48) + b"\x55\xaa"


FORMATS = {
    "qcow2": qcow2(),
    "qed": b"QED\0".ljust(64, b"\xff"),
    "vmdk": b"KDMV" + struct.pack("<IIQQ", 1, 3, 1 << 30, 128),
    "vmdk text": b'# Disk DescriptorFile\nversion=1\nRW 2097152 FLAT "/etc/passwd" 0\n',
    "vhdx": b"vhdxfile".ljust(64, b"\0"),
    "vdi": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + struct.pack("<I", 0xBEDA107F),
    "luks": b"LUKS\xba\xbe\0\x01".ljust(64, b"\0"),
    "parallels": b"WithoutFreeSpace".ljust(64, b"\xff"),
    "partitions": partition_table(),
    "android sparse": struct.pack("<IHHHHIIII", 0xED26FF3A, 1, 0, 28, 12, 4096, 1 << 20, 1, 0),
    "gzip": b"\x1f\x8b\x08\0",
}


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [make_image(tmp_path / f"{name.replace(' ', '-')}.img") for name in FORMATS]


def test_image_that_looks_like_another_format(images: list[Path], tmp_path: Path) -> None:
    """Image: the guest writes the header; the server is started again; the disk is the same, to the byte."""
    before = [path.stat().st_size for path in images]
    with WatchedServer(tmp_path, images) as server:
        for path, header in zip(server.sockets, FORMATS.values(), strict=True):
            with BlkDriver(path) as driver:
                driver.write(0, header.ljust(-(-len(header) // SECTOR) * SECTOR, b"\0")).check()
    contents = [path.read_bytes() for path in images]
    with WatchedServer(tmp_path, images) as server:
        for path, content in zip(server.sockets, contents, strict=True):
            with BlkDriver(path) as driver:
                assert driver.capacity * SECTOR == len(content)
                assert driver.read(0, 65536).check().data == content[:65536]
                driver.write(driver.capacity - 1, bytes(SECTOR)).check()
        assert not server.loud_lines()
    assert [path.stat().st_size for path in images] == before


def test_volume_that_looks_like_another_format(tmp_path: Path) -> None:
    """Image: the same on a flash that volumes share; nor does a volume's content pass for the flash's own tables."""
    emmc = SharedEmmc(tmp_path, [name.replace(" ", "-") for name in FORMATS], 4)
    contents = [header.ljust(65536, b"\0") for header in FORMATS.values()]
    with emmc.server() as server:
        for path, content in zip(server.sockets, contents, strict=True):
            with BlkDriver(path) as driver:
                driver.write(0, content).check()
                driver.write(driver.capacity - 8, content[:4096]).check()
    with emmc.server() as server:
        for path, content in zip(server.sockets, contents, strict=True):
            with BlkDriver(path) as driver:
                assert driver.capacity * SECTOR == 4 << 20
                assert driver.read(0, 65536).check().data == content
                assert driver.read(driver.capacity - 8, 4096).check().data == content[:4096]
        assert not server.loud_lines()
