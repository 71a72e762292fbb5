"""What is wrong between the keys of a configuration.

Mistakes in single keys have been told before. The fields that have them are UNSET in the sections here, and nothing is
said of what depends on those: it would be the same mistake once more.
"""

import os
from collections.abc import Iterable, Iterator

from msgspec import UNSET

from virtflash.config.configuration import Configuration, Rule, Volume
from virtflash.config.measured import MEASURES, PLATFORM, Measure, of_sensor
from virtflash.config.sensors import (
    STALE_SECONDS,
    Sensor,
    described,
    is_faultless,
    measure_in,
    period_of,
    sensor_problems,
)
from virtflash.volumes.table import NAME

Path = tuple[str | int, ...]
Problem = tuple[Path, str]

SERIAL_BYTES = 20  # virtio 1.4 §5.2.6: a GET_ID answer


def contradictions(configuration: Configuration) -> Iterator[Problem]:
    """Each with the path of the key that it is about."""
    yield from name_problems(configuration)
    if is_right(configuration.volume):
        yield from volumes_problems(configuration)
    if is_right(configuration.flash):
        yield from flashes_problems(configuration)
    yield from sensor_problems(configuration.sensor, configuration.flash)
    if is_right(configuration.health.rule):
        for number, rule in enumerate(configuration.health.rule):
            yield from rule_problems(configuration, number, rule)


def is_right(*values: object) -> bool:
    """All of these fields could be read."""
    return all(value is not UNSET for value in values)


def name_problems(configuration: Configuration) -> Iterator[Problem]:
    for kind in ("flash", "volume", "sensor"):
        names = getattr(configuration, kind)
        for name in names if is_right(names) else ():
            if not NAME.fullmatch(name):
                yield (
                    (kind, name),
                    "a name is up to 63 letters, digits, '_', '-' and '.', not beginning with those three",
                )
    if is_right(configuration.flash) and PLATFORM in configuration.flash:
        yield ("flash", PLATFORM), "that is what the sensors of the platform are called by; name the flash otherwise"


def volumes_problems(configuration: Configuration) -> Iterator[Problem]:
    if not configuration.volume:
        yield ("volume",), "there is no volume; write one as [volume.NAME]"
    for name, volume in configuration.volume.items():
        yield from volume_problems(configuration, name, volume)
    yield from repeated(
        (("server", "control"), configuration.server.control),
        *((("volume", name, "socket"), volume.socket) for name, volume in configuration.volume.items()),
    )


def volume_problems(configuration: Configuration, name: str, volume: Volume) -> Iterator[Problem]:
    path = ("volume", name)
    if is_right(volume.flash, configuration.flash) and volume.flash not in configuration.flash:
        yield (*path, "flash"), f"there is no [flash.{volume.flash}]; there are: {listed(configuration.flash)}"
    if volume.serial is None and len(name) > SERIAL_BYTES and NAME.fullmatch(name):
        yield path, f"the name is told to the machine in {SERIAL_BYTES} bytes; shorten it, or add a serial"
    if is_right(volume.when_spent) and volume.when_spent != "throttle" and volume.wear_budget is None:
        yield (*path, "when_spent"), "there is no wear_budget that could be spent; add one"


def flashes_problems(configuration: Configuration) -> Iterator[Problem]:
    yield from repeated(*((("flash", name, "path"), flash.path) for name, flash in configuration.flash.items()))
    for name in configuration.flash:
        yield from space_problems(configuration, name)


def repeated(*paths: tuple[Path, str | None]) -> Iterator[Problem]:
    """What only one can have: a path of the file system, with the key that names it."""
    seen: dict[str, Path] = {}
    for key, value in paths:
        if value is None or not is_right(value):
            continue
        first = seen.setdefault(os.path.normpath(value), key)
        if first is not key:
            yield key, f"[{'.'.join(map(str, first[:-1]))}] has this {key[-1]} already; each has its own"


def space_problems(configuration: Configuration, name: str) -> Iterator[Problem]:
    """Where the configuration says how large the flash is."""
    capacity = configuration.flash[name].capacity
    if capacity is None or not is_right(capacity, configuration.volume):
        return
    on_it = [volume.size for volume in configuration.volume.values() if volume.flash == name]
    used = sum(size for size in on_it if is_right(size))
    if used > capacity:
        least = "" if is_right(*on_it) else "at least "
        yield ("flash", name, "capacity"), f"the volumes on it take {least}{used} bytes, and it has {capacity}"


def rule_problems(configuration: Configuration, number: int, rule: Rule) -> Iterator[Problem]:
    path = ("health", "rule", number)
    if is_right(rule.sensor, configuration.flash):
        flash, quantity = of_sensor(rule.sensor)
        if flash not in (PLATFORM, *configuration.flash):
            yield (*path, "sensor"), f"there is no [flash.{flash}]; there are: {listed(configuration.flash)}"
        elif not is_measured(rule.sensor):
            yield (*path, "sensor"), f"no flash has a {quantity}; what is measured of one: {listed(MEASURES)}"
    if is_right(rule.above, rule.below) and (rule.above is None) == (rule.below is None):
        yield path, "write either above or below"
    if is_right(rule.sensor) and is_measured(rule.sensor) and is_faultless(configuration.sensor, configuration.flash):
        yield from threshold_problems(path, rule, measure_in(configuration.sensor, rule.sensor))
        yield from stale_problems(path, rule, described(configuration.sensor, rule.sensor))
    yield from answer_problems(path, rule)
    if is_right(rule.volumes, configuration.volume):
        for volume in dict.fromkeys(rule.volumes):
            if volume not in configuration.volume:
                yield (*path, "volumes"), f"there is no [volume.{volume}]; there are: {listed(configuration.volume)}"


def is_measured(sensor: str) -> bool:
    """The platform may push what it likes; of a flash this much is known."""
    owner, quantity = of_sensor(sensor)
    return owner == PLATFORM or quantity in MEASURES


def stale_problems(path: Path, rule: Rule, sensor: Sensor | None) -> Iterator[Problem]:
    if sensor is None or not is_right(rule.stale):
        return
    stale, period = STALE_SECONDS if rule.stale is None else rule.stale / 1000, period_of(sensor)
    if stale <= period:
        yield (*path, "stale"), f"its sensor is read each {period:g} s only, and stale after {stale:g} s; name more"


def threshold_problems(path: Path, rule: Rule, measure: Measure) -> Iterator[Problem]:
    read: dict[str, float] = {}
    for key in ("above", "below", "until"):
        written = getattr(rule, key)
        if written is None or not is_right(written):
            continue
        try:
            read[key] = measure.read(written)
        except ValueError as error:
            yield (*path, key), f"{error}; here it is {str(written)[:40]!r}"
    if read.keys() == {"above", "until"} and rule.below is None and read["until"] > read["above"]:
        yield (*path, "until"), f"a rule with above ends at its threshold or below it; {rule.until} is above it"
    if read.keys() == {"below", "until"} and rule.above is None and read["until"] < read["below"]:
        yield (*path, "until"), f"a rule with below ends at its threshold or above it; {rule.until} is below it"


def answer_problems(path: Path, rule: Rule) -> Iterator[Problem]:
    """What belongs to a state that the volumes are never in by this rule."""
    if not is_right(rule.state, rule.on_stale):
        return
    answers = {rule.state, rule.on_stale}
    if is_right(rule.on_enter) and rule.on_enter == "freeze" and not answers & {"read-only", "offline"}:
        yield (*path, "on_enter"), f"{rule.state} still writes; freeze goes with read-only and offline"
    if is_right(rule.limit) and rule.limit is not None and "throttled" not in answers:
        yield (*path, "limit"), f"{rule.state} has no rate; limit goes with throttled"


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
