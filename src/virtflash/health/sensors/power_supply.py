"""The voltage of a power supply of Linux: /sys/class/power_supply/NAME/voltage_now."""

from pathlib import Path

from virtflash.config.measured import MEASURES
from virtflash.health.sensors.attribute import listed, read_integer
from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SensorError

SYS = Path("/sys")


class PowerSupply:
    """`supply`: its name, such as "battery"."""

    unit = MEASURES["voltage"].unit

    def __init__(self, name: str, supply: str, *, root: Path = SYS, period: float = SECONDS_BETWEEN) -> None:
        self.name, self.period = name, period
        self._supply, self._root = supply, root / "class" / "power_supply"

    def read(self) -> float:
        directory = self._root / self._supply
        if not directory.is_dir():
            there = listed(sorted(supply.name for supply in self._root.glob("*")))
            raise SensorError(f"{self._root}: there is no supply {self._supply!r}; there are: {there}")
        volts = read_integer(directory / "voltage_now") / 1e6
        if volts < 0:
            raise SensorError(f"{directory / 'voltage_now'}: {volts:g} V is no voltage of a supply")
        return volts
