"""Any history of a flash with volumes, with power cuts anywhere, against a dictionary of what its volumes hold."""

from collections.abc import Callable
from contextlib import suppress

from carved_flash import GRANULE, GRANULES, CarvedFlash, stamped
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from virtflash.volumes.errors import VolumeError
from virtflash.volumes.table import granules_for

NAMES = st.sampled_from(["cluster", "radio", "boot", "log", "telematics"])
SIZES = st.integers(1, 6 * GRANULE)
Held = dict[str, list[bytes]]  # by volume, what each of its sectors holds


class AnyHistory(RuleBasedStateMachine):
    """Every write is flushed, so that each volume has one content and no other, cut or not."""

    @initialize(part=st.sampled_from(["SLC", "TLC with SLC mode", "paired pages", "NOR"]))
    def begin(self, part: str) -> None:
        self.flash = CarvedFlash(part)
        self.flash.open()
        self.held: Held = {}
        self.secure: dict[str, bool] = {}
        self.stamp = 0

    def change(self, call: Callable[[], object], after: Held) -> None:
        """It happens, or is refused, or is cut: then it has happened, or it has not."""
        try:
            call()
        except VolumeError:
            assert after is self.held, "it was refused, and should not have been"
            return
        except OSError:
            assert self.flash.chip.lost_power
            self.flash.recover()
            found = {volume.name: volume.sectors for volume in self.flash.pool.volumes}
            old, new = ({name: len(held) for name, held in state.items()} for state in (self.held, after))
            assert found in (old, new)
            if found != new:
                return
        self.held = after

    @rule(name=NAMES, sectors=SIZES, secure=st.booleans())
    def create(self, name: str, sectors: int, secure: bool) -> None:
        fits = granules_for(sectors, GRANULE) * GRANULE <= self.flash.pool.free_sectors
        after = self.held | {name: [bytes(512)] * sectors}
        if name in self.held or not fits:
            after = self.held
        else:
            self.secure[name] = secure
        self.change(lambda: self.flash.pool.create(name, sectors, secure_delete=secure), after)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        after = {other: held for other, held in self.held.items() if other != name} if name in self.held else self.held
        secure = name in self.held and self.secure[name]
        self.change(lambda: self.flash.pool.delete(name), after)
        if secure and name not in self.held:
            assert f"{name} #".encode() not in self.flash.medium()

    @rule(name=NAMES, sectors=SIZES)
    def grow(self, name: str, sectors: int) -> None:
        held, after = self.held.get(name, []), self.held
        more = granules_for(sectors, GRANULE) - granules_for(len(held), GRANULE)
        if len(held) < sectors and held and more * GRANULE <= self.flash.pool.free_sectors:
            after = self.held | {name: held + [bytes(512)] * (sectors - len(held))}
        self.change(lambda: self.flash.pool.grow(name, sectors), after)

    @rule(name=NAMES, place=st.integers(0, 23), length=st.integers(1, 24))
    def write(self, name: str, place: int, length: int) -> None:
        """Not cut: what a cut leaves of a write is the translation layer's matter."""
        held = self.held.get(name)
        if not held:
            return
        self.flash.chip.power_on()
        place %= len(held)
        length = min(length, len(held) - place)
        self.stamp += 1
        data = stamped(f"{name} #{self.stamp}", length)
        self.flash.pool.window(name).write(place, data)
        self.flash.target.flush()
        held[place : place + length] = [data[at * 512 : at * 512 + 512] for at in range(length)]

    @rule(after=st.integers(1, 30), how=st.integers(0, 9))
    def arm(self, after: int, how: int) -> None:
        """The next change is cut, if it has so many operations."""
        self.flash.chip.arm_cut(after, how)

    @rule(tries=st.lists(st.tuples(st.integers(1, 14), st.integers(0, 9)), max_size=2))
    def power_off(self, tries: list[tuple[int, int]]) -> None:
        """Power is lost between two changes, and then while it recovers."""
        left = list(tries)
        self.flash.recover(lambda: self.flash.chip.arm_cut(*left.pop()), at_most=len(tries))

    @invariant()
    def volumes_hold_what_was_written_and_nothing_else(self) -> None:
        if not hasattr(self, "flash"):
            return
        pool = self.flash.pool
        assert {volume.name: volume.sectors for volume in pool.volumes} == {n: len(h) for n, h in self.held.items()}
        for name, held in self.held.items():
            assert self.flash.contents(name) == b"".join(held), name
        taken = sum(granules_for(len(held), GRANULE) for held in self.held.values())
        assert pool.being_erased == ()
        assert pool.free_sectors == (GRANULES - taken) * GRANULE

    def teardown(self) -> None:
        if hasattr(self, "flash"):
            self.flash.recover()
            self.volumes_hold_what_was_written_and_nothing_else()
            with suppress(VolumeError):
                self.flash.pool.create("heir", self.flash.pool.free_sectors)
                assert not any(self.flash.contents("heir"))


TestVolumeHistory = AnyHistory.TestCase
TestVolumeHistory.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
