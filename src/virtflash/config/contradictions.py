"""What is wrong with a configuration each of whose values is right by itself."""

import os
from collections.abc import Iterable, Iterator, Mapping

from virtflash.config.configuration import Configuration, Flash, Rule, Volume
from virtflash.volumes.table import NAME

Path = tuple[str | int, ...]
Problem = tuple[Path, str]

SERIAL_BYTES = 20  # virtio 1.4 §5.2.6: a GET_ID answer
SECTOR_BYTES = 512
SOCKET_PATH_BYTES = 107  # unix(7), and a zero


def contradictions(configuration: Configuration) -> Iterator[Problem]:
    """Each with the path of the key that it is about."""
    yield from name_problems(configuration)
    if not configuration.volume:
        yield ("volume",), "there is no volume; write one as [volume.NAME]"
    for name, volume in configuration.volume.items():
        yield from volume_problems(configuration, name, volume)
    yield from sharing_problems(configuration)
    for flash in configuration.flash:
        yield from space_problems(configuration, flash)
    for number, rule in enumerate(configuration.health.rule):
        yield from rule_problems(configuration, number, rule)


def name_problems(configuration: Configuration) -> Iterator[Problem]:
    for kind, names in (("flash", configuration.flash), ("volume", configuration.volume)):
        for name in names:
            if not NAME.fullmatch(name):
                yield (
                    (kind, name),
                    "a name is up to 63 letters, digits, '_', '-' and '.', not beginning with those three",
                )


def volume_problems(configuration: Configuration, name: str, volume: Volume) -> Iterator[Problem]:
    path = ("volume", name)
    if volume.flash not in configuration.flash:
        yield (*path, "flash"), f"there is no [flash.{volume.flash}]; there are: {listed(configuration.flash)}"
    if volume.size == 0 or volume.size % SECTOR_BYTES:
        yield (*path, "size"), f"a whole number of sectors of {SECTOR_BYTES} bytes is expected; {volume.size} is none"
    if volume.serial is None and len(name) > SERIAL_BYTES:
        yield path, f"the name is told to the machine in {SERIAL_BYTES} bytes; shorten it, or add a serial"
    if volume.serial is not None and not (volume.serial.isascii() and volume.serial.isprintable()):
        yield (*path, "serial"), "a serial is printable ASCII"
    if len(os.fsencode(volume.socket)) > SOCKET_PATH_BYTES:
        yield (*path, "socket"), f"a socket's path has at most {SOCKET_PATH_BYTES} bytes"
    if volume.when_spent != "throttle" and volume.wear_budget is None:
        yield (*path, "when_spent"), "there is no wear_budget that could be spent; add one"
    for limit in ("iops", "bandwidth", "wear_budget"):
        if getattr(volume, limit) == 0:
            yield (*path, limit), "nothing at all would pass; leave it out for no limit, or make the volume read_only"


def sharing_problems(configuration: Configuration) -> Iterator[Problem]:
    """What only one can have."""
    tables: list[tuple[str, str, Mapping[str, Flash | Volume]]] = [
        ("volume", "socket", configuration.volume),
        ("flash", "path", configuration.flash),
    ]
    for kind, key, table in tables:
        seen: dict[str, str] = {}
        for name, entry in table.items():
            value = os.path.normpath(getattr(entry, key))
            if value in seen:
                yield (kind, name, key), f"[{kind}.{seen[value]}] has this {key} already; each has its own"
            seen.setdefault(value, name)


def space_problems(configuration: Configuration, name: str) -> Iterator[Problem]:
    """Where the configuration says how large the flash is."""
    capacity = configuration.flash[name].capacity
    used = sum(volume.size for volume in configuration.volume.values() if volume.flash == name)
    if capacity is not None and used > capacity:
        yield ("flash", name, "capacity"), f"the volumes on it take {used} bytes, and it has {capacity}"


def rule_problems(configuration: Configuration, number: int, rule: Rule) -> Iterator[Problem]:
    path = ("health", "rule", number)
    flash, dot, quantity = rule.sensor.partition(".")
    if not dot or not quantity:
        yield (*path, "sensor"), "write a flash and what is measured of it, such as emmc0.temperature"
    elif flash not in configuration.flash:
        yield (*path, "sensor"), f"there is no [flash.{flash}]; there are: {listed(configuration.flash)}"
    if (rule.above is None) == (rule.below is None):
        yield path, "write either above or below"
    for volume in rule.volumes:
        if volume not in configuration.volume:
            yield (*path, "volumes"), f"there is no [volume.{volume}]; there are: {listed(configuration.volume)}"


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
