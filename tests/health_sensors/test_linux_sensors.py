"""Sensors of Linux: what each reads of a tree, and the line that it tells of every tree that is wrong."""

from pathlib import Path

import pytest
from sensor_trees import plant

from virtflash.health.sensors.emmc_sysfs import EmmcSysfs
from virtflash.health.sensors.hwmon import Hwmon
from virtflash.health.sensors.power_supply import PowerSupply
from virtflash.health.sensors.sensor import Sensor, SensorError
from virtflash.health.sensors.thermal_zone import ThermalZone

ZONES = {
    "class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "class/thermal/thermal_zone0/temp": "45123\n",
    "class/thermal/thermal_zone1/type": "gpu\n",
    "class/thermal/thermal_zone1/temp": "-40000\n",
    "class/thermal/thermal_zone2/type": "pmic\n",
    "class/thermal/thermal_zone2/temp": "10\n",
    "class/thermal/thermal_zone3/type": "pmic\n",
    "class/thermal/thermal_zone3/temp": "20500\n",
    "class/thermal/cooling_device0/type": "fan\n",
}
CHIPS = {
    "class/hwmon/hwmon0/name": "tmp102\n",
    "class/hwmon/hwmon0/temp1_input": "61500\n",
    "class/hwmon/hwmon1/name": "nvme\n",
    "class/hwmon/hwmon1/temp1_input": "30000\n",
    "class/hwmon/hwmon1/temp1_label": "Composite\n",
    "class/hwmon/hwmon1/temp2_input": "31000\n",
    "class/hwmon/hwmon1/temp2_label": "Sensor 1\n",
    "class/hwmon/hwmon2/name": "nvme\n",
    "class/hwmon/hwmon2/temp1_input": "-5000\n",
    "class/hwmon/hwmon2/temp1_label": "Composite\n",
    "class/hwmon/hwmon3/name": "ina3221\n",
    "class/hwmon/hwmon3/in0_input": "3312\n",
    "class/hwmon/hwmon3/in0_label": "VCC\n",
    "class/hwmon/hwmon3/in1_input": "-12000\n",
    "class/hwmon/hwmon4/name": "diode\n",
    "class/hwmon/hwmon4/temp1_input": "0\n",
    "class/hwmon/hwmon4/temp1_fault": "1\n",
    "class/hwmon/hwmon4/temp2_input": "25000\n",
    "class/hwmon/hwmon4/temp2_fault": "0\n",
    "class/hwmon/hwmon5/temp1_input": "1\n",  # without a name
}


@pytest.mark.parametrize(
    ("zone", "celsius"), [("cpu-thermal", 45.123), ("gpu", -40.0), ("thermal_zone2", 0.01), ("thermal_zone3", 20.5)]
)
def test_a_thermal_zone_is_read(zone: str, celsius: float, tmp_path: Path) -> None:
    sensor = ThermalZone("platform.soc", zone, root=plant(tmp_path, ZONES))
    assert (sensor.name, sensor.unit) == ("platform.soc", "degC")
    assert sensor.read() == pytest.approx(celsius)


@pytest.mark.parametrize(
    ("chip", "label", "quantity", "value"),
    [
        ("tmp102", None, "temperature", 61.5),
        ("tmp102", "temp1", "temperature", 61.5),
        ("nvme", "Sensor 1", "temperature", 31.0),
        ("nvme", "temp2", "temperature", 31.0),
        ("hwmon2", "Composite", "temperature", -5.0),
        ("hwmon2", None, "temperature", -5.0),
        ("ina3221", "VCC", "voltage", 3.312),
        ("ina3221", "in1", "voltage", -12.0),
        ("diode", "temp2", "temperature", 25.0),
    ],
)
def test_an_input_of_a_chip_is_read(chip: str, label: str | None, quantity: str, value: float, tmp_path: Path) -> None:
    sensor = Hwmon("platform.x", chip, label, quantity=quantity, root=plant(tmp_path, CHIPS))  # type: ignore[arg-type]
    assert sensor.unit == {"temperature": "degC", "voltage": "V"}[quantity]
    assert sensor.read() == pytest.approx(value)


def test_numbers_of_directories_may_change_between_two_readings(tmp_path: Path) -> None:
    sensor = Hwmon("platform.x", "tmp102", root=plant(tmp_path, CHIPS))
    assert sensor.read() == 61.5
    directory = tmp_path / "class/hwmon"
    (directory / "hwmon0").rename(directory / "hwmon17")
    assert sensor.read() == 61.5


EMMC = {"block/mmcblk0/device/life_time": "0x02 0x0B\n", "block/mmcblk0/device/pre_eol_info": "0x01\n"}


@pytest.mark.parametrize(
    ("quantity", "unit", "value"),
    [
        ("life_time_a", "%", 20),
        ("life_time_b", "%", 110),
        ("life_time_a_code", "", 2),
        ("life_time_b_code", "", 11),
        ("pre_eol", "", 1),
    ],
)
def test_the_health_of_an_emmc_is_read(quantity: str, unit: str, value: float, tmp_path: Path) -> None:
    sensor = EmmcSysfs("emmc0.x", "mmcblk0", quantity, root=plant(tmp_path, EMMC))
    assert (sensor.unit, sensor.read()) == (unit, value)


def test_the_voltage_of_a_supply_is_read(tmp_path: Path) -> None:
    root = plant(tmp_path, {"class/power_supply/battery/voltage_now": "12650000\n"})
    sensor = PowerSupply("platform.battery", "battery", root=root)
    assert (sensor.unit, sensor.read()) == ("V", pytest.approx(12.65))


def zone(root: Path) -> Sensor:
    return ThermalZone("platform.soc", "soc", root=root)


def chip(root: Path) -> Sensor:
    return Hwmon("platform.soc", "tmp102", root=root)


def labelled(root: Path) -> Sensor:
    return Hwmon("platform.soc", "nvme", "Composite", root=root)


def life_time(root: Path) -> Sensor:
    return EmmcSysfs("emmc0.x", "mmcblk0", "life_time_b", root=root)


def pre_eol(root: Path) -> Sensor:
    return EmmcSysfs("emmc0.x", "mmcblk0", "pre_eol", root=root)


def supply(root: Path) -> Sensor:
    return PowerSupply("platform.battery", "battery", root=root)


SOC = "class/thermal/thermal_zone0/"
TMP = "class/hwmon/hwmon0/"
CARD = "block/mmcblk0/device/"
BATTERY = "class/power_supply/battery/voltage_now"
WRONG = [
    (zone, {}, "class/thermal: there is no zone 'soc'; there are: none"),
    (zone, ZONES, "class/thermal: there is no zone 'soc'; there are: cpu-thermal, gpu, pmic, pmic"),
    (
        zone,
        {SOC + "type": "soc", "class/thermal/thermal_zone7/type": "soc"},
        "several zones are of type 'soc'; name one of thermal_zone0, thermal_zone7",
    ),
    (zone, {SOC + "type": "soc"}, SOC + "temp: No such file or directory"),
    (zone, {SOC + "type": "soc", SOC + "temp": ""}, SOC + "temp: it is empty"),
    (zone, {SOC + "type": "soc", SOC + "temp": " \n"}, SOC + "temp: it is empty"),
    (zone, {SOC + "type": "soc", SOC + "temp": "warm\n"}, SOC + "temp: a number is expected; it says 'warm'"),
    (zone, {SOC + "type": "soc", SOC + "temp": "4" * 90}, "a number|is no temperature"),
    (zone, {SOC + "type": "soc", SOC + "temp": "45.5"}, SOC + "temp: a number is expected; it says '45.5'"),
    (zone, {SOC + "type": "soc", SOC + "temp": "1\n2"}, r"it says '1\\n2'"),
    (zone, {SOC + "type": "soc", SOC + "temp": b"\xff\xfe"}, SOC + "temp: there is no text in it"),
    (zone, {SOC + "type": "soc", SOC + "temp": "-274000"}, SOC + "temp: -274 degC is no temperature"),
    (zone, {SOC + "type": "soc", SOC + "temp": "4294967295"}, "degC is no temperature"),
    (zone, {SOC + "type": "soc", SOC + "temp/x": ""}, SOC + "temp: Is a directory"),
    (chip, {}, "class/hwmon: there is no chip 'tmp102' among none"),
    (chip, {TMP + "name": "lm75"}, "class/hwmon: there is no chip 'tmp102' among hwmon0"),
    (chip, {TMP + "name": "tmp102"}, "class/hwmon: tmp102 has no temperature; it has: none"),
    (
        chip,
        {TMP + "name": "tmp102", TMP + "temp1_input": "?"},
        TMP + r"temp1_input: a number is expected; it says '\?'",
    ),
    (
        chip,
        {TMP + "name": "tmp102", TMP + "temp1_input": "1", TMP + "temp2_input": "2", TMP + "temp2_label": "board"},
        r"several inputs would do; name one by chip and label: hwmon0/temp1, hwmon0/temp2 \(board\)",
    ),
    (
        chip,
        {TMP + "name": "tmp102", TMP + "temp1_input": "1000", TMP + "temp1_fault": "1"},
        TMP + "temp1_fault: the chip says that this input is broken",
    ),
    (labelled, CHIPS, r"several inputs would do.*hwmon1/temp1 \(Composite\), .*hwmon2/temp1 \(Composite\)"),
    (
        labelled,
        {TMP + "name": "nvme", TMP + "temp1_input": "1"},
        "nvme has no temperature 'Composite'; it has: hwmon0/temp1",
    ),
    (life_time, {}, CARD + "life_time: No such file or directory"),
    (life_time, {CARD + "life_time": ""}, CARD + "life_time: it is empty"),
    (life_time, {CARD + "life_time": "0x01"}, CARD + "life_time: 1 numbers; there should be 2"),
    (life_time, {CARD + "life_time": "0x01 soon"}, CARD + "life_time: a number is expected; it says 'soon'"),
    (life_time, {CARD + "life_time": "0x01 0x00"}, CARD + "life_time: it is 0: the part does not tell"),
    (life_time, {CARD + "life_time": "0x01 0x0c"}, CARD + "life_time: 0x0c has no meaning; the highest is 0x0b"),
    (pre_eol, {CARD + "pre_eol_info": "0x00"}, CARD + "pre_eol_info: it is 0: the part does not tell"),
    (pre_eol, {CARD + "pre_eol_info": "0x04"}, CARD + "pre_eol_info: 0x04 has no meaning"),
    (pre_eol, {CARD + "pre_eol_info": "0x01 0x01"}, CARD + "pre_eol_info: 2 numbers; there should be 1"),
    (supply, {}, "class/power_supply: there is no supply 'battery'; there are: none"),
    (supply, {"class/power_supply/usb/online": "1"}, "there is no supply 'battery'; there are: usb"),
    (supply, {"class/power_supply/battery/online": "1"}, BATTERY + ": No such file or directory"),
    (supply, {BATTERY: "full"}, BATTERY + ": a number is expected; it says 'full'"),
    (supply, {BATTERY: "-1000000"}, BATTERY + ": -1 V is no voltage of a supply"),
]


@pytest.mark.parametrize(("make", "tree", "told"), WRONG)
def test_what_is_wrong_is_told_in_one_line(make, tree: dict[str, str | bytes], told: str, tmp_path: Path) -> None:
    sensor = make(plant(tmp_path, tree))
    with pytest.raises(SensorError, match=told) as raised:
        sensor.read()
    assert str(raised.value).isprintable()
    assert str(raised.value).startswith(str(tmp_path))


def test_a_file_that_may_not_be_read_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = zone(plant(tmp_path, {SOC + "type": "soc", SOC + "temp": "1"}))

    def refused(path: Path, *_mode: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    assert sensor.read() == 0.001
    monkeypatch.setattr("virtflash.health.sensors.attribute.says", lambda *_: True)
    monkeypatch.setattr("virtflash.health.sensors.thermal_zone.says", lambda *_: True)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(SensorError, match="temp: Permission denied"):
        sensor.read()
