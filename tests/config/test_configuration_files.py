"""Configurations: every mistake in a line of its own, with where it is and what was expected."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest

from virtflash.config import Configuration, ConfigurationError, read_configuration
from virtflash.config.configuration import Flash, Health, Rule, Server, Volume
from virtflash.config.json_schema import json_schema
from virtflash.config.reading import description, parse_configuration
from virtflash.config.section import Section
from virtflash.config.sensors import Sensor

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("virtflash")
EXAMPLE = ROOT / "examples" / "cockpit.toml"
GOOD = """[server]
io = "auto"

[flash.emmc0]
kind = "emmc"
path = "emmc0.vflash"
capacity = "8 GiB"

[volume.cluster]
flash = "emmc0"
size = "2 GiB"
socket = "run/cluster.sock"

[volume.radio]
flash = "emmc0"
size = "1 GiB"
socket = "run/radio.sock"
wear_budget = "20 GB/day"

[[health.rule]]
sensor = "emmc0.temperature"
above = "85 degC"
state = "throttled"
"""

# What is replaced in GOOD, by what, the line of the mistake, and how it is told.
MISUSE = [
    ("[server]", "[sever]", 1, "[sever]: there is no such key; did you mean server?"),
    ('io = "auto"', 'io = "fast"', 2, "[server] io: one of auto, io_uring, io_uring-plain, threads is expected"),
    ('io = "auto"', "io = 7", 2, "[server] io: one of"),
    ('io = "auto"', "reactors = -1", 2, "[server] reactors: expected int >= 0; here it is '-1'"),
    ('io = "auto"', 'reactors = "two"', 2, "[server] reactors: expected int, got str"),
    ('io = "auto"', 'log_levle = "info"', 2, "[server] log_levle: there is no such key; did you mean log_level?"),
    ('io = "auto"', 'color = "red"', 2, "[server] color: there is no such key; there are: log_level"),
    ('[server]\nio = "auto"', "server = 1", 1, "[server]: a table is expected here"),
    ('kind = "emmc"', 'kind = "mmc"', 5, "[flash.emmc0] kind: one of emmc, nand, nor is expected"),
    ('kind = "emmc"\n', "", 4, "[flash.emmc0] kind: this is missing: what it is"),
    ('path = "emmc0.vflash"', "path = ''", 6, "[flash.emmc0] path: expected str of length >= 1"),
    ('path = "emmc0.vflash"', "path = 1", 6, "[flash.emmc0] path: expected str, got int"),
    ('"8 GiB"', '"8 Gigs"', 7, '[flash.emmc0] capacity: a size is written like "8 GiB", "512 MB" or 4096 (bytes)'),
    ('"8 GiB"', '"2 GiB"', 7, "[flash.emmc0] capacity: the volumes on it take 3221225472 bytes, and it has 2147483648"),
    ('capacity = "8 GiB"', "host_sync = 1", 7, "[flash.emmc0] host_sync: expected bool, got int"),
    ('capacity = "8 GiB"', 'timing = "fast"', 7, "[flash.emmc0] timing: one of real, none is expected"),
    ('capacity = "8 GiB"', "temperature = -300.0", 7, "[flash.emmc0] temperature: expected float >= -273.15"),
    ("[volume.cluster]", '[volume."a b"]', 9, "[volume.a b]: a name is up to 63 letters"),
    ("[volume.cluster]", "[volume.instrument-cluster-of-the-car]", 9, "the name is told to the machine in 20 bytes"),
    (
        'flash = "emmc0"\nsize = "2',
        'flash = "emmc1"\nsize = "2',
        10,
        "flash: there is no [flash.emmc1]; there are: emmc0",
    ),
    ('flash = "emmc0"\nsize = "2', 'size = "2', 9, "[volume.cluster] flash: this is missing"),
    ('size = "2 GiB"', "", 9, "[volume.cluster] size: this is missing: what its machine sees"),
    ('size = "2 GiB"', "size = 0", 11, "[volume.cluster] size: a whole number of sectors of 512 bytes is expected"),
    ('size = "2 GiB"', "size = 1000", 11, "[volume.cluster] size: a whole number of sectors"),
    (
        'size = "2 GiB"',
        'size = "2 GiB"\nsise = 1',
        12,
        "[volume.cluster] sise: there is no such key; did you mean size?",
    ),
    ('socket = "run/cluster.sock"\n', "", 9, "[volume.cluster] socket: this is missing"),
    ("run/cluster.sock", "run/radio.sock", 17, "[volume.radio] socket: [volume.cluster] has this socket already"),
    ("run/cluster.sock", "run//x/../radio.sock", 17, "[volume.radio] socket: [volume.cluster] has this socket"),
    ("run/cluster.sock", "s" * 108, 12, "[volume.cluster] socket: a socket's path has at most 107 bytes"),
    ('"20 GB/day"', '"20 GB"', 18, '[volume.radio] wear_budget: a rate is written like "50 MB/s" or "20 GB/day"'),
    ('"20 GB/day"', "20", 18, "[volume.radio] wear_budget: a rate is written like"),
    ('"20 GB/day"', '"0 GB/day"', 18, "[volume.radio] wear_budget: nothing at all would pass"),
    ('wear_budget = "20 GB/day"', 'when_spent = "alarm"', 18, "[volume.radio] when_spent: there is no wear_budget"),
    (
        '"20 GB/day"',
        '"20 GB/day"\nwear_burst = 0',
        19,
        "[volume.radio] wear_burst: nothing at all would pass; leave it",
    ),
    (
        'wear_budget = "20 GB/day"',
        'bandwidth_burst = "0 B"',
        18,
        "[volume.radio] bandwidth_burst: nothing at all would",
    ),
    ('io = "auto"', 'control = "run/radio.sock"', 17, "[volume.radio] socket: [server] has this socket already"),
    ('wear_budget = "20 GB/day"', 'when_spent = "explode"', 18, "when_spent: one of throttle, read-only, alarm is"),
    ('wear_budget = "20 GB/day"', 'iops = "10"', 18, '[volume.radio] iops: requests are written like "1000 /s"'),
    ('wear_budget = "20 GB/day"', 'bandwidth = "1 GB"', 18, "[volume.radio] bandwidth: a rate is written like"),
    ('wear_budget = "20 GB/day"', "queues = 0", 18, "[volume.radio] queues: expected int >= 1"),
    ('wear_budget = "20 GB/day"', "queues = 65", 18, "[volume.radio] queues: expected int <= 64"),
    ('wear_budget = "20 GB/day"', 'mode = "rw"', 18, "[volume.radio] mode: expected str matching regex"),
    ('wear_budget = "20 GB/day"', 'device = "scsi"', 18, "[volume.radio] device: one of blk is expected"),
    ('wear_budget = "20 GB/day"', f'serial = "{21 * "s"}"', 18, "[volume.radio] serial: expected str of length <= 20"),
    ('wear_budget = "20 GB/day"', 'serial = "ä"', 18, "[volume.radio] serial: a serial is printable ASCII"),
    ("emmc0.temperature", "temperature", 21, "[[health.rule]] sensor: write a flash and what is measured of it"),
    (
        "emmc0.temperature",
        "nand7.temperature",
        21,
        "[[health.rule]] sensor: there is no [flash.nand7]; there are: emmc0",
    ),
    ('above = "85 degC"\n', "", 20, "[health.rule]: write either above or below"),
    ('above = "85 degC"', "above = true", 22, "[[health.rule]] above: expected int | float | str, got bool"),
    (
        'above = "85 degC"',
        "above = 85",
        22,
        """[[health.rule]] above: a temperature is written like "85 degC" or "358 K"; here it is '85'""",
    ),
    ("85 degC", "85 degF", 22, "[[health.rule]] above: a temperature is written like"),
    (
        "emmc0.temperature",
        "emmc0.temper",
        21,
        "[[health.rule]] sensor: no flash has a temper; what is measured of one:",
    ),
    ("emmc0.temperature", "emmc0.voltage", 22, '[[health.rule]] above: a voltage is written like "3.1 V" or "3100 mV"'),
    ("emmc0.temperature", "emmc0.life_time_b", 22, '[[health.rule]] above: a share is written like "80 %" or 80'),
    ("emmc0.temperature", "emmc0.pre_eol", 22, "[[health.rule]] above: a number from 0 to 255 is expected"),
    ("emmc0.temperature", "platform.load", 22, "[[health.rule]] above: a number is expected; here it is '85 degC'"),
    ('"85 degC"', '"85 degC"\nbelow = "3 degC"', 20, "[health.rule]: write either above or below"),
    (
        '"85 degC"',
        '"85 degC"\nuntil = "86 degC"',
        23,
        "[[health.rule]] until: a rule with above ends at its threshold or below it; 86 degC is above it",
    ),
    (
        'above = "85 degC"',
        'below = "-20 degC"\nuntil = "-20.5 degC"',
        23,
        "[[health.rule]] until: a rule with below ends at its threshold or above it; -20.5 degC is below it",
    ),
    ('"85 degC"', '"85 degC"\nuntil = 80', 23, "[[health.rule]] until: a temperature is written like"),
    ('"85 degC"', '"85 degC"\nstale = "0 s"', 23, "[[health.rule]] stale: no sensor is as fast as that"),
    ('"85 degC"', '"85 degC"\nlimit = "0 B/s"', 23, "[[health.rule]] limit: nothing at all would pass"),
    ('"85 degC"', '"85 degC"\nlimit = 5', 23, "[[health.rule]] limit: a rate is written like"),
    ('"85 degC"', '"85 degC"\non_stale = "fine"', 23, "[[health.rule]] on_stale: one of normal, durable, throttled,"),
    (
        '"85 degC"',
        '"85 degC"\non_enter = "freeze"',
        23,
        "[[health.rule]] on_enter: throttled still writes; freeze goes with read-only and offline",
    ),
    (
        'state = "throttled"',
        'state = "alarm"\nlimit = "1 MB/s"',
        24,
        "[[health.rule]] limit: alarm has no rate; limit goes with throttled",
    ),
    ('"8 GiB"', '"8 GiB"\n[flash.platform]\nkind = "nor"\npath = "p"', 8, "[flash.platform]: that is what the sensors"),
    ("[[health.rule]]", "[health]\ndefaults = 1\n[[health.rule]]", 21, "[health] defaults: expected bool, got int"),
    (
        'state = "throttled"',
        'state = "normal"',
        23,
        "[[health.rule]] state: one of durable, throttled, read-only, offline, alarm is",
    ),
    (
        'state = "throttled"',
        'state = "alarm"\ndelay = "soon"',
        24,
        '[[health.rule]] delay: a time is written like "5 s"',
    ),
    (
        'state = "throttled"',
        'state = "alarm"\nvolumes = ["tv"]',
        24,
        "volumes: there is no [volume.tv]; there are: cluster",
    ),
    ("[[health.rule]]", "[health.rule]", 20, "[health] rule: tables are expected here; write [[health.rule]]"),
]


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as told:
        parse_configuration(text, "car.toml")
    return told.value.problems


def test_what_is_right_is_read() -> None:
    configuration = parse_configuration(GOOD, "car.toml")
    assert configuration.volume["cluster"].size == 2 << 30
    assert configuration.volume["radio"].wear_budget == 20 * 10**9
    assert configuration.health.rule[0].on_enter == "flush"


@pytest.mark.parametrize(("old", "new", "line", "told"), MISUSE)
def test_a_mistake_is_told_in_one_line(old: str, new: str, line: int, told: str) -> None:
    assert GOOD.count(old) >= 1
    (problem,) = problems_of(GOOD.replace(old, new, 1))
    assert problem.startswith(f"car.toml:{line}: ")
    assert told in problem
    assert "\n" not in problem


# Several mistakes of one file: what is replaced in GOOD, and all that is told.
TOGETHER: dict[str, tuple[list[tuple[str, str]], list[str]]] = {
    "a wrong key elsewhere hides nothing between keys": (
        [('"auto"', '"slow"'), ("run/cluster.sock", "run/radio.sock"), ('"8 GiB"', '"2 GiB"')],
        [
            "2: [server] io: one of auto, io_uring, io_uring-plain, threads is expected; here it is 'slow'",
            "7: [flash.emmc0] capacity: the volumes on it take 3221225472 bytes, and it has 2147483648",
            "17: [volume.radio] socket: [volume.cluster] has this socket already; each has its own",
        ],
    ),
    "a wrong key in the same section hides what does not depend on it": (
        [('size = "1 GiB"', 'size = "huge"'), ('flash = "emmc0"\nsize = "h', 'flash = "nor7"\nsize = "h')],
        ["15: [volume.radio] flash: there is no [flash.nor7]", "16: [volume.radio] size: a size is written like"],
    ),
    "a budget that cannot be read is there": (
        [('"20 GB/day"', '"20"\nwhen_spent = "alarm"')],
        ["18: [volume.radio] wear_budget: a rate is written like"],
    ),
    "a budget of nothing is there": (
        [('"20 GB/day"', '"0 B/s"\nwhen_spent = "alarm"')],
        ["18: [volume.radio] wear_budget: nothing at all would pass"],
    ),
    "a misspelt budget is there": (
        [('wear_budget = "20 GB/day"', 'wear_bugdet = "20 GB/day"\nwhen_spent = "alarm"')],
        ["18: [volume.radio] wear_bugdet: there is no such key; did you mean wear_budget?"],
    ),
    "a misspelt key is not missing": (
        [('size = "2 GiB"', 'sise = "2 GiB"')],
        ["11: [volume.cluster] sise: there is no such key; did you mean size?"],
    ),
    "all flashes misspelt": (
        [("[flash.emmc0]", "[flahs.emmc0]")],
        ["4: [flahs]: there is no such key; did you mean flash?"],
    ),
    "a flash misspelt beside another": (
        [("[flash.emmc0]", '[flash.nor0]\nkind = "nor"\npath = "n"\n[flahs.emmc0]')],
        ["7: [flahs]: there is no such key; did you mean flash?"],
    ),
    "a flash misspelt, and another that is nowhere": (
        [("[flash.emmc0]", "[flahs.emmc0]"), ('flash = "emmc0"\nsize = "1', 'flash = "emmc1"\nsize = "1')],
        [
            "4: [flahs]: there is no such key; did you mean flash?",
            "15: [volume.radio] flash: there is no [flash.emmc1]; there are: emmc0",
        ],
    ),
    "a volume misspelt is known by name": (
        [("[volume.radio]", "[volumes.radio]"), ('"throttled"', '"throttled"\nvolumes = ["radio", "tv", "tv"]')],
        [
            "14: [volumes]: there is no such key; did you mean volume?",
            "24: [[health.rule]] volumes: there is no [volume.tv]; there are: radio, cluster",
        ],
    ),
    "no flash at all": (
        [("[flash.emmc0]\n", ""), ('kind = "emmc"\npath = "emmc0.vflash"\ncapacity = "8 GiB"\n', "")],
        ["1: [flash]: this is missing: by name"],
    ),
    "a flash that is no table is there": (
        [("[flash.emmc0]\n", "[flash]\nemmc0 = 3\n[server.x]\n")],
        [
            "5: [flash.emmc0]: a table is expected here, with keys in it",
            "6: [server] x: there is no such key; there are: log_level",
        ],
    ),
    "volumes that are no tables": (
        [("[volume.cluster]", "[[volume]]"), ("[volume.radio]", "[[volume]]")],
        ["9: [volume]: tables are expected here; write [volume.NAME]"],
    ),
    "a threshold that cannot be read is one": (
        [('above = "85 degC"', "above = [85]")],
        ["22: [[health.rule]] above: expected int | float | str, got array; here it is '[85]'"],
    ),
    "thresholds of a sensor that cannot be read may be anything": (
        [("emmc0.temperature", "temperature"), ("85 degC", "hot")],
        ["21: [[health.rule]] sensor: write a flash and what is measured of it"],
    ),
    "a threshold that cannot be read says nothing of its end": (
        [('"85 degC"', '"85"\nuntil = "90 degC"')],
        ["22: [[health.rule]] above: a temperature is written like"],
    ),
    "both thresholds wrong": (
        [('"85 degC"', '"85"\nuntil = "90"')],
        ["22: [[health.rule]] above: a temperature is", "23: [[health.rule]] until: a temperature is"],
    ),
    "a state that cannot be read may freeze, and be limited": (
        [('"throttled"', '"frozen"\non_enter = "freeze"\nlimit = "1 MB/s"')],
        ["23: [[health.rule]] state: one of durable, throttled"],
    ),
    "a limit of nothing is told once": (
        [('"throttled"', '"offline"\nlimit = "0 B/s"')],
        ["24: [[health.rule]] limit: nothing at all would pass"],
    ),
    "a sensor without a quantity, a rule without a threshold, of a volume that is nowhere": (
        [("emmc0.temperature", "emmc0."), ('above = "85 degC"', 'volumes = ["tv"]')],
        [
            "20: [health.rule]: write either above or below",
            "21: [[health.rule]] sensor: write a flash and what is measured of it",
            "22: [[health.rule]] volumes: there is no [volume.tv]; there are: cluster, radio",
        ],
    ),
    "a name that is none is not too long as well": (
        [("[volume.radio]", f"[volume.{64 * 'x'}]")],
        [f"14: [volume.{64 * 'x'}]: a name is up to 63 letters"],
    ),
    "a path that is too long twice": (
        [("run/cluster.sock", 108 * "s"), ("run/radio.sock", 108 * "s")],
        ["12: [volume.cluster] socket: a socket's path has", "17: [volume.radio] socket: a socket's path has"],
    ),
    "what fits not even without one that cannot be read": (
        [('"8 GiB"', '"1 GiB"'), ('size = "1 GiB"', "size = 1.5")],
        [
            "7: [flash.emmc0] capacity: the volumes on it take at least 2147483648 bytes, and it has 1073741824",
            "16: [volume.radio] size: a size is written like",
        ],
    ),
    "names that would begin a line, or move a terminal's cursor": (
        [("[volume.radio]", '[volume."ra\\ndio"]'), ('flash = "emmc0"\nsize = "1', 'flash = "\\u001b[H"\nsize = "1')],
        [
            "14: [volume.ra\\ndio]: a name is up to",
            "15: [volume.ra\\ndio] flash: there is no [flash.\\x1b[H]; there are",
        ],
    ),
    "the same twice in one line": (
        [("[[health.rule]]", "[health]\nrule = [1, 2]\n[server.x]")],
        ["21: [health.rule]: a table is expected here", "22: [server] x: there is no such key"],
    ),
    "unknown keys in one line": (
        [('io = "auto"', "xyz = { a = 1 }\n")],
        ["2: [server] xyz: there is no such key; there are: log_level"],
    ),
}


@pytest.mark.parametrize("case", TOGETHER)
def test_mistakes_in_keys_and_between_them_are_told_together(case: str) -> None:
    """Each once, and none that another one causes."""
    text, (replaced, expected) = GOOD, TOGETHER[case]
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new, 1)
    told = problems_of(text)
    assert len(told) == len(expected), told
    for line, begin in zip(told, expected, strict=True):
        assert line.startswith(f"car.toml:{begin}")


def test_all_mistakes_of_a_file_are_told_in_its_order() -> None:
    text = GOOD.replace('"auto"', '"slow"').replace('"8 GiB"', '"8"x').replace('"8"x', '"eight"')
    text = text.replace("20 GB/day", "20").replace('"throttled"', '"hot"')
    assert [problem.split(":")[1] for problem in problems_of(text)] == ["2", "7", "18", "23"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"a = ", "this is no TOML: Invalid value (at end of document)"),
        (b"[a]\n[a]\n", "this is no TOML: Cannot declare ('a',) twice (at line 2, column 3)"),
        (b"a = 1\n\xff", ":2: this is not UTF-8"),
        (b"#" * (1 << 20) + b"#", "longer than 1048576 bytes"),
        (b"a = " + b"[" * 100_000, "this is no TOML"),
        (b"", ":1: [flash]: this is missing"),
    ],
)
def test_what_is_no_configuration_is_refused(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=re.escape(told)):
        read_configuration(path)


# Rules that are right

RULES = [
    'sensor = "platform.voltage"\nbelow = "9 V"\nuntil = "10500 mV"\nstate = "read-only"\non_enter = "freeze"',
    'sensor = "platform.ignition"\nbelow = 1\nstate = "durable"\non_stale = "normal"',
    'sensor = "emmc0.pre_eol"\nabove = 1.5\nuntil = 1.5\nstate = "alarm"\nstale = "1 h"',
    'sensor = "emmc0.spare"\nbelow = "10 %"\nuntil = 12\nstate = "offline"\nvolumes = ["radio"]',
    'sensor = "emmc0.temperature"\nabove = "85 degC"\nstate = "alarm"\non_stale = "read-only"\non_enter = "freeze"',
    'sensor = "emmc0.temperature"\nabove = "85 degC"\nstate = "alarm"\non_stale = "throttled"\nlimit = "1 kB/s"',
    'sensor = "emmc0.temperature"\nabove = "85 degC"\nuntil = "358.15 K"\nstate = "durable"',
]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_right_is_read_and_allowed_by_the_schema(rule: str) -> None:
    text = f"{GOOD}[[health.rule]]\n{rule}\n"
    assert len(parse_configuration(text, "car.toml").health.rule) == 2
    jsonschema.validate(tomllib.loads(text), json_schema())


def test_a_flash_may_have_dots_in_its_name() -> None:
    parse_configuration(GOOD.replace("emmc0]", '"emmc.0"]').replace('"emmc0', '"emmc.0'), "car.toml")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: No such file or directory; name a TOML file"):
        read_configuration(tmp_path / "none.toml")


# The example, the schema, the command, the manual


def test_the_example_is_good_by_all_means() -> None:
    configuration = read_configuration(EXAMPLE)
    assert list(configuration.volume) == ["cluster", "infotainment", "telematics"]
    jsonschema.validate(tomllib.loads(EXAMPLE.read_text()), json_schema())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('io = "auto"', 'io = "fast"'),
        ('io = "auto"', "reactors = -1"),
        ('io = "auto"', "colour = 1"),
        ('"8 GiB"', '"8 Gigs"'),
        ('"20 GB/day"', "20"),
        ('kind = "emmc"\n', ""),
        ('state = "throttled"', 'state = "hot"'),
        ('above = "85 degC"', "above = [85]"),
        ('state = "throttled"', 'state = "throttled"\nlimit = "fast"'),
        ('state = "throttled"', 'state = "throttled"\non_stale = "fine"'),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(old: str, new: str) -> None:
    jsonschema.validate(tomllib.loads(GOOD), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(GOOD.replace(old, new, 1)), json_schema())


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), "check-config", *words], capture_output=True, text=True, check=False, timeout=30
    )


def test_the_command_says_what_is_good_and_what_is_not(tmp_path: Path) -> None:
    good = run(EXAMPLE)
    assert (good.returncode, good.stderr) == (0, "")
    assert f"{EXAMPLE}: good: 1 flash, 3 volumes" in good.stdout
    bad = tmp_path / "car.toml"
    bad.write_text(GOOD.replace('emmc"', 'mmc"', 1).replace('"2 GiB"', '"2"x').replace('"2"x', '"two"'))
    told = run(bad)
    assert (told.returncode, told.stdout) == (1, "")
    assert [line.split(": ")[0] for line in told.stderr.splitlines()] == [f"{bad}:5", f"{bad}:11"]


def test_the_command_prints_the_schema() -> None:
    assert json.loads(run("--schema").stdout) == json_schema()
    assert run().returncode == 2


@pytest.mark.parametrize("section", [Server, Flash, Volume, Sensor, Health, Rule])
def test_the_manual_has_every_key(section: type[Section]) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    keys = [f"| `{item.name}` | {description(item.type)} |" for item in msgspec.structs.fields(section)]
    assert [line for line in keys if line not in text] == []


def test_every_section_is_in_the_configuration() -> None:
    assert {item.name for item in msgspec.structs.fields(Configuration)} == {
        "server",
        "flash",
        "volume",
        "sensor",
        "health",
    }
    assert {item.name for item in msgspec.structs.fields(Health)} == {"defaults", "rule"}
