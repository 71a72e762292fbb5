"""What an emulated part tells of itself, and how it is made to tell something else.

Temperature and voltage are the part's own, and setting them changes the part: heat ages its data. What follows from its
wear is measured; a value set instead is told until it is released, and wears nothing.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from virtflash.config.measured import MEASURES
from virtflash.health.sensors.emmc_codes import figure
from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SECONDS_BETWEEN_WEAR, SensorError

if TYPE_CHECKING:
    from virtflash.backing.emulated_flash import EmulatedStorage

LATELY = 3600.0  # seconds, of the most that a read has needed
OWN = frozenset(("temperature", "voltage"))  # of the part, and not only told


class EmulatedSensor:
    """One quantity of one part. `on_change` is told its name when it was set: the monitor's `wake`."""

    def __init__(
        self, flash: str, quantity: str, storage: "EmulatedStorage", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.unit, self.quantity = f"{flash}.{quantity}", MEASURES[quantity].unit, quantity
        self.period = SECONDS_BETWEEN if quantity in OWN else SECONDS_BETWEEN_WEAR
        self.on_change: Callable[[str], None] | None = None
        self._storage = storage
        self._highest = Highest(clock) if quantity == "corrected_bits" else None
        self._told: float | None = None

    def read(self) -> float:
        if self._told is not None:
            return self._told
        if self._highest is not None:
            return self._highest.take(float(self._storage.translation.take_worst_share()))
        return MEASURED[self.quantity](self._storage)

    def set(self, value: float) -> None:
        """From now on it is so. OSError: the part cannot be reached."""
        self.become(value)
        self._tell()

    def become(self, value: float) -> None:
        """As `set`, for who reads it next anyway."""
        if self.quantity == "temperature":
            self._storage.target.age(0, value)
        elif self.quantity == "voltage":
            self._storage.supply_volts = value
        else:
            self._told = value

    def release(self) -> None:
        """What is measured counts again. Temperature and voltage stay as they are."""
        self._told = None
        self._tell()

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change(self.name)


class Highest:
    """Of the values of a while."""

    def __init__(self, clock: Callable[[], float], seconds: float = LATELY) -> None:
        self._clock, self._seconds = clock, seconds
        self._values: deque[tuple[float, float]] = deque()  # with their times; each is higher than those behind it

    def take(self, value: float) -> float:
        """One more; the highest of them all."""
        now = self._clock()
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] <= now - self._seconds:
            self._values.popleft()
        return self._values[0][1]


def emulated_sensors(
    flash: str, storage: "EmulatedStorage", *, clock: Callable[[], float] = time.monotonic
) -> list[EmulatedSensor]:
    """All of a part."""
    return [EmulatedSensor(flash, quantity, storage, clock=clock) for quantity in MEASURES]


def temperature(storage: "EmulatedStorage") -> float:
    return float(storage.chip.counters()["celsius"])


def voltage(storage: "EmulatedStorage") -> float:
    return storage.supply_volts


def spare(storage: "EmulatedStorage") -> float:
    left, total = storage.translation.spare_blocks
    if not total:
        raise SensorError(f"{storage.profile.part.name}: it has no spare blocks")
    return 100.0 * left / total


def life_time_a(storage: "EmulatedStorage") -> float:
    """Of the share of blocks that is meant for SLC mode; where there is none, of all."""
    slc_endurance, part = storage.chip.superblock.slc_endurance, storage.profile.emmc
    slc_share = 0.0 if part is None else part.slc_share
    if not slc_endurance or slc_share <= 0:
        return life_time_b(storage)
    return 100.0 * float(storage.translation.counters["slc_erases"]) / (slc_share * storage.blocks * slc_endurance)


def life_time_b(storage: "EmulatedStorage") -> float:
    """Of all blocks. An erase into SLC mode wears the cells less."""
    superblock = storage.chip.superblock
    if not superblock.endurance:
        raise SensorError(f"{storage.profile.part.name}: no endurance is rated of it")
    slc = float(storage.translation.counters["slc_erases"])
    normal = max(storage.translation.block_erases - slc, 0.0)
    if superblock.slc_endurance:
        slc *= superblock.endurance / superblock.slc_endurance
    return 100.0 * (normal + slc) / (storage.blocks * superblock.endurance)


def coded(quantity: str) -> "Callable[[EmulatedStorage], float]":
    return lambda storage: figure(storage.profile.part.name, quantity, storage.target.lifetime())


MEASURED: "dict[str, Callable[[EmulatedStorage], float]]" = {
    "temperature": temperature,
    "voltage": voltage,
    "spare": spare,
    "life_time_a": life_time_a,
    "life_time_b": life_time_b,
    "life_time_a_code": coded("life_time_a_code"),
    "life_time_b_code": coded("life_time_b_code"),
    "pre_eol": coded("pre_eol"),
}
