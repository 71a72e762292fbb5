"""What sensors measure, and how a value of it is written in a rule: "85 degC", "3100 mV", "10 %", 2.

A sensor is named by what it belongs to and by what it measures: `emmc0.temperature`. Readings are numbers in the unit
that stands here, and a threshold becomes one when it is read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

PLATFORM = "platform"  # what the vehicle pushes belongs to no flash: `platform.voltage`
WRITTEN = re.compile(r"\s*(-?[0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(\S*)\s*", re.ASCII)
ZERO_CELSIUS = Fraction("273.15")  # kelvin
ANYTHING = 10**15  # where nothing else is known of a number: what a float tells in whole steps

Unit = tuple[Fraction, Fraction]  # a value is the number that is written, times the first, plus the second
AS_WRITTEN: Unit = (Fraction(1), Fraction(0))


@dataclass(frozen=True)
class Measure:
    """One kind of value. `unit`: of readings; `units`: those that a threshold may have, "" for none."""

    expected: str
    unit: str = ""
    units: Mapping[str, Unit] = field(default_factory=lambda: {"": AS_WRITTEN})
    least: Fraction = Fraction(0)
    most: Fraction = Fraction(ANYTHING)

    def read(self, written: str | float) -> float:
        """A threshold, as a reading would be. ValueError: what was expected."""
        number, unit = parts(written)
        factor, added = self.units.get(unit, (None, Fraction(0)))
        if number is None or factor is None or not self.least <= number * factor + added <= self.most:
            raise ValueError(self.expected)
        return float(number * factor + added)

    def show(self, value: float) -> str:
        number = f"{round(value, 3):.10g}"
        return f"{number} {self.unit}" if self.unit else number


def parts(written: str | float) -> tuple[Fraction | None, str]:
    """The number and its unit. None: there is no number."""
    if isinstance(written, float) and not math.isfinite(written):
        return None, ""
    if not isinstance(written, str):
        return Fraction(written), ""
    match = WRITTEN.fullmatch(written)
    return (Fraction(match[1]), match[2]) if match else (None, "")


TEMPERATURE = Measure(
    'a temperature is written like "85 degC" or "358 K"',
    unit="degC",
    units={"degC": AS_WRITTEN, "K": (Fraction(1), -ZERO_CELSIUS)},
    least=-ZERO_CELSIUS,
    most=Fraction(1000),
)
VOLTAGE = Measure(
    'a voltage is written like "3.1 V" or "3100 mV"',
    unit="V",
    units={"V": AS_WRITTEN, "mV": (Fraction(1, 1000), Fraction(0))},
    most=Fraction(1000),
)
PERCENT = Measure(
    'a share is written like "80 %" or 80', unit="%", units={"": AS_WRITTEN, "%": AS_WRITTEN}, most=Fraction(1000)
)
CODE = Measure("a number from 0 to 255 is expected, as the register has it", most=Fraction(255))
NUMBER = Measure("a number is expected", least=Fraction(-ANYTHING))

MEASURES = {
    "temperature": TEMPERATURE,
    "voltage": VOLTAGE,
    "life_time_a": PERCENT,  # of the rated cycles, used: of blocks in SLC mode, and of all others; more than 100 is
    "life_time_b": PERCENT,  # possible
    "spare": PERCENT,  # of the reserve of blocks, left
    "pre_eol": CODE,  # EXT_CSD 267: 1 normal, 2 warning, 3 urgent
    "life_time_a_code": CODE,  # EXT_CSD 268: n says up to n x 10 % used, 11 says exceeded
    "life_time_b_code": CODE,  # EXT_CSD 269
    "corrected_bits": PERCENT,  # of what the ECC can correct, in the worst codeword
}


def of_sensor(sensor: str) -> tuple[str, str]:
    """What it belongs to, a flash or PLATFORM, and what it measures. A flash may have dots in its name."""
    owner, _, quantity = sensor.rpartition(".")
    return owner, quantity


def measure_of(sensor: str) -> Measure:
    """Of what nothing is known: a plain number."""
    return MEASURES.get(of_sensor(sensor)[1], NUMBER)
