"""[sensor.NAME]: what it makes, what rules call it, and the line of each mistake."""

import tomllib
from pathlib import Path
from typing import get_args, get_type_hints

import jsonschema
import pytest
from hand_clock import HandClock
from sensor_trees import plant

from virtflash.config import ConfigurationError
from virtflash.config.json_schema import json_schema
from virtflash.config.measured import MEASURES
from virtflash.config.reading import bare_type, parse_configuration
from virtflash.config.sensors import KINDS, Sensor
from virtflash.health.defaults import rules_of
from virtflash.health.platform_state import PlatformState
from virtflash.health.sensors.configured import make_sensor
from virtflash.health.sensors.pushed import Pushed
from virtflash.health.sensors.sensor import SensorError

ROOT = Path(__file__).parents[2]
FLASHES = """[flash.emmc0]
kind = "emmc"
path = "emmc0.vflash"

[volume.radio]
flash = "emmc0"
size = "1 GiB"
socket = "run/radio.sock"

"""
TREE = {
    "sys/class/thermal/thermal_zone0/type": "soc",
    "sys/class/thermal/thermal_zone0/temp": "61000",
    "sys/class/hwmon/hwmon0/name": "tmp102",
    "sys/class/hwmon/hwmon0/temp1_input": "62000",
    "sys/class/hwmon/hwmon0/temp1_label": "board",
    "sys/class/hwmon/hwmon0/in0_input": "3300",
    "sys/block/mmcblk0/device/life_time": "0x02 0x03",
    "sys/block/mmcblk0/device/pre_eol_info": "0x01",
    "sys/class/power_supply/battery/voltage_now": "12500000",
}
# A section, what rules call the sensor, its unit, its period in seconds and its reading in TREE.
MADE = [
    ('kind = "thermal_zone"\nzone = "soc"', "platform.s", "degC", 1.0, 61.0),
    ('kind = "thermal_zone"\nzone = "soc"\nflash = "emmc0"', "emmc0.temperature", "degC", 1.0, 61.0),
    ('kind = "thermal_zone"\nzone = "soc"\nperiod = "100 ms"', "platform.s", "degC", 0.1, 61.0),
    ('kind = "hwmon"\nchip = "tmp102"', "platform.s", "degC", 1.0, 62.0),
    ('kind = "hwmon"\nchip = "tmp102"\nlabel = "board"\nflash = "emmc0"', "emmc0.temperature", "degC", 1.0, 62.0),
    ('kind = "hwmon"\nchip = "tmp102"\nquantity = "voltage"\nflash = "emmc0"', "emmc0.voltage", "V", 1.0, 3.3),
    ('kind = "emmc"\ndevice = "mmcblk0"\nquantity = "life_time_b"', "platform.s", "%", 10.0, 30),
    ('kind = "emmc"\ndevice = "mmcblk0"\nquantity = "pre_eol"\nflash = "emmc0"', "emmc0.pre_eol", "", 10.0, 1),
    ('kind = "power_supply"\nsupply = "battery"\nperiod = "10 ms"', "platform.s", "V", 0.01, 12.5),
]


def section(text: str) -> Sensor:
    return parse_configuration(f"{FLASHES}[sensor.s]\n{text}\n", "car.toml").sensor["s"]


@pytest.mark.parametrize(("text", "name", "unit", "period", "reading"), MADE)
def test_each_kind_is_made(text: str, name: str, unit: str, period: float, reading: float, tmp_path: Path) -> None:
    sensor = make_sensor("s", section(text), Pushed(), root=plant(tmp_path, TREE))
    assert (sensor.name, sensor.unit, sensor.period, sensor.read()) == (name, unit, period, reading)


@pytest.mark.parametrize(
    ("text", "name", "unit"),
    [
        ('kind = "pushed"', "platform.s", ""),
        ('kind = "pushed"\nquantity = "temperature"', "platform.s", "degC"),
        ('kind = "pushed"\nquantity = "spare"\nflash = "emmc0"', "emmc0.spare", "%"),
    ],
)
def test_a_pushed_one_waits_for_its_value(text: str, name: str, unit: str) -> None:
    pushed = Pushed(HandClock().now)
    sensor = make_sensor("s", section(text), pushed)
    assert (sensor.name, sensor.unit) == (name, unit)
    pushed.push(name, 4, 1.0)
    assert sensor.read() == 4


def test_one_that_asks_the_part_itself_is_made(tmp_path: Path) -> None:
    text = 'kind = "ext_csd"\ndevice = "mmcblk0"\nquantity = "life_time_a"'
    sensor = make_sensor("s", section(text), Pushed(), root=plant(tmp_path, {"dev/mmcblk0": ""}))
    assert (sensor.name, sensor.unit, sensor.period) == ("platform.s", "%", 10.0)
    with pytest.raises(SensorError, match="dev/mmcblk0: Inappropriate ioctl"):
        sensor.read()


# The sections from line 10 on, and the lines of their mistakes.
WRONG = [
    ("[sensor.s]", ["10: [sensor.s] kind: this is missing: where it comes from"]),
    (
        '[sensor.s]\nkind = "radar"',
        ["11: [sensor.s] kind: one of thermal_zone, hwmon, emmc, ext_csd, power_supply, pu"],
    ),
    (
        '[sensor.s]\nkind = "thermal_zone"',
        ["10: [sensor.s] zone: this is missing: a sensor of kind thermal_zone needs"],
    ),
    ('[sensor.s]\nkind = "hwmon"', ["10: [sensor.s] chip: this is missing"]),
    ('[sensor.s]\nkind = "power_supply"', ["10: [sensor.s] supply: this is missing"]),
    (
        '[sensor.s]\nkind = "emmc"',
        ["10: [sensor.s] device: this is missing", "10: [sensor.s] quantity: this is missing: one of life_time_a, "],
    ),
    (
        '[sensor.s]\nkind = "emmc"\ndevice = "../sda"\nquantity = "pre_eol"',
        ["12: [sensor.s] device: expected str matching regex"],
    ),
    (
        '[sensor.s]\nkind = "ext_csd"\ndevice = "mmcblk0"\nquantity = "temperature"',
        ["13: [sensor.s] quantity: a sensor of kind ext_csd measures life_time_a, life_time_b, "],
    ),
    (
        '[sensor.s]\nkind = "thermal_zone"\nzone = "a"\nchip = "b"',
        ["13: [sensor.s] chip: a sensor of kind thermal_zone has no such key; it has: zone"],
    ),
    (
        '[sensor.s]\nkind = "pushed"\nzone = "a"',
        ["12: [sensor.s] zone: a sensor of kind pushed has no such key; it has: none of its own"],
    ),
    ('[sensor.s]\nkind = "pushed"\nzone = 1', ["12: [sensor.s] zone: expected str, got int"]),
    (
        '[sensor.s]\nkind = "pushed"\nflash = "emmc0"',
        ["10: [sensor.s] quantity: this is missing: one of temperature, voltage, "],
    ),
    (
        '[sensor.s]\nkind = "pushed"\nflash = "emmc1"\nquantity = "spare"',
        ["12: [sensor.s] flash: there is no [flash.emmc1]; there are: emmc0"],
    ),
    ('[sensor.s]\nkind = "pushed"\nperiod = "0 s"', ["12: [sensor.s] period: shorter than 10 ms"]),
    ('[sensor.s]\nkind = "pushed"\nperiod = 1', ['12: [sensor.s] period: a time is written like "5 s"']),
    ('[sensor.s]\nkind = "pushed"\ncolour = 1', ["12: [sensor.s] colour: there is no such key; there are: kind"]),
    (
        '[sensor.s]\nkind = "pushed"\nflash = "emmc0"\nquantity = "spare"\n'
        '[sensor.t]\nkind = "pushed"\nflash = "emmc0"\nquantity = "spare"',
        ["14: [sensor.t]: [sensor.s] measures emmc0.spare already"],
    ),
    ('[sensor."a b"]\nkind = "pushed"', ["10: [sensor.a b]: a name is up to 63 letters"]),
    ("sensor = 1", ["9: [volume.radio] sensor: there is no such key"]),
    ("[sensor]\ns = 1", ["11: [sensor.s]: a table is expected here"]),
    ("[[sensor]]", ["10: [sensor]: tables are expected here; write [sensor.NAME]"]),
    (
        '[flash.platform]\nkind = "emmc"\npath = "other"',
        ["10: [flash.platform]: that is what the sensors of the platform are called by; name the flash otherwise"],
    ),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_each_mistake_is_told_in_one_line(text: str, told: list[str]) -> None:
    begin = FLASHES.removesuffix("\n") if text == "sensor = 1" else FLASHES
    with pytest.raises(ConfigurationError) as raised:
        parse_configuration(begin + text + "\n", "car.toml")
    assert len(raised.value.problems) == len(told), raised.value.problems
    for problem, line in zip(raised.value.problems, told, strict=True):
        assert problem.startswith(f"car.toml:{line}")


SOC = '[sensor.soc]\nkind = "thermal_zone"\nzone = "soc"'
RAIL = '[sensor.rail]\nkind = "pushed"\nquantity = "voltage"'
BARE = '[sensor.load]\nkind = "pushed"'
WEAR = '[sensor.wear]\nkind = "emmc"\ndevice = "mmcblk0"\nquantity = "life_time_b"'
# A section, the sensor of a rule, its other keys, the threshold as a reading and as it is shown.
RULES = [
    (SOC, "platform.soc", 'above = "358.15 K"', 85.0, "85 degC"),
    (SOC, "platform.soc", 'above = "85 degC"\nuntil = "80 degC"', 85.0, "85 degC"),
    (RAIL, "platform.rail", 'below = "9500 mV"', 9.5, "9.5 V"),
    (BARE, "platform.load", "above = 12", 12.0, "12"),
    (WEAR, "platform.wear", 'above = "80 %"', 80.0, "80 %"),
    (SOC + '\nflash = "emmc0"', "emmc0.temperature", 'above = "85 degC"', 85.0, "85 degC"),
    (SOC + '\nperiod = "1 min"', "platform.soc", 'above = "85 degC"\nstale = "61 s"', 85.0, "85 degC"),
]
# The same, and the mistake.
WRONG_RULES = [
    (SOC, "platform.soc", "above = 85", '[[health.rule]] above: a temperature is written like "85 degC" or "358 K"'),
    (SOC, "platform.soc", 'above = "2.7 V"', "[[health.rule]] above: a temperature is written like"),
    (BARE, "platform.load", 'above = "85 degC"', "[[health.rule]] above: a number is expected"),
    (
        SOC + '\nperiod = "30 s"',
        "platform.soc",
        'above = "85 degC"',
        "[[health.rule]] stale: its sensor is read each 30 s only, and stale after 30 s; name more",
    ),
    (
        WEAR,
        "platform.wear",
        'above = "80 %"\nstale = "10 s"',
        "[[health.rule]] stale: its sensor is read each 10 s only, and stale after 10 s; name more",
    ),
    # Nothing is said of what depends on another mistake.
    (SOC + "\nlabel = 1", "platform.soc", "above = 85", "[sensor.soc] label: expected str, got int"),
    (SOC.replace("zone =", "zoen ="), "platform.soc", "above = 85", "[sensor.soc] zoen: there is no such key"),
]


def ruled(section: str, sensor: str, keys: str) -> str:
    return f'{FLASHES}{section}\n[[health.rule]]\nsensor = "{sensor}"\nstate = "read-only"\n{keys}\n'


@pytest.mark.parametrize(("section", "sensor", "keys", "threshold", "shown"), RULES)
def test_a_section_says_how_thresholds_are_written(
    section: str, sensor: str, keys: str, threshold: float, shown: str
) -> None:
    configuration = parse_configuration(ruled(section, sensor, keys), "car.toml")
    (rule,) = [rule for rule in rules_of(configuration, [sensor]) if rule.answer is PlatformState.READ_ONLY][:1]
    assert (rule.sensor, rule.threshold, rule.show(rule.threshold)) == (sensor, pytest.approx(threshold), shown)


@pytest.mark.parametrize(("section", "sensor", "keys", "told"), WRONG_RULES)
def test_a_rule_that_does_not_go_with_its_section_is_told(section: str, sensor: str, keys: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_configuration(ruled(section, sensor, keys), "car.toml")
    assert told in raised.value.problems[0]
    assert not [problem for problem in raised.value.problems[1:] if "[[health.rule]]" in problem]


def test_the_words_of_the_configuration_are_those_of_the_sensors() -> None:
    hints = get_type_hints(Sensor, include_extras=True)
    assert set(get_args(bare_type(hints["quantity"]))) == set(MEASURES)
    assert get_args(bare_type(hints["kind"])) == tuple(KINDS)
    for kind in KINDS.values():
        assert set(kind.quantities) <= set(MEASURES)


@pytest.mark.parametrize("text", [text for text, *_ in MADE])
def test_the_schema_takes_what_the_reader_takes(text: str) -> None:
    tables = tomllib.loads(f"{FLASHES}[sensor.s]\n{text}\n")
    jsonschema.validate(tables, json_schema())
    tables["sensor"]["s"]["kind"] = "radar"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tables, json_schema())


def test_the_manual_names_every_quantity_and_kind() -> None:
    text = (ROOT / "docs" / "sensors.md").read_text()
    assert [word for word in (*MEASURES, *KINDS) if f"`{word}`" not in text and f'"{word}"' not in text] == []
