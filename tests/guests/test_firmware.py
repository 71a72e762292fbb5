"""Firmware boots from a served disk and writes to it: SeaBIOS a boot sector, OVMF (UEFI) a boot loader."""

import os
import platform
import struct
import subprocess
from pathlib import Path

import pytest
from console_process import ConsoleProcess
from qemu_machine import LEGACY, MODERN, TRANSITIONAL, qemu_command
from requirements import require, unavailable
from served import Serve, image_bytes, requests, volume_statistics, write_image

SECTOR = 512
BIOS_SECONDS = 30.0
BIOS_READ_SECTORS = 127

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def boot_sector(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    require("gcc")
    if platform.machine() != "x86_64":
        unavailable("the boot sector needs an assembler for x86")
    output = tmp_path_factory.mktemp("boot-sector") / "boot.bin"
    source = Path(__file__).with_name("boot_sector.S")
    link = "-Wl,--oformat=binary,-Ttext=0x7c00,--build-id=none"
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", link, "-o", output, source], check=True)
    return output.read_bytes()


def sum_of_words(data: bytes) -> int:
    words: tuple[int, ...] = struct.unpack(f"<{len(data) // 2}H", data)
    return sum(words) & 0xFFFF


@pytest.mark.parametrize("device", [MODERN, TRANSITIONAL, LEGACY], ids=["modern", "transitional", "legacy"])
def test_seabios_boots_twice(device: str, serve: Serve, boot_sector: bytes) -> None:
    """The second boot counts on from what the first wrote. Each reads more at once than SeaBIOS asks of the disk."""
    require("qemu-system-x86_64")
    server = serve(size=1 << 20)
    text = b"\0It is mine\0"  # a count of 0 before it
    write_image(server.image, 0, boot_sector + text + os.urandom(BIOS_READ_SECTORS * SECTOR - len(text)))
    for boot in (1, 2):
        with ConsoleProcess(qemu_command(server.socket, device)) as machine:
            machine.wait_for("It is mine", BIOS_SECONDS)  # said when all is read and written
            data = image_bytes(server.image, SECTOR, BIOS_READ_SECTORS * SECTOR)
            machine.wait_for(f"It is mine {boot} {sum_of_words(data):04x}\n", BIOS_SECONDS)
        assert data[0] == boot
    assert requests(volume_statistics(server))["write"] == 2


OVMF = Path("/usr/share/OVMF")
OVMF_SECONDS = 60.0  # it takes about three on two quiet processors
PARTITION_OFFSET = 1 << 20
PARTITION_BYTES = 32 << 20
EFI_SYSTEM_PARTITION = 0xEF
GRUB_MODULES = ("fat", "part_msdos", "echo", "loadenv", "cat", "serial", "terminal", "halt")
# Makes a longer word of the one that is on the disk, and puts it there.
GRUB_SCRIPT = """
serial --unit=0 --speed=115200
terminal_output serial
load_env --file ($root)/count.env
set count=I$count
save_env --file ($root)/count.env count
echo booted: $count.
cat ($root)/text
halt
"""


@pytest.fixture(scope="module")
def efi_disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk with one partition, as UEFI wants it, with GRUB on it."""
    require("grub-mkimage", "grub-editenv", "mformat")
    directory = tmp_path_factory.mktemp("efi-disk")
    files = {"script": GRUB_SCRIPT, "text": "read by the boot loader\n"}
    for name, content in files.items():
        (directory / name).write_text(content)
    make = [
        ["grub-mkimage", "-O", "x86_64-efi", "-o", "BOOTX64.EFI", "-p", "/", "-c", "script", *GRUB_MODULES],
        ["grub-editenv", "count.env", "create"],
        ["mformat", "-C", "-i", "partition", "-T", str(PARTITION_BYTES // SECTOR), "::"],
        ["mmd", "-i", "partition", "::EFI", "::EFI/BOOT"],
        ["mcopy", "-i", "partition", "BOOTX64.EFI", "::EFI/BOOT"],
        ["mcopy", "-i", "partition", "count.env", "text", "::"],
    ]
    for command in make:
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    boot_record = partition_table() + bytes(PARTITION_OFFSET - SECTOR)
    return boot_record + (directory / "partition").read_bytes()


def partition_table() -> bytes:
    """A master boot record whose one partition is an EFI system partition."""
    no_chs = b"\xff\xff\xff"
    first, count = PARTITION_OFFSET // SECTOR, PARTITION_BYTES // SECTOR
    entry = struct.pack("<B3sB3sII", 0, no_chs, EFI_SYSTEM_PARTITION, no_chs, first, count)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def ovmf_options(directory: Path) -> list[str]:
    if not (OVMF / "OVMF_CODE_4M.fd").exists():
        unavailable("not installed: ovmf (make packages-test)")
    variables = directory / "variables.fd"
    variables.write_bytes((OVMF / "OVMF_VARS_4M.fd").read_bytes())
    return [
        "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.fd'}",
        "-drive", f"if=pflash,format=raw,file={variables}",
    ]  # fmt: skip


@pytest.mark.parametrize("device", [MODERN, LEGACY], ids=["modern", "legacy"])
def test_ovmf_boots_twice(device: str, serve: Serve, efi_disk: bytes, tmp_path: Path) -> None:
    require("qemu-system-x86_64")
    server = serve(size=len(efi_disk))
    write_image(server.image, 0, efi_disk)
    for boot in (1, 2):
        with ConsoleProcess(qemu_command(server.socket, f"{device},bootindex=0", ovmf_options(tmp_path))) as machine:
            machine.wait_for(f"booted: {'I' * boot}.", OVMF_SECONDS)
            machine.wait_for("read by the boot loader", OVMF_SECONDS)
    volume = volume_statistics(server)
    assert requests(volume)["write"] >= 2
    assert sum(queue["errors"] for queue in volume["queues"]) == 0
