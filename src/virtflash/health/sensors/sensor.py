"""What the monitor asks of a sensor: one figure, now."""

from typing import Protocol

SECONDS_BETWEEN = 1.0  # readings of what changes by the second
SECONDS_BETWEEN_WEAR = 10.0  # of what changes by the day


class SensorError(Exception):
    """There is no reading. One line that says of what, and why."""


class Sensor(Protocol):
    """One quantity of one thing. Only one thread reads it at a time."""

    @property
    def name(self) -> str:
        """ "FLASH.QUANTITY", or "platform.NAME" of what belongs to no flash."""

    @property
    def unit(self) -> str:
        """As of the quantity in `config.measured.MEASURES`."""

    @property
    def period(self) -> float:
        """Seconds from one reading to the next. It may change with each of them."""

    def read(self) -> float:
        """In its unit. It may take as long as it likes, or never return. SensorError, OSError: there is none."""
