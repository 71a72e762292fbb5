"""A section of the configuration becomes a sensor."""

from pathlib import Path
from typing import Literal

from virtflash.config.sensors import Sensor as SensorSection
from virtflash.config.sensors import measure_in, period_of, quantity_of, sensor_name
from virtflash.health.sensors.emmc_sysfs import EmmcSysfs
from virtflash.health.sensors.ext_csd import ExtCsd
from virtflash.health.sensors.hwmon import Hwmon
from virtflash.health.sensors.power_supply import PowerSupply
from virtflash.health.sensors.pushed import Pushed
from virtflash.health.sensors.sensor import Sensor
from virtflash.health.sensors.thermal_zone import ThermalZone

ROOT = Path("/")


def make_sensor(name: str, section: SensorSection, pushed: Pushed, *, root: Path = ROOT) -> Sensor:
    """As [sensor.NAME] says, of a section in which nothing is wrong. Nothing is read, and nothing need be there yet.

    root: above sys and dev.
    """
    called, quantity, period = sensor_name(name, section), quantity_of(section), period_of(section)
    match section.kind:
        case "thermal_zone":
            return ThermalZone(called, needed(section.zone), root=root / "sys", period=period)
        case "hwmon":
            measured: Literal["temperature", "voltage"] = "voltage" if quantity == "voltage" else "temperature"
            chip = needed(section.chip)
            return Hwmon(called, chip, section.label, quantity=measured, root=root / "sys", period=period)
        case "emmc":
            return EmmcSysfs(called, needed(section.device), needed(quantity), root=root / "sys", period=period)
        case "ext_csd":
            return ExtCsd(called, needed(section.device), needed(quantity), root=root / "dev", period=period)
        case "power_supply":
            return PowerSupply(called, needed(section.supply), root=root / "sys", period=period)
        case "pushed":
            return pushed.sensor(called, measure_in({name: section}, called).unit, period=period)


def needed(value: str | None) -> str:
    assert value is not None  # contradictions were told before
    return value
