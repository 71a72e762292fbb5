"""A crash of the host: pages of the image that were not synced are on the disk or not, in any mixture."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.flash.emulated import ERASED, OK, UNCORRECTABLE, EmulatedFlash

PAGE = 4096
PAGES = 4
BLOCKS = 4

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("program"), st.integers(0, BLOCKS - 1), st.integers(0, PAGES - 1)),
        st.tuples(st.just("program"), st.integers(0, BLOCKS - 1), st.integers(0, PAGES - 1)),
        st.tuples(st.just("erase"), st.integers(0, BLOCKS - 1), st.booleans()),
        st.tuples(st.just("sync")),
        st.tuples(st.just("crash"), st.integers(0, 2**64 - 1)),
    ),
    min_size=5,
    max_size=60,
)
Place = tuple[int, int]


class Model:
    """What each page may read as: its synced content, and what it has been since. None: erased."""

    def __init__(self, flash: EmulatedFlash, size: int) -> None:
        self.told = flash.kind == "nand"  # of NOR nobody tells which bytes came through
        self.flash, self.size = flash, size
        self.now: dict[Place, bytes | None] = {(block, page): None for block in range(BLOCKS) for page in range(PAGES)}
        self.next = [0] * BLOCKS
        self.sync()

    def sync(self) -> None:
        self.flash.sync()
        self.may: dict[Place, list[bytes | None]] = {place: [content] for place, content in self.now.items()}

    def change(self, place: Place, content: bytes | None) -> None:
        self.now[place] = content
        self.may[place].append(content)

    def program(self, block: int, page: int, content: bytes) -> None:
        if page >= self.next[block]:
            assert self.flash.program(block, page, content) == OK
            self.next[block] = page + 1
            self.change((block, page), content)

    def erase(self, block: int, physical: bool) -> None:
        assert self.flash.erase(block, physical=physical) == OK
        self.next[block] = 0
        for page in range(PAGES):
            self.change((block, page), None)

    def read(self, place: Place) -> tuple[int, bytes]:
        return self.flash.read(*place)[:2]

    def crash(self, seed: int) -> None:
        """What was not synced is one of what it was, or unreadable; and it stays what it is found to be."""
        self.flash.host_crash(seed)
        assert self.flash.crashed == "host"
        for place, contents in self.may.items():
            status, data = self.read(place)
            if status == UNCORRECTABLE:
                assert len(contents) > 1
            else:
                found = None if status == ERASED else data
                assert found in contents or (len(contents) > 1 and not self.told)
                if found is None:
                    assert data == b"\xff" * self.size
            assert self.read(place) == (status, data)
        for block in range(BLOCKS):  # as any layer does before it uses one again
            if any(len(self.may[block, page]) > 1 for page in range(PAGES)):
                self.erase(block, False)
        self.sync()


def run(flash: EmulatedFlash, size: int, steps: list[tuple[Any, ...]]) -> None:
    model = Model(flash, size)
    for number, (kind, *arguments) in enumerate(steps):
        if kind == "program":
            model.program(*arguments, bytes([1 + number]) * size)
        else:
            getattr(model, kind)(*arguments)
        for place, content in model.now.items():
            status, data = model.read(place)
            assert (status, data) == ((ERASED, b"\xff" * size) if content is None else (OK, content))


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_nand(steps: list[tuple[Any, ...]]) -> None:
    flash = EmulatedFlash.in_memory(
        page_bytes=PAGE, spare_bytes=16, pages_per_block=PAGES, blocks=BLOCKS, track_sync=True
    )
    run(flash, PAGE, steps)


@settings(deadline=None, max_examples=200)
@given(STEPS)
def test_nor(steps: list[tuple[Any, ...]]) -> None:
    flash = EmulatedFlash.in_memory(kind="nor", page_bytes=1024, pages_per_block=PAGES, blocks=BLOCKS, track_sync=True)
    run(flash, 1024, steps)


def test_all_that_can_happen_does() -> None:
    seen = set()
    for seed in range(60):
        flash = EmulatedFlash.in_memory(page_bytes=8192, pages_per_block=2, blocks=1, track_sync=True)
        flash.program(0, 0, b"a" * 8192)
        flash.sync()
        flash.erase(0)
        flash.program(0, 0, b"b" * 8192)
        flash.host_crash(seed)
        status, data, _ = flash.read(0, 0)
        seen.add((status, data[:1] if status == OK else b""))
    assert seen == {(OK, b"a"), (OK, b"b"), (ERASED, b""), (UNCORRECTABLE, b"")}


def test_pages_that_came_through_may_be_followed_by_others() -> None:
    """The record of a block can be older than those of its pages: its last page is found by them."""
    for seed in range(40):
        flash = EmulatedFlash.in_memory(page_bytes=PAGE, pages_per_block=8, blocks=1, track_sync=True)
        flash.program(0, 0, b"a" * PAGE)
        flash.sync()
        flash.program(0, 1, b"b" * PAGE)
        flash.host_crash(seed)
        found = flash.read(0, 1)[0]
        accepted = flash.program(0, 1, b"c" * PAGE) == OK
        assert not (accepted and found == OK), "a page was programmed twice"
        assert flash.program(0, 2, b"d" * PAGE) == OK
        assert flash.read(0, 2)[:2] == (OK, b"d" * PAGE)
        assert flash.read(0, 0)[:2] == (OK, b"a" * PAGE)


def test_what_is_programmed_behind_a_page_does_not_change_how_it_reads() -> None:
    seen = set()
    for seed in range(60):
        flash = EmulatedFlash.in_memory(page_bytes=PAGE, pages_per_block=8, blocks=1, track_sync=True)
        flash.program(0, 0, b"a" * PAGE)
        flash.sync()
        flash.program(0, 1, b"b" * PAGE)
        flash.host_crash(seed)
        before = flash.read(0, 1)
        assert flash.program(0, 3, b"d" * PAGE) == OK
        assert flash.read(0, 1) == before
        assert flash.read(0, 2)[0] == ERASED
        seen.add((before[0], int(flash.block_table()["next_page"][0])))
    assert {status for status, _ in seen} == {OK, ERASED, UNCORRECTABLE}


def rebooted(path: Path) -> None:
    """As after a reboot without a sync at the end: nobody closed it, and it was opened on another run of the host."""
    with path.open("r+b") as file:
        file.seek(4096 + 12)
        file.write(bytes(4))
        file.seek(4096 + 128 + 16)
        file.write(bytes(range(16)))


@pytest.mark.parametrize("part", ["data", "record", "nothing"])
def test_a_page_whose_parts_do_not_fit_is_torn(tmp_path: Path, part: str) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=4, seed=1) as flash:
        flash.program(1, 0, b"a" * 2048, b"spare")
        flash.program(1, 1, b"b" * 2048, b"spare")
        superblock = flash.superblock
    offset = {
        "data": superblock.data_offset + superblock.block_bytes + 2048 + 77,
        "record": superblock.page_records_offset + (64 + 1) * superblock.record_bytes + 32,
        "nothing": superblock.data_offset + superblock.block_bytes + 9 * 2048,
    }[part]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    # While the host stands nobody looks.
    with EmulatedFlash.open(path) as flash:
        assert flash.read(1, 1)[0] == OK
    rebooted(path)
    for crashed in ("host", "no"):
        with EmulatedFlash.open(path) as flash:
            assert flash.crashed == crashed
            assert flash.counters()["host_crashes"] == 1
            assert flash.read(1, 0)[:2] == (OK, b"a" * 2048)
            assert flash.read(1, 1)[0] == (OK if part == "nothing" else UNCORRECTABLE)


def test_without_checksums_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=4, seed=1, host_sync=False) as flash:
        flash.program(1, 0, b"a" * 2048)
    rebooted(path)
    with EmulatedFlash.open(path) as flash:
        assert flash.crashed == "host"
        assert flash.read(1, 0)[:2] == (OK, b"a" * 2048)


def test_closed_but_not_synced_is_trusted_only_while_the_host_stands(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    EmulatedFlash.create(path, "slc-nand-256m", blocks=4, seed=1, host_sync=False).close()
    with EmulatedFlash.open(path, host_sync=False) as flash:
        assert flash.crashed == "no"
    with path.open("r+b") as file:
        file.seek(4096 + 128 + 16)
        file.write(bytes(range(16)))
    with EmulatedFlash.open(path) as flash:
        assert flash.crashed == "host"
    with EmulatedFlash.open(path) as flash:
        assert flash.crashed == "no"
