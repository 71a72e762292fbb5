"""A look at a device's data that leaves the device as it was: neither its cache nor its marks for refresh change.

The same flash is mounted a second time, read-only. Only the chip sees the reads.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.lab.checked_data import CheckedData, Found
from virtflash.lab.load import Units
from virtflash.lab.opened_flash import mounted

UNITS_MOST = 16384
COUNTED = ("corrected_bits", "uncorrectable")  # by the chip


@dataclass(frozen=True)
class Probed:
    """`cost`: what the chip counted for it, to be taken off from what the device does itself."""

    found: Found
    cost: Counter[str]


def probe(storage: EmulatedStorage, data: CheckedData, random: numpy.random.Generator) -> Probed:
    """Read and check all units that hold data, or as many as tell enough. OSError: the cache cannot be emptied."""
    before = chip_counts(storage)
    if storage.translation.read_only:
        target = storage.target  # it changes nothing any more, and what its cache holds may have no place on the flash
    else:
        data.flush()
        target = mounted(Path(), storage.chip, read_only=True).target
    found = data.read_back(chosen(data, random), target)
    return Probed(found, chip_counts(storage) - before)


def chip_counts(storage: EmulatedStorage) -> Counter[str]:
    counters = storage.chip.counters()
    return Counter({name: int(counters[name]) for name in COUNTED})


def chosen(data: CheckedData, random: numpy.random.Generator) -> Units:
    holding = data.holding()
    if len(holding) <= UNITS_MOST:
        return holding
    return numpy.sort(random.choice(holding, UNITS_MOST, replace=False))
