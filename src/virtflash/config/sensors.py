"""What a configuration says of sensors: Linux's own, and values that the platform pushes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta

from virtflash.config.measured import MEASURES, PLATFORM, Measure, measure_of
from virtflash.config.quantities import Duration
from virtflash.config.section import Section
from virtflash.health.sensors.emmc_codes import QUANTITIES as EMMC_QUANTITIES
from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SECONDS_BETWEEN_WEAR

SHORTEST_PERIOD = 10  # milliseconds
STALE_SECONDS = 30.0  # without a reading, where a rule does not say for how long

Path = tuple[str | int, ...]
Problem = tuple[Path, str]
Word = Annotated[str, Meta(min_length=1)]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*(?!\n)$")]  # nothing leads out of its directory


class Sensor(Section, frozen=True, kw_only=True):
    """One figure that is measured outside the emulated parts."""

    kind: Annotated[
        Literal["thermal_zone", "hwmon", "emmc", "ext_csd", "power_supply", "pushed"],
        Meta(description="where it comes from"),
    ]
    zone: Annotated[Word | None, Meta(description="of a thermal_zone: its type, or its directory")] = None
    chip: Annotated[Word | None, Meta(description="of a hwmon: its name, or its directory")] = None
    label: Annotated[
        Word | None, Meta(description="of a hwmon: of its input, or such as `temp1`; left out: the only one")
    ] = None
    device: Annotated[FileName | None, Meta(description="of an emmc or ext_csd: such as `mmcblk0`")] = None
    supply: Annotated[FileName | None, Meta(description="of a power_supply: its name")] = None
    quantity: Annotated[
        Literal[
            "temperature",
            "voltage",
            "spare",
            "life_time_a",
            "life_time_b",
            "life_time_a_code",
            "life_time_b_code",
            "pre_eol",
            "corrected_bits",
        ]
        | None,
        Meta(description="what is measured, where it can be several things"),
    ] = None
    flash: Annotated[Word | None, Meta(description="rules call it FLASH.QUANTITY; left out: `platform.NAME`")] = None
    period: Annotated[
        Duration | None, Meta(description="between two readings; left out: 1 s, of emmc and ext_csd 10 s")
    ] = None


@dataclass(frozen=True)
class Kind:
    """`keys`: that only some kinds have. `needed`: those of them that it cannot do without. `quantities`: the first is
    meant where none is named."""

    needed: tuple[str, ...]
    quantities: tuple[str, ...]
    keys: tuple[str, ...] = ()
    names_quantity: bool = False  # none is meant of itself


KINDS = {
    "thermal_zone": Kind(("zone",), ("temperature",)),
    "hwmon": Kind(("chip",), ("temperature", "voltage"), ("label",)),
    "emmc": Kind(("device",), EMMC_QUANTITIES, names_quantity=True),
    "ext_csd": Kind(("device",), EMMC_QUANTITIES, names_quantity=True),
    "power_supply": Kind(("supply",), ("voltage",)),
    "pushed": Kind((), tuple(MEASURES)),
}
OWN_KEYS = ("zone", "chip", "label", "device", "supply")


def was_read(*values: object) -> bool:
    """Nothing is wrong with any of these."""
    return all(value is not UNSET for value in values)


def quantity_of(sensor: Sensor) -> str | None:
    """What it measures; None: the platform knows."""
    if sensor.quantity is not None or sensor.kind == "pushed":
        return sensor.quantity
    return KINDS[sensor.kind].quantities[0]


def sensor_name(name: str, sensor: Sensor) -> str:
    """What rules call it."""
    return f"{PLATFORM}.{name}" if sensor.flash is None else f"{sensor.flash}.{quantity_of(sensor)}"


def period_of(sensor: Sensor) -> float:
    """Seconds."""
    if sensor.period is not None:
        return sensor.period / 1000
    return SECONDS_BETWEEN_WEAR if sensor.kind in ("emmc", "ext_csd") else SECONDS_BETWEEN


def described(sensors: Mapping[str, Sensor], called: str) -> Sensor | None:
    """The section of what rules call so; None: there is none. Of sections in which nothing is wrong."""
    return next((sensor for name, sensor in sensors.items() if sensor_name(name, sensor) == called), None)


def measure_in(sensors: Mapping[str, Sensor], called: str) -> Measure:
    """How values are written of what rules call so: its section says what it measures, or its name does."""
    section = described(sensors, called)
    quantity = None if section is None else quantity_of(section)
    return measure_of(called) if quantity is None else MEASURES[quantity]


def is_faultless(sensors: Mapping[str, Sensor] | Any, flashes: Iterable[str] | Any) -> bool:
    """What rules say of sensors can be judged."""
    return was_read(sensors) and not any(
        not was_read(*(getattr(sensor, key) for key in sensor.__struct_fields__))
        or any(key_problems(("sensor", name), sensor, flashes))
        for name, sensor in sensors.items()
    )


def sensor_problems(sensors: Mapping[str, Sensor] | Any, flashes: Iterable[str] | Any) -> Iterator[Problem]:
    """What is wrong between the keys of sections, each with the path of the key that it is about."""
    if not was_read(sensors):
        return
    called: dict[str, str] = {}
    for name, sensor in sensors.items():
        path = ("sensor", name)
        problems = list(key_problems(path, sensor, flashes))
        yield from problems
        if not problems and was_read(sensor.kind, sensor.flash, sensor.quantity):
            first = called.setdefault(sensor_name(name, sensor), name)
            if first != name:
                yield path, f"[sensor.{first}] measures {sensor_name(name, sensor)} already"


def key_problems(path: Path, sensor: Sensor, flashes: Iterable[str] | Any) -> Iterator[Problem]:
    if was_read(sensor.flash, flashes) and sensor.flash is not None and sensor.flash not in flashes:
        yield (*path, "flash"), f"there is no [flash.{sensor.flash}]; there are: {', '.join(flashes) or 'none'}"
    if not was_read(sensor.kind):
        return
    kind = KINDS[sensor.kind]
    for key in OWN_KEYS:
        value = getattr(sensor, key)
        if value is None and key in kind.needed:
            yield (*path, key), f"this is missing: a sensor of kind {sensor.kind} needs it"
        if value is not None and was_read(value) and key not in kind.needed + kind.keys:
            its_own = ", ".join(kind.needed + kind.keys) or "none of its own"
            yield (*path, key), f"a sensor of kind {sensor.kind} has no such key; it has: {its_own}"
    yield from quantity_problems(path, sensor, kind)
    if sensor.period is not None and was_read(sensor.period) and sensor.period < SHORTEST_PERIOD:
        yield (*path, "period"), f"shorter than {SHORTEST_PERIOD} ms; nothing is read so often"


def quantity_problems(path: Path, sensor: Sensor, kind: Kind) -> Iterator[Problem]:
    can_be = ", ".join(kind.quantities)
    if sensor.quantity is None:
        if kind.names_quantity or (sensor.kind == "pushed" and sensor.flash is not None):
            yield (*path, "quantity"), f"this is missing: one of {can_be}"
    elif was_read(sensor.quantity) and sensor.quantity not in kind.quantities:
        yield (*path, "quantity"), f"a sensor of kind {sensor.kind} measures {can_be}"
