"""EXT_CSD asked of the part: the command as Linux lays it out, against a responder that answers it by hand."""

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest

from virtflash.health.sensors.ext_csd import MMC_IOC_CMD, ExtCsd
from virtflash.health.sensors.sensor import SensorError

# include/uapi/linux/mmc/ioctl.h, written down again
FIELDS = "write_flag is_acmd opcode arg r0 r1 r2 r3 flags blksz blocks sleep_min sleep_max data_ns cmd_ms pad data_ptr"


class Responder:
    """Stands for the ioctl of an eMMC's block device."""

    def __init__(self, pre_eol: int = 1, type_a: int = 1, type_b: int = 3, error: int = 0) -> None:
        self.register = bytearray(range(256)) + bytearray(range(256))
        self.register[267], self.register[268], self.register[269] = pre_eol, type_a, type_b
        self.error = error
        self.commands: list[dict[str, int]] = []

    def __call__(self, fd: int, request: int, argument: bytearray) -> int:
        os.fstat(fd)  # it is open
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        assert request == 0xC048B300
        values = struct.unpack("=iiIIIIIIIIIIIIIIQ", argument)
        command = dict(zip(FIELDS.split(), values, strict=True))
        self.commands.append(command)
        ctypes.memmove(command["data_ptr"], bytes(self.register), command["blksz"] * command["blocks"])
        return 0


def sensor(tmp_path: Path, quantity: str, responder: Responder) -> ExtCsd:
    (tmp_path / "mmcblk0").touch()
    return ExtCsd("emmc0.x", "mmcblk0", quantity, root=tmp_path, ioctl=responder)


def test_it_is_command_8_with_a_block_of_data_from_the_part(tmp_path: Path) -> None:
    responder = Responder()
    sensor(tmp_path, "pre_eol", responder).read()
    (command,) = responder.commands
    assert MMC_IOC_CMD == 0xC048B300
    told = {key: command[key] for key in ("write_flag", "is_acmd", "opcode", "arg", "blksz", "blocks", "flags")}
    assert told == {
        "write_flag": 0,
        "is_acmd": 0,
        "opcode": 8,
        "arg": 0,
        "blksz": 512,
        "blocks": 1,
        "flags": 0xB5,  # MMC_RSP_SPI_R1 | MMC_RSP_R1 | MMC_CMD_ADTC
    }


@pytest.mark.parametrize(
    ("quantity", "value"),
    [("pre_eol", 2), ("life_time_a", 10), ("life_time_b", 110), ("life_time_a_code", 1), ("life_time_b_code", 11)],
)
def test_each_byte_is_what_it_is_for(quantity: str, value: float, tmp_path: Path) -> None:
    assert sensor(tmp_path, quantity, Responder(2, 1, 11)).read() == value


def test_it_is_fresh_each_time(tmp_path: Path) -> None:
    responder = Responder(type_b=3)
    asked = sensor(tmp_path, "life_time_b", responder)
    assert asked.read() == 30
    responder.register[269] = 4
    assert asked.read() == 40


@pytest.mark.parametrize(
    ("responder", "told"),
    [
        (Responder(pre_eol=0), "mmcblk0: EXT_CSD: it is 0: the part does not tell"),
        (Responder(pre_eol=4), "mmcblk0: EXT_CSD: 0x04 has no meaning"),
        (Responder(error=errno.EPERM), "mmcblk0: Operation not permitted"),
        (Responder(error=errno.ETIMEDOUT), "mmcblk0: Connection timed out"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(responder: Responder, told: str, tmp_path: Path) -> None:
    with pytest.raises(SensorError, match=told):
        sensor(tmp_path, "pre_eol", responder).read()


def test_what_is_no_emmc_says_so(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(512))
    with pytest.raises(SensorError, match="disk: Inappropriate ioctl for device"):
        ExtCsd("emmc0.x", "disk", "pre_eol", root=tmp_path).read()
    with pytest.raises(SensorError, match="none: No such file or directory"):
        ExtCsd("emmc0.x", "none", "pre_eol", root=tmp_path).read()


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for responder in (Responder(), Responder(error=errno.EIO)):
        asked = sensor(tmp_path, "pre_eol", responder)
        for _ in range(3):
            try:
                asked.read()
            except SensorError as error:
                assert "Input/output error" in str(error)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
