"""Any history of a device, drawn by hypothesis, against a dictionary.

What a host asks for, what its operator does, what breaks, what becomes unreadable, and power that goes at any
operation, in a mount too.
"""

import re
import struct
from collections.abc import Callable
from errno import EROFS

import hypothesis.strategies as st
from crash_model import PARTS, UNIT_BYTES, Part, Run
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from virtflash.flash.profiles import load_profile, parse_profile

SPARES = 6
RECORD_WORDS = 24  # of a frame's record: where its words begin; frame.pxd
FLAG_META = 2
DAY = 86400.0

NUMBER = st.integers(0, 1 << 20)
CUT = st.tuples(st.integers(1, 12), st.integers(0, 9))  # operation, and how


def fading(name: str) -> Part:
    """A small part that forgets in months. Its ECC corrects so much that what is refreshed in time is never lost by a
    draw of the seed."""
    profile = load_profile("slc-nand-256m")
    text = profile.text
    for key, value in {
        "floor": "1e-4",
        "retention": "1e-5",
        "correctable_bits": "40",
        "raw_codeword_bits": "4616",
    }.items():
        text, found = re.subn(f"(?m)^{key} = \\S+", f"{key} = {value}", text)
        assert found == 1
    chip = {
        "profile": parse_profile(text, "fading"),
        "page_bytes": 512,
        "spare_bytes": 96,
        "pages_per_block": 8,
        "blocks": 48,
        "factory_bad_share": 0.05,
    }
    return Part(name, 72, chip, {"refresh_share": 30}, reserve_blocks=8)


ALL_PARTS = {name: part.with_spares(SPARES) for name, part in PARTS.items()} | {"fading": fading("fading")}


class AnyHistory(RuleBasedStateMachine):
    run: Run

    @initialize(part=st.sampled_from(list(ALL_PARTS)), seed=NUMBER, aged=st.booleans())
    def begin(self, part: str, seed: int, aged: bool) -> None:
        self.run = Run.begin(ALL_PARTS[part], seed)
        self.run.mortal = True
        self.cuts: list[tuple[int, int]] = []
        if aged:
            self.fill()

    def fill(self) -> None:
        for first in range(4 * self.run.part.units):
            self.run.take(("write", self.units_from(first), False))
        self.run.take(("flush",))

    def units_from(self, first: int) -> tuple[int, ...]:
        """As many different ones as a frame takes, some of them often."""
        units, frame = self.run.part.units, self.run.part.frame_units
        return tuple(sorted({(first * 7 + i * (1 + first % 5)) % units for i in range(frame)}))

    def attempt(self, do: Callable[[], None]) -> None:
        """Power may go meanwhile; and at the end of its life a device refuses what would change it."""
        try:
            do()
        except OSError as error:
            if self.run.flash.lost_power:
                self.recover()
            elif error.errno != EROFS or not self.run.layer.read_only:
                raise

    def recover(self) -> None:
        self.run.recover(self.cut_again, at_most=len(self.cuts))
        self.cuts = []
        self.run.settle()

    def cut_again(self) -> None:
        self.run.flash.arm_cut(*self.cuts.pop())
        self.cuts.insert(0, (1, 4))  # `at_most` counts the ones that are left

    def take(self, *step: object) -> None:
        self.attempt(lambda: self.run.take(step))

    # A host

    @rule(first=NUMBER, count=st.integers(1, 8), small=st.booleans())
    def write(self, first: int, count: int, small: bool) -> None:
        self.take("write", self.units_from(first)[:count], small)

    @rule(first=NUMBER, times=st.integers(10, 60))
    def write_much(self, first: int, times: int) -> None:
        for i in range(times):
            self.take("write", self.units_from(first + i * i), False)

    @rule(first=NUMBER, count=st.integers(1, 20))
    def trim(self, first: int, count: int) -> None:
        first %= self.run.part.units
        self.take("trim", first, min(count, self.run.part.units - first))

    @rule()
    def flush(self) -> None:
        self.take("flush")

    @rule(first=NUMBER, count=st.integers(1, 6))
    def secure(self, first: int, count: int) -> None:
        first %= self.run.part.units
        self.take("secure", first, min(count, self.run.part.units - first))

    @rule()
    def sanitize(self) -> None:
        self.take("sanitize")

    @rule(unit=NUMBER)
    def read(self, unit: int) -> None:
        self.take("read", unit % self.run.part.units)

    # Its operator

    @rule(steps=st.integers(1, 40))
    def work(self, steps: int) -> None:
        self.take("work", steps)

    @rule(block=NUMBER)
    def refresh(self, block: int) -> None:
        self.take("refresh", block)

    @rule(frames=st.integers(1, 300))
    def patrol(self, frames: int) -> None:
        self.run.layer.patrol(frames)

    @rule(block=NUMBER, erases=st.integers(0, 5), valid=st.integers(0, 24))
    def advise(self, block: int, erases: int, valid: int) -> None:
        self.run.layer.advise_collect([(block % (2 * self.run.part.chip["blocks"]), erases, valid)])

    @rule()
    def checkpoint(self) -> None:
        self.take("checkpoint")

    @rule(clean=st.booleans())
    def mount(self, clean: bool) -> None:
        self.take("remount", clean)

    @rule(days=st.integers(1, 30), celsius=st.sampled_from([-40.0, 25.0, 55.0]))
    def lie_about(self, days: int, celsius: float) -> None:
        """And be looked after in time."""
        for _ in range(days):
            self.run.flash.advance(DAY, celsius)
            while not self.run.layer.patrol(100) and not self.run.flash.lost_power:
                pass
            self.take("work", 1000)

    # What goes wrong

    @rule(after=st.integers(1, 30), how=st.integers(0, 9), again=st.lists(CUT, max_size=2))
    def cut_soon(self, after: int, how: int, again: list[tuple[int, int]]) -> None:
        outcomes = self.run.flash.cut_outcomes
        self.run.flash.arm_cut(after, how % outcomes)
        self.cuts = [(operation, how % outcomes) for operation, how in again]

    @rule()
    def power_goes(self) -> None:
        self.recover()

    @rule(kind=st.sampled_from(["program", "erase"]), number=st.integers(1, 10))
    def fail(self, kind: str, number: int) -> None:
        self.take("fail", kind, number)

    @precondition(lambda self: self.run.part.chip.get("kind") != "nor")
    @rule(block=NUMBER, frame=NUMBER)
    def spoil(self, block: int, frame: int) -> None:
        """A page of data becomes unreadable, and with it one that the units in it may once fall back to."""
        table, _ = self.run.layer.snapshot()
        data = [i for i in range(len(table)) if table["written"][i] and not table["flags"][i] & FLAG_META]
        if not data or self.run.flash.lost_power:
            return
        chosen = data[block % len(data)]
        pages = max(UNIT_BYTES // self.run.flash.page_bytes(chosen), 1)
        page = frame % int(table["written"][chosen]) * pages + pages - 1
        units = self.units_named(chosen, page)
        try:
            self.run.flash.spoil(chosen, page)
        except ValueError:
            return  # nothing is programmed there any more
        for unit in units:
            self.run.model.spoiled(unit, now=self.run.look(unit) is None)

    def units_named(self, block: int, page: int) -> list[int]:
        spare = self.run.flash.read(block, page)[2]
        words = spare[RECORD_WORDS : len(spare) // 4 * 4]
        return sorted({unit for (unit,) in struct.iter_unpack("<I", words) if unit < self.run.part.units})

    @invariant()
    def what_is_kept_in_memory_fits_together(self) -> None:
        if hasattr(self, "run") and not self.run.flash.lost_power:
            assert self.run.layer.check() == []

    def teardown(self) -> None:
        if hasattr(self, "run"):
            self.cuts = []
            self.recover()
            self.run.settle_twice()


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
