"""A sensor of Linux's hardware monitoring: /sys/class/hwmon/hwmonN/tempM_input or inM_input."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from virtflash.config.measured import MEASURES
from virtflash.health.sensors.attribute import listed, read_celsius, read_integer, read_text, says
from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SensorError

SYS = Path("/sys")
INPUTS = {"temperature": re.compile(r"(temp\d+)_input"), "voltage": re.compile(r"(in\d+)_input")}


@dataclass(frozen=True)
class Input:
    """Of a chip. `stem`: its attributes begin with it, such as "temp1"."""

    directory: Path
    stem: str

    @property
    def label(self) -> str | None:
        try:
            return read_text(self.directory / f"{self.stem}_label")
        except SensorError:
            return None

    def __str__(self) -> str:
        label = self.label
        return f"{self.directory.name}/{self.stem}" + (f" ({label})" if label else "")


class Hwmon:
    """`chip`: its name, such as "tmp102", or its directory, such as "hwmon2", where several are of a name. `label`: of
    the input, or its stem, such as "temp1"; None: the only one. All are looked for at each reading: numbers change when
    drivers come and go."""

    def __init__(
        self,
        name: str,
        chip: str,
        label: str | None = None,
        *,
        quantity: Literal["temperature", "voltage"] = "temperature",
        root: Path = SYS,
        period: float = SECONDS_BETWEEN,
    ) -> None:
        self.name, self.unit, self.period = name, MEASURES[quantity].unit, period
        self._chip, self._label, self._quantity = chip, label, quantity
        self._root = root / "class" / "hwmon"

    def read(self) -> float:
        found = self._find()
        self._refuse_fault(found)
        path = found.directory / f"{found.stem}_input"
        return read_celsius(path) if self._quantity == "temperature" else read_integer(path) / 1000

    def _refuse_fault(self, found: Input) -> None:
        """What the chip itself takes for broken, such as a diode that is not connected."""
        fault = found.directory / f"{found.stem}_fault"
        if fault.exists() and read_integer(fault):
            raise SensorError(f"{fault}: the chip says that this input is broken")

    def _find(self) -> Input:
        inputs = [found for chip in self._chips() for found in self._inputs(chip)]
        matching = [found for found in inputs if self._label in (None, found.stem, found.label)]
        if len(matching) == 1:
            return matching[0]
        there = listed([str(found) for found in inputs])
        if matching:
            raise SensorError(f"{self._root}: several inputs would do; name one by chip and label: {there}")
        wanted = self._quantity if self._label is None else f"{self._quantity} {self._label!r}"
        raise SensorError(f"{self._root}: {self._chip} has no {wanted}; it has: {there}")

    def _chips(self) -> list[Path]:
        chips = sorted(self._root.glob("hwmon*"))
        matching = [chip for chip in chips if chip.name == self._chip or says(chip / "name", self._chip)]
        if not matching:
            there = listed([chip.name for chip in chips])
            raise SensorError(f"{self._root}: there is no chip {self._chip!r} among {there}")
        return matching

    def _inputs(self, chip: Path) -> Iterator[Input]:
        for path in sorted(chip.iterdir()):
            if match := INPUTS[self._quantity].fullmatch(path.name):
                yield Input(chip, match[1])
