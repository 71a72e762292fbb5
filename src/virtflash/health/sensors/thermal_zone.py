"""A thermal zone of Linux: /sys/class/thermal/thermal_zoneN."""

from pathlib import Path

from virtflash.config.measured import MEASURES
from virtflash.health.sensors.attribute import listed, read_celsius, read_text, says
from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SensorError

SYS = Path("/sys")


class ThermalZone:
    """`zone`: its type, such as "soc-thermal", or its directory, such as "thermal_zone0", where several are of a type.
    It is looked for at each reading: numbers change when drivers come and go."""

    unit = MEASURES["temperature"].unit

    def __init__(self, name: str, zone: str, *, root: Path = SYS, period: float = SECONDS_BETWEEN) -> None:
        self.name, self.period = name, period
        self._zone, self._root = zone, root / "class" / "thermal"

    def read(self) -> float:
        return read_celsius(self._find() / "temp")

    def _find(self) -> Path:
        zones = sorted(self._root.glob("thermal_zone*"))
        matching = [zone for zone in zones if zone.name == self._zone or says(zone / "type", self._zone)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            several = listed([zone.name for zone in matching])
            raise SensorError(f"{self._root}: several zones are of type {self._zone!r}; name one of {several}")
        raise SensorError(f"{self._root}: there is no zone {self._zone!r}; there are: {listed(types_of(zones))}")


def types_of(zones: list[Path]) -> list[str]:
    types = []
    for zone in zones:
        try:
            types.append(read_text(zone / "type"))
        except SensorError:
            types.append(zone.name)  # it can still be named by that
    return types
