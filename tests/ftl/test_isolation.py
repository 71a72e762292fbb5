"""Owners kept apart by erase blocks: no block holds units of two of them, whatever happens, and what that costs."""

import random
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from crash_model import PARTS, Part, Run, content, workload
from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, invariant, rule
from test_any_history import ALL_PARTS, NUMBER, AnyHistory

from virtflash.ftl.translation import Translation

OWNERS = 4  # 0 is one of them
GRANULE = 4  # units
EXTRA_BLOCKS = 4 * (OWNERS - 1)  # of over-provisioning: as few as will do
FLAG_REFRESH = 8
OPEN = 1  # of a block's use


def roomy(part: Part, blocks: int = EXTRA_BLOCKS) -> Part:
    return replace(part, chip={**part.chip, "blocks": part.chip["blocks"] + blocks})


ROOMY = {name: roomy(part) for name, part in PARTS.items()}
LARGE = {name: roomy(part, EXTRA_BLOCKS + 2 * OWNERS) for name, part in PARTS.items()}  # for lanes of small data, too
ALL_ROOMY = [roomy(part, EXTRA_BLOCKS + more) for part in ALL_PARTS.values() for more in (0, 2 * OWNERS)]
ALL_ROOMY += [roomy(part).on_a_disk() for part in ALL_PARTS.values()]


def in_turn(part: Part, owners: int = OWNERS) -> bytes:
    return bytes(i % owners for i in range(-(-part.units // GRANULE)))


def shared_blocks(layer: Translation) -> set[int]:
    return {block for block, owners in enumerate(layer.owners_of_blocks()) if len(owners) > 1}


def units_of(owner: int, part: Part, table: bytes) -> list[int]:
    return [unit for unit in range(part.units) if table[unit // GRANULE] == owner]


class IsolatedHistory(AnyHistory):
    """Any history, with owners that come and go."""

    @initialize(part=st.sampled_from(range(len(ALL_ROOMY))), seed=NUMBER, aged=st.booleans())
    def begin(self, part: int, seed: int, aged: bool) -> None:
        self.run = Run.begin(ALL_ROOMY[part], seed)
        self.run.mortal = True
        self.cuts = []
        self.table = bytearray(in_turn(self.run.part))
        self.layer: Translation | None = None
        if aged:
            self.fill()
        self.isolate()

    def isolate(self) -> None:
        self.layer = self.run.layer
        self.layer.set_owners(GRANULE, self.table, isolated=True)
        self.shared = shared_blocks(self.layer)

    def units_from(self, first: int) -> tuple[int, ...]:
        """Of one owner: a write of several is several writes."""
        units = super().units_from(first)
        return tuple(unit for unit in units if self.table[unit // GRANULE] == self.table[units[0] // GRANULE])

    def recover(self) -> None:
        super().recover()
        self.isolate()

    @rule(granule=NUMBER, count=st.integers(1, 5), owner=st.integers(0, OWNERS - 1))
    def change_owner(self, granule: int, count: int, owner: int) -> None:
        granule %= len(self.table)
        self.table[granule : granule + count] = bytes([owner] * len(self.table[granule : granule + count]))
        self.isolate()

    @rule()
    def separate(self) -> None:
        """Idle work, until there is no more, unless the power goes."""
        layer = self.run.layer
        self.take("work", 1_000_000)
        if self.run.layer is layer and not layer.read_only:
            assert shared_blocks(self.run.layer) == set()

    @invariant()
    def no_block_comes_to_be_shared(self) -> None:
        if not hasattr(self, "run"):
            return
        if self.run.layer is not self.layer:  # mounted anew
            self.isolate()
        now = shared_blocks(self.run.layer)
        assert now <= self.shared
        self.shared = now


TestIsolatedHistory = IsolatedHistory.TestCase
TestIsolatedHistory.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def isolated_run(part: Part, seed: int = 1, owners: int = OWNERS) -> Run:
    run = Run.begin(part, seed)
    run.layer.set_owners(GRANULE, in_turn(part, owners), isolated=True)
    return run


@pytest.mark.parametrize("name", ROOMY)
def test_a_cut_at_any_operation_leaves_what_was_flushed(name: str) -> None:
    """With checkpoints among the writes, while blocks are open that no END names."""
    part = replace(LARGE[name], settings={**LARGE[name].settings, "checkpoint_frames": 24})
    steps = [step for step in workload(random.Random(4), part.units, part.frame_units, 120) if step[0] != "remount"]
    run = isolated_run(part)
    for step in steps:
        run.take(step)
    assert run.layer.counters["checkpoints"] > 3
    last = run.flash.operations
    for operation in range(1, last):
        run = isolated_run(part)
        if operation <= run.flash.operations:
            continue
        run.flash.arm_cut(operation - run.flash.operations, operation % run.flash.cut_outcomes)
        with pytest.raises(OSError, match=r"power|error"):
            for step in steps:
                run.take(step)
        run.recover()
        run.settle()
        run.layer.set_owners(GRANULE, in_turn(part), isolated=True)
        run.layer.work()
        assert shared_blocks(run.layer) == set()
        run.settle_twice()


@pytest.mark.parametrize("name", ROOMY)
def test_data_from_before_is_separated_in_idle_time(name: str) -> None:
    part, random_ = ROOMY[name], random.Random(3)
    run = Run.begin(part)
    for _ in range(4 * part.units // part.frame_units):
        run.take(("write", tuple(random_.sample(range(part.units), part.frame_units)), False))
    run.layer.set_owners(GRANULE, in_turn(part), isolated=True)
    assert shared_blocks(run.layer)
    table, _ = run.layer.snapshot()
    assert all(table["flags"][block] & FLAG_REFRESH for block in shared_blocks(run.layer))
    assert not any(table["use"][block] == OPEN for block in shared_blocks(run.layer))
    run.layer.work()
    assert shared_blocks(run.layer) == set()
    assert run.layer.check() == []
    run.settle()


@pytest.mark.parametrize("name", ROOMY)
def test_with_as_little_room_as_is_allowed_it_is_written_for_ever(name: str) -> None:
    part, random_ = ROOMY[name], random.Random(5)
    run = isolated_run(part)
    for first in range(part.units):
        run.take(("write", (first,), False))
    least = part.chip["blocks"]
    for number in range(3000):
        run.take(("write", tuple(random_.sample(range(part.units), part.frame_units)), random_.random() < 0.2))
        least = min(least, run.layer.space["free"])
        if number % 100 == 0:
            assert run.layer.check() == []
    assert least >= 8  # what is reserved for recoveries
    assert shared_blocks(run.layer) == set()
    run.settle()


def test_too_little_room_is_refused_and_says_how_much_it_takes() -> None:
    part = roomy(PARTS["one unit a page"], EXTRA_BLOCKS - 1)
    run = Run.begin(part)
    with pytest.raises(ValueError, match="12 blocks of over-provisioning: this flash has 11, enough for 2"):
        run.layer.set_owners(GRANULE, in_turn(part), isolated=True)
    run.layer.set_owners(GRANULE, in_turn(part, 3), isolated=True)
    run.layer.set_owners(GRANULE, in_turn(part), isolated=False)


def test_a_frame_of_several_owners_is_several_frames() -> None:
    part = ROOMY["three units a page, SLC mode"]
    run = isolated_run(part)
    before = run.layer.counters["frames"]
    run.take(("write", (0, GRANULE, 1), False))
    assert run.layer.counters["frames"] == before + 2
    assert [run.layer.read(unit) for unit in (0, GRANULE, 1)] == [content(unit, 1) for unit in (0, GRANULE, 1)]


def filled(part: Part, owners: int) -> Run:
    run = isolated_run(part, owners=owners)
    for unit in range(part.units):
        run.take(("write", (unit,), False))
    return run


@pytest.mark.parametrize("name", ROOMY)
def test_who_floods_moves_nobody_elses_units(name: str) -> None:
    part, random_ = replace(ROOMY[name], settings={"levelling": False}), random.Random(7)
    run, own = filled(part, OWNERS), units_of(1, part, in_turn(part))
    for unit in units_of(2, part, in_turn(part))[::5]:  # the others' blocks would be worth collecting
        run.take(("write", (unit,), False))
    before = {owner: run.layer.moved_by_owner["collect"].get(owner, 0) for owner in range(OWNERS)}
    for _ in range(4000):
        count = min(len(own), part.frame_units)
        run.take(("write", tuple(random_.sample(own, count)), random_.random() < 0.2))
        run.layer.work(2)
    moved = run.layer.moved_by_owner
    assert {owner: moved["collect"].get(owner, 0) - before[owner] for owner in (0, 2, 3)} == {0: 0, 2: 0, 3: 0}
    assert moved["refresh"] == moved["level"] == {}
    run.settle()


@pytest.mark.parametrize("isolated", [False, True])
def test_neighbours_that_write_little_are_moved_only_where_blocks_are_shared(isolated: bool) -> None:
    part, random_ = ROOMY["one unit a page"], random.Random(7)
    flooding = units_of(1, part, in_turn(part))
    quiet = sorted(set(range(part.units)) - set(flooding))
    run = Run.begin(part)
    run.layer.set_owners(GRANULE, in_turn(part), isolated=isolated)
    for number in range(8000):
        run.take(("write", (random_.choice(flooding),), False))
        if number % 10 == 0:
            run.take(("write", (quiet[number // 10 % len(quiet)],), False))
    moved = run.layer.moved_by_owner["collect"]
    assert (sum(moved.get(owner, 0) for owner in (0, 2, 3)) > 0) != isolated
    run.settle()


def test_what_a_deleted_owner_leaves_open_is_closed() -> None:
    part = LARGE["paired pages, SLC mode"]
    run, table = isolated_run(part), bytearray(in_turn(part))
    own = units_of(2, part, table)
    run.take(("write", tuple(own[:2]), False))
    run.take(("write", tuple(own[2:3]), True))
    before = run.layer.space["open"]
    run.take(("trim", own[0], 4))
    run.layer.set_owners(GRANULE, bytes(0 if owner == 2 else owner for owner in table), isolated=True)
    assert run.layer.space["open"] == before - 2
    run.layer.set_owners(GRANULE, table, isolated=True)  # another one of the same number
    written = run.layer.snapshot()[0]["written"].copy()
    run.take(("write", tuple(own[4:6]), False))
    now = run.layer.snapshot()[0]
    assert [int(now["written"][block]) for block in range(len(now)) if now["written"][block] != written[block]] == [1]


def test_a_clean_stop_and_a_mount_without_owners_share_no_block_later() -> None:
    """What is open after a mount belongs to nobody in particular: it is closed when owners are told."""
    part = ROOMY["paired pages, SLC mode"]
    run = filled(part, OWNERS)
    run.take(("remount", True))
    assert run.layer.clean
    assert run.layer.space["open"] <= 4
    run.take(("write", (0, 5), False))  # as if it were all one
    run.layer.set_owners(GRANULE, in_turn(part), isolated=True)
    mixed = shared_blocks(run.layer)
    for unit in range(part.units):
        run.take(("write", (unit,), False))
        assert shared_blocks(run.layer) <= mixed
    run.settle()


def test_secure_erase_moves_neighbours_to_their_own_blocks() -> None:
    part = ROOMY["three units a page, SLC mode"]
    run = Run.begin(part)
    for first in range(0, part.units, 3):
        run.take(("write", (first, first + 1, first + 2), False))
    run.layer.set_owners(GRANULE, in_turn(part), isolated=True)
    assert shared_blocks(run.layer)
    run.take(("secure", 0, part.units // 2))
    assert sum(run.layer.moved_by_owner["purge"].values()) == run.layer.counters["moved_units"]["purge"] > 0
    assert run.layer.check() == []
    run.take(("sanitize",))
    run.layer.work()
    assert shared_blocks(run.layer) == set()
    run.settle()


def test_random_units_of_several_owners_are_refused() -> None:
    """`write_random` draws from a range of units, which may be several owners'."""
    run = isolated_run(ROOMY["one unit a page"])
    with pytest.raises(ValueError, match="several owners"):
        run.layer.write_random(1, 1)
