"""What is wrong with a single value though its type lets it pass."""

import os
from collections.abc import Callable, Iterator
from typing import Any

from virtflash.config.configuration import Rule, Volume
from virtflash.config.measured import of_sensor
from virtflash.config.section import Section

SECTOR_BYTES = 512
SOCKET_PATH_BYTES = 107  # unix(7), and a zero


def value_problem(section: type[Section], key: str, value: Any) -> str | None:
    """What was expected; None: nothing is wrong with it, or it was left out."""
    check = CHECKS.get((section, key))
    return None if check is None or value is None else check(value)


def value_problems(section: Section) -> Iterator[tuple[str, str]]:
    """Of all keys of one: the key, and what was expected."""
    for key in section.__struct_fields__:
        if problem := value_problem(type(section), key, getattr(section, key)):
            yield key, problem


def size_problem(size: int) -> str | None:
    if size > 0 and size % SECTOR_BYTES == 0:
        return None
    return f"a whole number of sectors of {SECTOR_BYTES} bytes is expected; {size} is none"


def socket_problem(path: str) -> str | None:
    too_long = len(os.fsencode(path)) > SOCKET_PATH_BYTES
    return f"a socket's path has at most {SOCKET_PATH_BYTES} bytes" if too_long else None


def serial_problem(serial: str) -> str | None:
    return None if serial.isascii() and serial.isprintable() else "a serial is printable ASCII"


def limit_problem(most: int) -> str | None:
    if most > 0:
        return None
    return "nothing at all would pass; leave it out for no limit, or make the volume read_only"


def burst_problem(burst: int) -> str | None:
    return None if burst > 0 else "nothing at all would pass; leave it out for the usual burst"


def sensor_problem(sensor: str) -> str | None:
    return None if all(of_sensor(sensor)) else "write a flash and what is measured of it, such as emmc0.temperature"


def rule_limit_problem(most: int) -> str | None:
    return None if most > 0 else "nothing at all would pass; leave it out for 1 MB/s, or make the state read-only"


def stale_problem(stale: int) -> str | None:
    return None if stale > 0 else "no sensor is as fast as that; leave it out for 30 s, or set on_stale to normal"


CHECKS: dict[tuple[type[Section], str], Callable[[Any], str | None]] = {
    (Volume, "size"): size_problem,
    (Volume, "socket"): socket_problem,
    (Volume, "serial"): serial_problem,
    (Volume, "iops"): limit_problem,
    (Volume, "bandwidth"): limit_problem,
    (Volume, "wear_budget"): limit_problem,
    (Volume, "bandwidth_burst"): burst_problem,
    (Volume, "wear_burst"): burst_problem,
    (Rule, "sensor"): sensor_problem,
    (Rule, "limit"): rule_limit_problem,
    (Rule, "stale"): stale_problem,
}
