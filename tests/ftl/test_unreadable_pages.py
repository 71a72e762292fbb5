"""Pages that cannot be read any more: what was in them fails until it is written, and nothing else does."""

import random
from errno import EIO

import pytest
from crash_model import PARTS, Part, Run, bytes_of, content

from virtflash.ftl.translation import Translation

EACH_PART = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
# Programs on NOR have no ECC that would notice.
WITH_ECC = pytest.mark.parametrize("part", [PARTS[name] for name in PARTS if name != "NOR"], ids=lambda part: part.name)
CLOSED, META = 2, 2


def filled(part: Part) -> Run:
    run = Run.begin(part)
    run.age(random.Random(1))
    return run


def unreadable(layer: Translation) -> set[int]:
    found = set()
    for unit in range(layer.units):
        try:
            layer.read(unit)
        except OSError as error:
            assert error.errno == EIO
            found.add(unit)
    return found


def blocks_of(run: Run, *, meta: bool) -> list[int]:
    table, _ = run.layer.snapshot()
    return [
        block
        for block in range(len(table))
        if table["use"][block] != 0 and (table["flags"][block] & META != 0) == meta and table["written"][block]
    ]


def spoil_block(run: Run, block: int) -> None:
    for page in range(int(run.flash.block_table()["next_page"][block])):
        run.flash.spoil(block, page)


def spoil_a_closed_block(run: Run) -> set[int]:
    """The one with the most valid units of data. Those, which cannot be read now."""
    table, _ = run.layer.snapshot()
    data = (table["use"] == CLOSED) & (table["flags"] & META == 0)
    block = int((table["valid"] * data).argmax())
    spoil_block(run, block)
    lost = unreadable(run.layer)
    assert len(lost) == table["valid"][block]
    return lost


def all_others_are_right(run: Run, lost: set[int]) -> None:
    assert unreadable(run.layer) == lost
    for unit in set(range(run.part.units)) - lost:
        run.take(("read", unit))
    assert run.layer.check() == []


@WITH_ECC
@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_while_its_old_copy_is_found_to_be_lost_is_not_lost(part: Part, seed: int) -> None:
    """Making room for a write may move the unit that it writes; that the unit is lost must not be noted behind it."""
    run = filled(part)
    for block in blocks_of(run, meta=False):
        spoil_block(run, block)
    for unit in range(part.units):
        run.model.spoiled(unit, now=True)
    for unit in random.Random(seed).sample(range(part.units), part.units):
        run.take(("write", (unit,), False))
    run.take(("flush",))
    run.recover()
    run.settle()


@WITH_ECC
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_they_fail_until_they_are_written(part: Part, moved: bool, clean: bool) -> None:
    run = filled(part)
    lost = spoil_a_closed_block(run)
    if moved:  # reads have marked the block for refresh
        run.layer.work()
        assert run.layer.counters["lost_units"] == len(lost)
        run.layer.flush()
    elif not clean:
        run.layer.checkpoint()  # the one under way
        run.layer.checkpoint()  # else the records, which cannot be read either, would show what was there before
    run.layer.close() if clean else None
    run.layer = part.mount(run.flash)
    all_others_are_right(run, lost)
    for unit in sorted(lost):
        run.take(("write", (unit,), False))
    all_others_are_right(run, set())


@WITH_ECC
def test_they_read_zeroes_once_they_are_trimmed(part: Part) -> None:
    run = filled(part)
    lost = spoil_a_closed_block(run)
    for unit in lost:
        run.take(("trim", unit, 1))
    run.take(("flush",))
    all_others_are_right(run, set())
    run.layer = part.mount(run.flash)
    all_others_are_right(run, set())


@WITH_ECC
def test_no_unit_ever_reads_as_another(part: Part) -> None:
    """Not even when what a checkpoint names was overwritten, its block written anew, and the newer record is lost."""
    for seed in range(60):
        run = Run.begin(part, seed)
        run.layer = Translation.mount(
            run.flash, part.units, unit_bytes=512, reserve_blocks=2, checkpoint_frames=1 << 40
        )
        random_ = random.Random(seed)
        run.age(random_)
        run.layer.checkpoint()
        for _ in range(3 * part.units):
            run.take(("write", tuple(random_.sample(range(part.units), part.frame_units)), False))
        spoil_block(run, random_.choice(blocks_of(run, meta=False)))
        run.layer = part.mount(run.flash)
        for unit in set(range(part.units)) - unreadable(run.layer):
            data = run.layer.read(unit)
            version = int.from_bytes(data[4:8], "little")
            assert data in (content(unit, version), bytes_of(unit, 0))


@EACH_PART
@pytest.mark.parametrize("clean", [False, True])
def test_without_any_metadata_all_data_is_found(part: Part, clean: bool) -> None:
    """By the records of all frames. What was trimmed may come back, since only metadata told of that."""
    if part.name == "NOR":
        pytest.skip("NOR has no ECC that would notice")
    run = filled(part)
    run.take(("trim", 5, 3))
    run.layer.close() if clean else run.take(("flush",))
    for block in blocks_of(run, meta=True):
        spoil_block(run, block)
    run.layer = part.mount(run.flash)
    for unit in range(part.units):
        data = run.layer.read(unit)
        if unit in range(5, 8):
            version = int.from_bytes(data[4:8], "little")
            assert data == bytes_of(unit, version)
        else:
            assert data == bytes_of(unit, run.model.may_be[unit][-1])
    assert run.layer.check() == []
