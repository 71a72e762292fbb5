"""The health of a real eMMC, asked of the part itself: SEND_EXT_CSD by the ioctl MMC_IOC_CMD.

Numbers and layout from Linux, include/uapi/linux/mmc/ioctl.h and include/linux/mmc/{core,mmc}.h. It takes
CAP_SYS_RAWIO, and the node of the whole device.
"""

import ctypes
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from virtflash.backing.emmc.ext_csd import BY_NAME, EXT_CSD_BYTES
from virtflash.config.measured import MEASURES
from virtflash.health.sensors.emmc_codes import figure
from virtflash.health.sensors.sensor import SECONDS_BETWEEN_WEAR, SensorError

DEV = Path("/dev")
# write_flag, is_acmd; opcode, arg, response[4], flags, blksz, blocks, postsleep_min_us, postsleep_max_us,
# data_timeout_ns, cmd_timeout_ms, padding; data_ptr
COMMAND = struct.Struct("=2i14IQ")
MMC_IOC_CMD = 3 << 30 | COMMAND.size << 16 | 179 << 8  # _IOWR(179, 0, struct mmc_ioc_cmd)
SEND_EXT_CSD = 8
R1, SPI_R1, ADTC = 0x15, 0x80, 0x20  # how it answers; and that data follows, from the part
HEALTH = ("PRE_EOL_INFO", "DEVICE_LIFE_TIME_EST_TYP_A", "DEVICE_LIFE_TIME_EST_TYP_B")

Ioctl = Callable[[int, int, bytearray], object]


class ExtCsd:
    """`device`: such as "mmcblk0". `quantity`: one of `emmc_codes.QUANTITIES`."""

    def __init__(
        self,
        name: str,
        device: str,
        quantity: str,
        *,
        root: Path = DEV,
        ioctl: Ioctl = fcntl.ioctl,
        period: float = SECONDS_BETWEEN_WEAR,
    ) -> None:
        self.name, self.unit, self.period = name, MEASURES[quantity].unit, period
        self._quantity, self._path, self._ioctl = quantity, root / device, ioctl

    def read(self) -> float:
        register = self._register()
        pre_eol, type_a, type_b = (register[BY_NAME[field].index] for field in HEALTH)
        return figure(f"{self._path}: EXT_CSD", self._quantity, (pre_eol, type_a, type_b))

    def _register(self) -> bytes:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return send_ext_csd(fd, self._ioctl)
            finally:
                os.close(fd)
        except OSError as error:
            raise SensorError(f"{self._path}: {error.strerror}") from None


def send_ext_csd(fd: int, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """The register of an eMMC. OSError: EPERM, it may not be asked; ENOTTY, it is none; ETIMEDOUT, EIO."""
    register = ctypes.create_string_buffer(EXT_CSD_BYTES)
    flags = SPI_R1 | R1 | ADTC
    command = bytearray(
        COMMAND.pack(
            0, 0, SEND_EXT_CSD, 0, 0, 0, 0, 0, flags, EXT_CSD_BYTES, 1, 0, 0, 0, 0, 0, ctypes.addressof(register)
        )
    )
    ioctl(fd, MMC_IOC_CMD, command)
    return register.raw
