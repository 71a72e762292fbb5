"""Emulated NOR: programs clear bits of any bytes, as often as wanted; erases set them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.flash.emulated import ERASED, FAILED, MISUSE, OK, EmulatedFlash
from virtflash.flash.image import ImageError

PAGE = 64
PAGES = 4
BLOCKS = 3
BLANK = b"\xff" * PAGE


def small(**more: Any) -> EmulatedFlash:
    return EmulatedFlash.in_memory(kind="nor", page_bytes=PAGE, pages_per_block=PAGES, blocks=BLOCKS, **more)


def test_programs_clear_bits_in_any_order() -> None:
    flash = small()
    assert flash.read(0, 3) == (ERASED, BLANK, b"")
    assert flash.program(0, 3, b"\xf0\x0f", offset=10) == OK
    assert flash.program(0, 1, b"\x55") == OK
    assert flash.program(0, 3, b"\x3c\xff", offset=10) == OK
    assert flash.read(0, 3) == (OK, BLANK[:10] + b"\x30\x0f" + BLANK[12:], b"")
    assert flash.read(0, 3, 10, 2)[1] == b"\x30\x0f"
    assert flash.read(0, 2) == (ERASED, BLANK, b"")


def test_an_erase_sets_all() -> None:
    flash = small()
    flash.program(1, 0, bytes(PAGE))
    assert flash.erase(1) == OK
    assert flash.read(1, 0) == (ERASED, BLANK, b"")
    assert flash.program(1, 0, b"\x01", offset=5) == OK
    assert flash.read(1, 0)[1] == BLANK[:5] + b"\x01" + BLANK[6:]


@pytest.mark.parametrize(
    ("block", "page", "offset", "length"),
    [(BLOCKS, 0, 0, 1), (0, PAGES, 0, 1), (0, 0, PAGE, 1), (0, 0, 1, PAGE), (0, 0, 0, PAGE + 1), (2, 0, 0, 1)],
)
def test_misuse(block: int, page: int, offset: int, length: int) -> None:
    flash = small()
    flash.mark_bad(2)
    assert flash.program(block, page, bytes(length), offset=offset) == MISUSE
    if block != 2:
        assert flash.read(block, page, offset, length)[0] == MISUSE


def test_there_is_no_slc_mode_and_pages_are_small() -> None:
    assert small().erase(0, slc=True) == MISUSE
    with pytest.raises(ImageError):
        EmulatedFlash.in_memory(kind="nor", page_bytes=4096)


def test_a_failed_program_leaves_bits_that_do_not_hold() -> None:
    flash = small()
    flash.fail_next("program")
    assert flash.program(0, 0, bytes(PAGE)) == FAILED
    reads = {flash.read(0, 0)[1] for _ in range(20)}
    assert len(reads) > 1
    assert flash.program(0, 1, bytes(PAGE)) == FAILED


PROGRAMS = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, BLOCKS - 1), st.integers(0, PAGES - 1), st.integers(0, PAGE - 1), st.binary(max_size=PAGE)
        ),
        st.tuples(st.integers(0, BLOCKS - 1), st.booleans()),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(PROGRAMS, st.booleans())
def test_it_does_what_an_array_does(programs: list[tuple[Any, ...]], host_sync: bool) -> None:
    flash = small(host_sync=host_sync)
    model = {(block, page): bytearray(BLANK) for block in range(BLOCKS) for page in range(PAGES)}
    for step in programs:
        if len(step) == 2:
            assert flash.erase(step[0], physical=step[1]) == OK
            model.update({(step[0], page): bytearray(BLANK) for page in range(PAGES)})
            continue
        block, page, offset, data = step
        data = data[: PAGE - offset]
        assert flash.program(block, page, data, offset=offset) == OK
        for i, byte in enumerate(data):
            model[block, page][offset + i] &= byte
    for (block, page), data in model.items():
        assert flash.read(block, page)[1] == data
