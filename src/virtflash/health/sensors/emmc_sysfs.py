"""What the kernel tells of an eMMC's health: /sys/block/mmcblkN/device/{pre_eol_info,life_time}.

The kernel read it when the card was initialised, and never again: `ext_csd` asks the part itself.
"""

from pathlib import Path

from virtflash.config.measured import MEASURES
from virtflash.health.sensors.attribute import integer, read_text
from virtflash.health.sensors.emmc_codes import figure
from virtflash.health.sensors.sensor import SECONDS_BETWEEN_WEAR, SensorError

SYS = Path("/sys")


class EmmcSysfs:
    """`device`: such as "mmcblk0". `quantity`: one of `emmc_codes.QUANTITIES`."""

    def __init__(
        self, name: str, device: str, quantity: str, *, root: Path = SYS, period: float = SECONDS_BETWEEN_WEAR
    ) -> None:
        self.name, self.unit, self.period = name, MEASURES[quantity].unit, period
        self._quantity = quantity
        self._directory = root / "block" / device / "device"

    def read(self) -> float:
        if self._quantity == "pre_eol":
            path = self._directory / "pre_eol_info"
            (code,) = codes_of(path, 1)
            return figure(str(path), self._quantity, (code, 0, 0))
        path = self._directory / "life_time"
        type_a, type_b = codes_of(path, 2)
        return figure(str(path), self._quantity, (0, type_a, type_b))


def codes_of(path: Path, count: int) -> list[int]:
    """Hexadecimal, as "0x01 0x02". SensorError."""
    words = read_text(path).split()
    if len(words) != count:
        raise SensorError(f"{path}: {len(words)} numbers; there should be {count}")
    return [integer(path, word, 16) for word in words]
