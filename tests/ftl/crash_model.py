"""A translation layer against a dictionary, with the power cut wherever one likes.

After a cut each unit has to be its last flushed version or one written later, a trimmed and unflushed one either; what
a mount shows stays so at every later mount. A unit's content says which unit and which version it is, in every byte.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from errno import EROFS
from typing import Any, Literal

from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNIT_BYTES = 512
LOW_BLOCKS = 10  # free ones, from which on each write pays for some collection
ZEROES = bytes(UNIT_BYTES)
PROGRAM_OUTCOMES = 10  # of `how`: five of the page itself, without and with the loss of the page that it endangers


@dataclass(frozen=True)
class Part:
    """A small chip and how much of it is promised."""

    name: str
    units: int
    chip: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    reserve_blocks: int = 2

    def make(self, seed: int = 1) -> EmulatedFlash:
        track = self.settings.get("host_sync", False)
        return EmulatedFlash.in_memory(seed=seed, track_sync=track, **self.chip)

    @property
    def frame_units(self) -> int:
        return max(int(self.chip["page_bytes"]) // UNIT_BYTES, 1)

    def with_spares(self, blocks: int) -> "Part":
        """The same with more blocks that may go bad."""
        chip = {**self.chip, "blocks": self.chip["blocks"] + blocks}
        return replace(self, chip=chip, reserve_blocks=self.reserve_blocks + blocks)

    def on_a_disk(self) -> "Part":
        """The same with its image on a disk of a host that may crash."""
        return replace(self, settings={**self.settings, "host_sync": True})

    def format(self, flash: EmulatedFlash) -> Translation:
        return Translation.format(
            flash, self.units, unit_bytes=UNIT_BYTES, reserve_blocks=self.reserve_blocks, **self.settings
        )

    def mount(self, flash: EmulatedFlash) -> Translation:
        return Translation.mount(
            flash, self.units, unit_bytes=UNIT_BYTES, reserve_blocks=self.reserve_blocks, **self.settings
        )


PLANAR_PAIRS = [0xFFFF if page < 3 or page % 2 == 0 else page - 3 for page in range(16)]  # lower 0 2 4.., upper 3 5 7..

PARTS = {
    part.name: part
    for part in (
        Part("one unit a page", 72, {"page_bytes": 512, "spare_bytes": 32, "pages_per_block": 8, "blocks": 30}),
        Part(
            "three units a page, SLC mode",
            120,
            {
                "page_bytes": 1536,
                "spare_bytes": 64,
                "pages_per_block": 8,
                "blocks": 28,
                "bits_per_cell": 3,
                "slc_page_bytes": 512,
                "slc_pages_per_block": 8,
            },
        ),
        Part(
            "paired pages, SLC mode",
            144,
            {
                "page_bytes": 1024,
                "spare_bytes": 64,
                "pages_per_block": 16,
                "blocks": 28,
                "bits_per_cell": 2,
                "slc_page_bytes": 1024,
                "slc_pages_per_block": 8,
                "pair_table": PLANAR_PAIRS,
            },
        ),
        Part(
            "paired pages",
            144,
            {
                "page_bytes": 1024,
                "spare_bytes": 64,
                "pages_per_block": 16,
                "blocks": 28,
                "bits_per_cell": 2,
                "pair_table": PLANAR_PAIRS,
            },
        ),
        Part("two pages a unit", 72, {"page_bytes": 256, "spare_bytes": 32, "pages_per_block": 16, "blocks": 30}),
        Part("NOR", 72, {"kind": "nor", "page_bytes": 256, "spare_bytes": 0, "pages_per_block": 18, "blocks": 30}),
    )
}


class BrokenPromiseError(AssertionError):
    """The layer has broken its promise."""


def content(unit: int, version: int) -> bytes:
    return (unit.to_bytes(4, "little") + version.to_bytes(4, "little")) * (UNIT_BYTES // 8)


ANYTHING = -1  # of a unit whose flash was spoiled: an error, zeroes, or whatever was ever written to it


@dataclass
class Model:
    """What may be read. `may_be[unit]`: the versions that a mount may show, 0 for zeroes; the last one is current."""

    units: int
    may_be: list[list[int]]
    version: int = 0

    @classmethod
    def blank(cls, units: int) -> "Model":
        return cls(units, [[0] for _ in range(units)])

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def change(self, unit: int, version: int) -> None:
        self.may_be[unit].append(version)

    def refused(self, units: Iterable[int]) -> None:
        """The last change of these was not accepted, and has done nothing."""
        for unit in units:
            self.may_be[unit].pop()

    def spoiled(self, unit: int, *, now: bool) -> None:
        """A copy of it became unreadable: `now`, the one that is current."""
        self.may_be[unit] = [ANYTHING] if now else [ANYTHING, *self.may_be[unit]]

    def shown(self, unit: int, data: bytes | None) -> None:
        """A mount has shown it, or (None) that it cannot be read: that is the truth from now on."""
        for version in self.may_be[unit]:
            if version != ANYTHING and data == bytes_of(unit, version):
                self.may_be[unit] = [version]
                return
        seen = "unreadable" if data is None else f"version {int.from_bytes(data[4:8], 'little')}"
        if ANYTHING not in self.may_be[unit] or not self.was_ever(unit, data):
            raise BrokenPromiseError(f"unit {unit} reads as {seen}, which is none of {sorted(set(self.may_be[unit]))}")
        self.may_be[unit] = [ANYTHING]

    def was_ever(self, unit: int, data: bytes | None) -> bool:
        return data is None or any(data == bytes_of(unit, version) for version in range(self.version + 1))

    def flushed(self) -> None:
        self.may_be = [versions[-1:] for versions in self.may_be]


def bytes_of(unit: int, version: int) -> bytes:
    return content(unit, version) if version else ZEROES


Step = tuple[Any, ...]


def workload(random_: random.Random, units: int, frame: int, length: int) -> Iterator[Step]:
    """Steps that a host and its operator may take, half of the units hot."""
    for _ in range(length):
        kind = random_.random()
        first = random_.randrange(units)
        if kind < 0.60:
            hot = units if random_.random() < 0.3 else units // 4
            chosen = random_.sample(range(hot), min(random_.randint(1, frame), hot))
            yield ("write", tuple(chosen), random_.random() < 0.3)
        elif kind < 0.70:
            yield ("trim", first, random_.randint(1, min(8, units - first)))
        elif kind < 0.80:
            yield ("flush",)
        elif kind < 0.83:
            yield ("secure", first, random_.randint(1, min(4, units - first)))
        elif kind < 0.87:
            yield ("work", random_.randint(1, 20))
        elif kind < 0.90:
            yield ("refresh", random_.randrange(1000))
        elif kind < 0.92:
            yield ("checkpoint",)
        elif kind < 0.94:
            yield ("remount", random_.random() < 0.5)
        elif kind < 0.95:
            yield ("sanitize",)
        else:
            yield ("read", first)


@dataclass
class Run:
    """One device, its layer and its model."""

    part: Part
    flash: EmulatedFlash
    layer: Translation
    model: Model
    mortal: bool = False  # its blocks fail: it may come to its end

    @classmethod
    def begin(cls, part: Part, seed: int = 1) -> "Run":
        flash = part.make(seed)
        return cls(part, flash, part.format(flash), Model.blank(part.units))

    def take(self, step: Step) -> None:
        """OSError: the power was lost in the middle of it."""
        getattr(self, f"_{step[0]}")(*step[1:])

    @contextmanager
    def _unless_refused(self, units: Iterable[int]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == EROFS:
                self.model.refused(units)
            raise

    def _write(self, units: tuple[int, ...], small: bool) -> None:
        version = self.model.next_version()
        for unit in units:
            self.model.change(unit, version)
        with self._unless_refused(units):
            self.layer.write(units, [content(unit, version) for unit in units], small=small)

    def _trim(self, first: int, count: int) -> None:
        for unit in range(first, first + count):
            self.model.change(unit, 0)
        with self._unless_refused(range(first, first + count)):
            self.layer.trim(first, count)

    def _secure(self, first: int, count: int) -> None:
        for unit in range(first, first + count):
            self.model.change(unit, 0)
        self.layer.secure_trim(first, count)
        for unit in range(first, first + count):
            self.model.may_be[unit] = [0]

    def _flush(self) -> None:
        self.layer.flush()
        self.model.flushed()

    def _work(self, steps: int) -> None:
        self.layer.work(steps)
        if self.flash.lost_power:
            raise OSError("without power")

    def _refresh(self, number: int) -> None:
        self.layer.advise_refresh(number % self.part.chip["blocks"], self.layer.generation)

    def _fail(self, kind: Literal["program", "erase"], number: int) -> None:
        if not self.layer.read_only:  # at the end of life hardly anything is programmed, and nothing fails
            self.flash.fail_next(kind, number)

    def _checkpoint(self) -> None:
        self.layer.checkpoint()

    def _sanitize(self) -> None:
        self.layer.sanitize()

    def _remount(self, clean: bool) -> None:
        if clean:
            self.layer.close()
            self.model.flushed()
        self.layer = self.part.mount(self.flash)
        self.settle()

    def _read(self, unit: int) -> None:
        current = self.model.may_be[unit][-1]
        if current != ANYTHING and self.layer.read(unit) != bytes_of(unit, current):
            raise BrokenPromiseError(f"unit {unit} does not read as it was written")

    def look(self, unit: int) -> bytes | None:
        """What it reads as; None: not at all."""
        try:
            return self.layer.read(unit)
        except OSError:
            return None

    def settle(self) -> None:
        """After a mount: what is read has to be allowed, and it is the truth from now on."""
        if self.layer.read_only and not self.mortal:
            raise BrokenPromiseError("it takes no more writes")
        for unit in range(self.model.units):
            self.model.shown(unit, self.look(unit))
        if contradictions := self.layer.check():
            raise BrokenPromiseError("; ".join(contradictions[:3]))

    def age(self, random_: random.Random) -> None:
        """Write it full, and on until blocks are collected: from then on every write may do anything."""
        frame = self.part.frame_units
        for first in range(0, self.part.units, frame):
            self._write(tuple(range(first, min(first + frame, self.part.units))), False)
        while self.layer.space["free"] > LOW_BLOCKS:
            self._write(tuple(random_.sample(range(self.part.units), frame)), random_.random() < 0.2)
        self._flush()

    def recover(self, cut: Callable[[], None] | None = None, at_most: int = 3) -> int:
        """Power returns, perhaps to be lost again while mounting, `at_most` so often. Returns how often it was."""
        lost = 0
        while True:
            self.flash.power_on()
            if cut is not None and lost < at_most:
                cut()
            try:
                self.layer = self.part.mount(self.flash)
            except OSError as error:
                if not self.flash.lost_power:
                    raise BrokenPromiseError(f"it cannot be mounted: {error}") from None
                lost += 1
                continue
            self.flash.power_on()  # a cut that was not reached is called off
            return lost

    def crash_host(self, seed: int) -> None:
        """The pages of the image that were not synced reach the disk, or not, or in part."""
        self.flash.host_crash(seed)
        self.layer = self.part.mount(self.flash)

    def settle_twice(self) -> None:
        """What is read stays so, at every later mount."""
        self.settle()
        for _ in range(2):
            self.layer = self.part.mount(self.flash)
            self.settle()
