"""Time that passes for a chip, hour by hour at the temperature of that hour."""

import math

from virtflash.flash.emulated import EmulatedFlash
from virtflash.lab.temperature import TemperatureProfile

HOUR_SECONDS = 3600


class PassingTime:
    """Hours since the beginning of the experiment, and what the temperature was."""

    def __init__(self, chip: EmulatedFlash, temperature: TemperatureProfile) -> None:
        self._chip, self._temperature = chip, temperature
        self.hours = 0.0
        self.least, self.most = math.inf, -math.inf
        self.degree_hours = 0.0  # to take means of

    def until(self, hours: float) -> None:
        while self.hours < hours:
            hour = int(self.hours)
            end = min(hour + 1.0, hours)
            self._pass(end - self.hours, self._temperature.at(hour))
            self.hours = end

    def _pass(self, hours: float, celsius: float) -> None:
        self._chip.advance(hours * HOUR_SECONDS, celsius)
        self.degree_hours += hours * celsius
        self.least, self.most = min(self.least, celsius), max(self.most, celsius)
