"""The rules that a flash has by itself: right by the checks of any configuration, and as the manual lists them."""

import re
import tomllib
from pathlib import Path

import pytest

from virtflash.config.configuration import Rule as Written
from virtflash.config.measured import MEASURES, measure_of
from virtflash.config.reading import parse_configuration
from virtflash.health.defaults import DEFAULTS, defaults_of, rules_of
from virtflash.health.platform_state import PlatformState
from virtflash.health.policy import Policy
from virtflash.health.rule import ALARM, STALE_SECONDS, WRITE_RATE, Answer, Rule

ROOT = Path(__file__).parents[2]
NORMAL, DURABLE, THROTTLED, READ_ONLY, OFFLINE = PlatformState
BASE = """[flash.f]
kind = "{kind}"
path = "f.vflash"
[volume.cluster]
flash = "f"
size = "1 GiB"
socket = "c.sock"
[volume.radio]
flash = "f"
size = "1 GiB"
socket = "r.sock"
"""
ALL = frozenset(f"f.{quantity}" for quantity in MEASURES)


def rules_by(text: str, kind: str = "emmc", sensors: frozenset[str] = ALL) -> list[Rule]:
    return rules_of(parse_configuration(BASE.format(kind=kind) + text, "car.toml"), sensors)


def states_at(rules: list[Rule], sensor: str, reading: float) -> dict[str, Answer]:
    """Of each volume, when the sensor has said so for 40 s, and the others what they usually say."""
    policy = Policy(rules, {"cluster": "f", "radio": "f"}, 0.0)
    for second in (0.0, 20.0, 40.0):
        for each in policy.sensors:
            policy.take(each, reading if each == sensor else USUAL[each.partition(".")[2]], second)
    return {name: verdict.state for name, verdict in policy.verdicts(40.0).items()}


USUAL = {
    "temperature": 40.0,
    "pre_eol": 1.0,
    "life_time_a_code": 1.0,
    "life_time_b_code": 1.0,
    "voltage": 3.3,
    "life_time_b": 5.0,
}


@pytest.mark.parametrize("kind", ["emmc", "nand", "nor"])
def test_each_kind_has_rules_that_a_configuration_may_have(kind: str) -> None:
    """Written into a file, by hand as it were, they are read without a mistake, and mean the same."""
    text = "[health]\ndefaults = false\n" + "".join(toml(written) for written in DEFAULTS[kind])
    assert rules_by(text, kind) == rules_by("", kind) == list(defaults_of("f", kind))
    assert len(rules_by("", kind)) > 5
    assert {rule.sensor.partition(".")[2] for rule in rules_by("", kind)} <= MEASURES.keys()


def toml(written: Written) -> str:
    keys = {key: getattr(written, key) for key in ("above", "below", "until", "state", "on_enter", "on_stale")}
    keys |= {"sensor": f"f.{written.sensor}"}
    keys |= {key: f"{getattr(written, key)} ms" for key in ("delay", "stale") if getattr(written, key) is not None}
    lines = [f"{key} = {value!r}\n" for key, value in keys.items() if value is not None]
    return "[[health.rule]]\n" + "".join(lines)


@pytest.mark.parametrize(
    ("kind", "sensor", "reading", "state"),
    [
        ("emmc", "f.temperature", 85.5, NORMAL),
        ("emmc", "f.temperature", 96, THROTTLED),
        ("nor", "f.temperature", 105, THROTTLED),
        ("nand", "f.temperature", 106, READ_ONLY),
        ("emmc", "f.temperature", -41, READ_ONLY),
        ("emmc", "f.temperature", -40, NORMAL),
        ("emmc", "f.pre_eol", 2, NORMAL),
        ("emmc", "f.pre_eol", 3, READ_ONLY),
        ("emmc", "f.life_time_b_code", 11, NORMAL),
        ("nand", "f.life_time_b", 150, NORMAL),
        ("emmc", "f.voltage", 2.84, DURABLE),
        ("emmc", "f.voltage", 2.69, READ_ONLY),
        ("nor", "f.voltage", 1.8, NORMAL),
    ],
)
def test_what_they_do(kind: str, sensor: str, reading: float, state: PlatformState) -> None:
    assert states_at(rules_by("", kind), sensor, reading) == {"cluster": state, "radio": state}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_part_in_good_state_is_normal_and_nothing_is_told(kind: str) -> None:
    policy = Policy(rules_by("", kind), {"cluster": "f"}, 0.0)
    for sensor in policy.sensors:
        policy.take(sensor, USUAL[sensor.partition(".")[2]], 0.0)
    (verdict,) = policy.verdicts(29.0).values()
    assert (verdict.state, verdict.alarms) == (NORMAL, ())


def test_there_is_no_default_about_a_sensor_that_is_not_there() -> None:
    assert {rule.sensor for rule in rules_by("", sensors=frozenset({"f.pre_eol", "g.life_time_b"}))} == {"f.pre_eol"}
    own = '[[health.rule]]\nsensor = "f.voltage"\nbelow = "2 V"\nstate = "offline"\n'
    assert [rule.sensor for rule in rules_by(own, sensors=frozenset())] == ["f.voltage"]  # it is stale, and says so


def test_they_can_be_left_out() -> None:
    assert rules_by("[health]\ndefaults = false\n") == []


MINE = '[[health.rule]]\nsensor = "f.temperature"\nabove = "110 degC"\nstate = "read-only"\n'


@pytest.mark.parametrize(
    ("keys", "cluster", "radio"),
    [
        ("", THROTTLED, THROTTLED),
        ('volumes = ["cluster"]\n', THROTTLED, READ_ONLY),
        ('volumes = ["cluster", "radio"]\n', THROTTLED, THROTTLED),
    ],
)
def test_a_rule_of_the_file_replaces_the_default_of_its_state(
    keys: str, cluster: PlatformState, radio: PlatformState
) -> None:
    rules = rules_by(MINE + keys)
    assert states_at(rules, "f.temperature", 107.0) == {"cluster": cluster, "radio": radio}
    assert states_at(rules, "f.temperature", -41.0) == {"cluster": READ_ONLY, "radio": READ_ONLY}  # the other side
    assert states_at(rules, "f.pre_eol", 3.0) == {"cluster": READ_ONLY, "radio": READ_ONLY}


def test_the_manual_lists_them() -> None:
    listed: list[tuple[str, ...]] = []
    for line in (ROOT / "docs/health.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].split(", ")[0] in DEFAULTS:
            listed += [(kind, *cells[1:7]) for kind in cells[0].split(", ")]
    assert sorted(listed) == sorted(row for kind in DEFAULTS for row in rows(kind))


def rows(kind: str) -> list[tuple[str, ...]]:
    return [
        (
            kind,
            rule.sensor.partition(".")[2],
            f"{rule.side} {rule.show(rule.threshold)}",
            rule.show(rule.until),
            f"{rule.delay:g} s",
            "alarm" if rule.answer is ALARM else rule.answer.word,
            ("freeze" if rule.freeze else "flush") if rule.answer in (READ_ONLY, OFFLINE) else "",
        )
        for rule in defaults_of("f", kind)
    ]


def test_the_manual_lists_what_is_measured() -> None:
    text = (ROOT / "docs/health.md").read_text().partition("\n## Sensors\n")[2].partition("\n## ")[0]
    assert set(MEASURES) == set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))


# From a file's words to the policy's numbers

KEYS = """sensor = "f.temperature"
above = "358.15 K"
until = "80 degC"
delay = "1.5 s"
state = "throttled"
limit = "43.2 MB/day"
stale = "2 min"
on_stale = "read-only"
on_enter = "freeze"
volumes = ["radio"]
"""


def test_a_rule_is_read_into_numbers() -> None:
    (rule,) = rules_by(f"[health]\ndefaults = false\n[[health.rule]]\n{KEYS}")
    assert rule == Rule(
        sensor="f.temperature",
        is_above=True,
        threshold=85.0,
        until=80.0,
        answer=THROTTLED,
        delay=1.5,
        stale=120.0,
        on_stale=READ_ONLY,
        freeze=True,
        limit=500,
        volumes=frozenset({"radio"}),
    )


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ('below = 3\nstate = "offline"', "is_above", False),
        ('below = 3\nstate = "offline"', "until", 3.0),
        ('below = 3\nstate = "offline"', "on_stale", DURABLE),
        ('below = 3\nstate = "alarm"', "on_stale", ALARM),
        ('below = 3\nstate = "alarm"\non_stale = "durable"', "on_stale", DURABLE),
        ('below = 3\nstate = "alarm"\non_stale = "normal"', "on_stale", NORMAL),
        ('below = 3\nstate = "throttled"', "limit", WRITE_RATE),
        ('below = 3\nstate = "throttled"\nlimit = "1 B/day"', "limit", 1),
        ('below = 3\nstate = "throttled"', "stale", STALE_SECONDS),
        ('below = 3\nstate = "throttled"', "freeze", False),
    ],
)
def test_what_is_left_out_is_as_the_manual_says(keys: str, field: str, value: object) -> None:
    (rule,) = rules_by(f'[health]\ndefaults = false\n[[health.rule]]\nsensor = "platform.load"\n{keys}\n')
    assert getattr(rule, field) == value


def test_the_example_throttles_infotainment() -> None:
    text = (ROOT / "examples/cockpit.toml").read_text()
    configuration = parse_configuration(text, "cockpit.toml")
    volumes = {name: volume.flash for name, volume in configuration.volume.items()}
    policy = Policy(rules_of(configuration, {"emmc0.temperature"}), volumes, 0.0)
    policy.take("emmc0.temperature", 86.0, 0.0)
    states = {name: verdict.state for name, verdict in policy.verdicts(5.0).items()}
    assert states == {"cluster": NORMAL, "infotainment": THROTTLED, "telematics": NORMAL}
    assert tomllib.loads(text)["health"]["rule"][0]["volumes"] == ["infotainment"]
    assert measure_of("emmc0.temperature").show(86.0) == "86 degC"
