"""Emulated NAND: its rules as tables, and as a property against a model that is a dictionary."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.flash.emulated import ERASED, FAILED, MISUSE, NO_ROOM, OK, POWER_LOST, UNCORRECTABLE, EmulatedFlash
from virtflash.flash.image import ImageError

PAGE = 1024
SPARE = 16
PAGES = 8
SLC_PAGE = 512
SLC_PAGES = 4
BLOCKS = 6
BLANK = b"\xff"


def small(**more: Any) -> EmulatedFlash:
    """A multi-level part without errors, small enough to be read whole."""
    figures = {
        "page_bytes": PAGE,
        "spare_bytes": SPARE,
        "pages_per_block": PAGES,
        "blocks": BLOCKS,
        "slc_page_bytes": SLC_PAGE,
        "slc_pages_per_block": SLC_PAGES,
    }
    return EmulatedFlash.in_memory(**(figures | more))


def filled(byte: int, size: int = PAGE) -> bytes:
    return bytes([byte]) * size


def test_a_new_chip_reads_erased() -> None:
    flash = small()
    for block in range(BLOCKS):
        assert flash.read(block, PAGES - 1) == (ERASED, BLANK * PAGE, BLANK * SPARE)


def test_a_page_holds_data_and_spare() -> None:
    flash = small()
    data, spare = bytes(range(256)) * 4, bytes(range(SPARE))
    assert flash.program(2, 0, data, spare) == OK
    assert flash.read(2, 0) == (OK, data, spare)
    assert flash.read(2, 0, 100, 50) == (OK, data[100:150], spare)
    assert flash.read(2, 0, PAGE, 0) == (OK, b"", spare)
    assert flash.read(2, 1) == (ERASED, BLANK * PAGE, BLANK * SPARE)


def test_what_is_not_given_is_programmed_as_ones() -> None:
    flash = small()
    assert flash.program(0, 0, b"ab") == OK
    assert flash.read(0, 0) == (OK, b"ab" + BLANK * (PAGE - 2), BLANK * SPARE)


@pytest.mark.parametrize(
    ("what", "block", "page", "length"),
    [
        ("a page programmed twice", 1, 2, PAGE),
        ("a page before the last one programmed", 1, 0, PAGE),
        ("a page behind the block", 1, PAGES, PAGE),
        ("a block behind the chip", BLOCKS, 0, PAGE),
        ("more than a page", 1, 3, PAGE + 1),
        ("a bad block", 5, 0, PAGE),
        ("a page that SLC mode has not", 3, SLC_PAGES, SLC_PAGE),
        ("more than a page of SLC mode", 3, 0, SLC_PAGE + 1),
    ],
)
def test_misuse_of_program(what: str, block: int, page: int, length: int) -> None:
    flash = small()
    assert flash.program(1, 2, filled(7)) == OK
    flash.erase(3, slc=True)
    flash.mark_bad(5)
    assert flash.program(block, page, filled(1, length)) == MISUSE, what
    assert flash.read(1, 2)[1] == filled(7)


@pytest.mark.parametrize(
    ("block", "page", "offset", "length"),
    [
        (BLOCKS, 0, 0, 1),
        (0, PAGES, 0, 1),
        (0, 0, 0, PAGE + 1),
        (0, 0, PAGE, 1),
        (0, 0, 1, PAGE),
        (0, 0, 2**32 - 1, 2),
        (3, SLC_PAGES, 0, 1),
        (3, 0, 0, SLC_PAGE + 1),
    ],
)
def test_misuse_of_read(block: int, page: int, offset: int, length: int) -> None:
    flash = small()
    flash.erase(3, slc=True)
    assert flash.read(block, page, offset, length)[0] == MISUSE


@pytest.mark.parametrize(
    ("block", "slc", "figures"),
    [(BLOCKS, False, {}), (5, False, {}), (0, True, {"slc_page_bytes": 0, "slc_pages_per_block": 0})],
)
def test_misuse_of_erase(block: int, slc: bool, figures: dict[str, int]) -> None:
    flash = small(**figures)
    flash.mark_bad(5)
    assert flash.erase(block, slc=slc) == MISUSE


def test_pages_may_be_left_out_but_not_gone_back_to() -> None:
    flash = small()
    assert flash.program(0, 3, filled(3)) == OK
    assert flash.program(0, 1, filled(1)) == MISUSE
    assert flash.read(0, 1)[0] == ERASED
    assert flash.program(0, 4, filled(4)) == OK


def test_slc_mode_lasts_from_erase_to_erase() -> None:
    flash = small()
    flash.program(0, 0, filled(1))
    assert flash.erase(0, slc=True) == OK
    assert flash.page_bytes(0) == SLC_PAGE
    for page in range(SLC_PAGES):
        assert flash.program(0, page, filled(page, SLC_PAGE), filled(page, SPARE)) == OK
    assert [flash.read(0, page)[1][0] for page in range(SLC_PAGES)] == list(range(SLC_PAGES))
    assert flash.erase(0) == OK
    assert flash.page_bytes(0) == PAGE
    assert flash.read(0, 0)[0] == ERASED
    table = flash.block_table()
    assert (table["cycles"][0], table["slc_cycles"][0]) == (1, 1)


def test_a_bad_block_stays_bad_and_can_be_read() -> None:
    flash = small()
    flash.program(4, 0, filled(9))
    assert not flash.is_bad(4)
    assert flash.mark_bad(4) == OK
    assert flash.is_bad(4)
    assert flash.read(4, 0)[:2] == (OK, filled(9))


def test_factory_bad_blocks_follow_the_seed_and_spare_the_first() -> None:
    def bad(seed: int) -> list[bool]:
        return small(blocks=400, seed=seed, factory_bad_share=0.2).block_table()["factory_bad"].tolist()

    assert bad(1) == bad(1) != bad(2)
    assert not bad(1)[0]
    assert 40 < sum(bad(1)) < 120
    assert not small(blocks=1, factory_bad_share=0.5, seed=5).is_bad(0)


@pytest.mark.parametrize("kind", ["program", "erase"])
def test_an_ordered_failure_breaks_the_block(kind: str) -> None:
    flash = small()
    flash.program(0, 0, filled(1))
    flash.fail_next(kind, 2)  # type: ignore[arg-type]
    if kind == "program":
        assert [flash.program(0, page, filled(2)) for page in (1, 2, 3)] == [OK, FAILED, FAILED]
        assert flash.read(0, 2)[0] == UNCORRECTABLE
    else:
        assert [flash.erase(1), flash.erase(0), flash.erase(0)] == [OK, FAILED, FAILED]
    assert flash.program(0, 4, filled(3)) == FAILED
    assert flash.read(0, 0)[:2] == (OK, filled(1))
    assert flash.block_table()["broken"][0]
    assert not flash.is_bad(0)


def test_nothing_works_without_power() -> None:
    flash = small()
    flash.program(0, 0, filled(1))
    flash.arm_cut(1, 4)
    assert flash.program(0, 1, filled(2)) == POWER_LOST
    assert flash.lost_power
    assert flash.read(0, 0)[0] == POWER_LOST
    assert flash.program(0, 2, filled(2)) == flash.erase(1) == flash.mark_bad(1) == flash.purge() == POWER_LOST
    flash.power_on()
    assert flash.read(0, 0)[:2] == (OK, filled(1))


@pytest.mark.parametrize(
    "figures",
    [
        {"page_bytes": 0},
        {"spare_bytes": 500},
        {"pages_per_block": 0},
        {"pages_per_block": 70000},
        {"blocks": 0},
        {"dies": 0},
        {"slc_page_bytes": 0},
        {"blocks": 2**30, "page_bytes": 1 << 20},
        {"kind": "mram"},
        {"pair_table": [None]},
    ],
)
def test_chips_that_cannot_be(figures: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        small(**figures)


def test_counters_and_table() -> None:
    flash = small()
    flash.program(0, 0, filled(1))
    flash.erase(1, slc=True)
    flash.program(1, 0, filled(1, SLC_PAGE))
    flash.read(0, 0)
    flash.read(1, 0)
    flash.erase(0)
    counters = flash.counters()
    expected = {"reads": 1, "slc_reads": 1, "programs": 1, "slc_programs": 1, "erases": 1, "slc_erases": 1}
    assert {name: counters[name] for name in expected} == expected
    assert flash.operations == 4
    table = flash.block_table()
    assert table["slc"].tolist() == [False, True] + [False] * (BLOCKS - 2)
    assert table["reads"].tolist()[:2] == [0, 1]
    assert table["next_page"].tolist()[:2] == [0, 1]
    assert table["not_wiped"].tolist()[:2] == [True, False]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("program"), st.integers(0, BLOCKS), st.integers(0, PAGES), st.integers(0, 255), st.integers(0, PAGE)
        ),
        st.tuples(st.just("erase"), st.integers(0, BLOCKS), st.booleans(), st.booleans()),
        st.tuples(st.just("mark_bad"), st.integers(0, BLOCKS - 1)),
        st.tuples(st.just("purge"), st.integers(0, BLOCKS - 1), st.integers(0, 3)),
        st.tuples(st.just("give_back")),
    ),
    max_size=60,
)


class Model:
    """NAND as a dictionary."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], bytes] = {}
        self.next = [0] * BLOCKS
        self.slc = [False] * BLOCKS
        self.bad = [False] * BLOCKS

    def program(self, block: int, page: int, byte: int, length: int) -> int:
        if block >= BLOCKS or self.bad[block]:
            return MISUSE
        size, pages = (SLC_PAGE, SLC_PAGES) if self.slc[block] else (PAGE, PAGES)
        if not self.next[block] <= page < pages or length > size:
            return MISUSE
        self.pages[block, page] = filled(byte, length).ljust(size, BLANK)
        self.next[block] = page + 1
        return OK

    def erase(self, block: int, slc: bool, _: bool) -> int:
        if block >= BLOCKS or self.bad[block]:
            return MISUSE
        self.forget(block)
        self.slc[block] = slc
        return OK

    def forget(self, block: int) -> None:
        self.pages = {place: data for place, data in self.pages.items() if place[0] != block}
        self.next[block] = 0

    def mark_bad(self, block: int) -> int:
        self.bad[block] = True
        return OK

    def purge(self, first: int, count: int) -> int:
        for block in range(first, min(first + count, BLOCKS) if count else BLOCKS):
            if self.bad[block]:
                self.forget(block)
        return OK

    def check(self, flash: EmulatedFlash) -> None:
        for block in range(BLOCKS):
            assert flash.is_bad(block) == self.bad[block]
            size, pages = (SLC_PAGE, SLC_PAGES) if self.slc[block] else (PAGE, PAGES)
            for page in range(pages):
                data = self.pages.get((block, page))
                assert flash.read(block, page)[:2] == ((ERASED, BLANK * size) if data is None else (OK, data))


def take(flash: EmulatedFlash, kind: str, *arguments: Any) -> int:
    if kind == "program":
        block, page, byte, length = arguments
        return flash.program(block, page, filled(byte, length))
    if kind == "erase":
        block, slc, physical = arguments
        return flash.erase(block, slc=slc, physical=physical)
    result: int = getattr(flash, kind)(*arguments)
    return result


@settings(deadline=None, max_examples=150)
@given(OPERATIONS, st.booleans())
def test_it_does_what_a_dictionary_does(operations: list[tuple[Any, ...]], host_sync: bool) -> None:
    flash, model = small(host_sync=host_sync), Model()
    for kind, *arguments in operations:
        found = take(flash, kind, *arguments)
        if kind != "give_back":
            assert found == getattr(model, kind)(*arguments)
    model.check(flash)


def test_no_room_changes_nothing(tmp_path: Any) -> None:
    """Read-only is one way not to have room; a full disk is in test_flash_image.py."""
    with EmulatedFlash.create(tmp_path / "a", "slc-nand-256m", blocks=4, seed=1) as flash:
        flash.program(0, 0, filled(1, 2048))
    before = (tmp_path / "a").read_bytes()
    with EmulatedFlash.open(tmp_path / "a", read_only=True) as flash:
        assert flash.program(0, 1, filled(1)) == flash.erase(0) == flash.mark_bad(0) == flash.purge() == NO_ROOM
        assert flash.read(0, 0)[:2] == (OK, filled(1, 2048))
    assert (tmp_path / "a").read_bytes() == before
