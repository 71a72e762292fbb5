"""What power cuts leave: each outcome as a table, and processes killed at any instruction."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from virtflash.flash.emulated import ERASED, MISUSE, OK, POWER_LOST, RANDOM_CUT, UNCORRECTABLE, EmulatedFlash

PAGE = 512
PAGES = 8
BLANK = b"\xff" * PAGE
PAIRS = [None, None, 0, 1, 2, None, None, 4]  # page 2 endangers 0, 3 endangers 1, 4 endangers 2, 7 endangers 4


def paired(**more: Any) -> EmulatedFlash:
    figures = {"page_bytes": PAGE, "spare_bytes": 16, "pages_per_block": PAGES, "blocks": 4, "slc_page_bytes": PAGE,
               "slc_pages_per_block": 4, "pair_table": PAIRS}  # fmt: skip
    return EmulatedFlash.in_memory(**(figures | more))


def filled(byte: int) -> bytes:
    return bytes([byte]) * PAGE


def statuses(flash: EmulatedFlash, block: int, page: int, times: int = 60) -> set[int]:
    return {flash.read(block, page)[0] for _ in range(times)}


def cut_program(flash: EmulatedFlash, page: int, how: int) -> None:
    for earlier in range(page):
        assert flash.program(0, earlier, filled(earlier)) == OK
    flash.arm_cut(1, how)
    assert flash.program(0, page, filled(page)) == POWER_LOST
    assert flash.lost_power
    flash.power_on()


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        (0, {ERASED}),
        (1, {UNCORRECTABLE}),
        (2, {OK, UNCORRECTABLE}),
        (3, {ERASED, UNCORRECTABLE}),
        (4, {OK}),
    ],
)
@pytest.mark.parametrize("endangered_lost", [False, True])
def test_a_cut_program(how: int, seen: set[int], endangered_lost: bool) -> None:
    flash = paired()
    cut_program(flash, 3, how + 5 * endangered_lost)
    assert statuses(flash, 0, 3) == seen
    if OK in seen:
        assert all(data == filled(3) for status, data, _ in (flash.read(0, 3) for _ in range(30)) if status == OK)
    assert statuses(flash, 0, 0) == statuses(flash, 0, 2) == {OK}
    assert (UNCORRECTABLE in statuses(flash, 0, 1)) == endangered_lost
    # Only a program that was not begun can be begun again.
    assert flash.program(0, 3, filled(9)) == (OK if how == 0 else MISUSE)
    assert flash.program(0, 4, filled(4)) == OK
    assert flash.erase(0) == OK
    assert flash.program(0, 0, filled(1)) == OK
    assert statuses(flash, 0, 0) == {OK}


def test_a_torn_page_reads_the_same_every_time() -> None:
    flash = paired()
    cut_program(flash, 0, 1)
    assert len({flash.read(0, 0) for _ in range(20)}) == 1
    assert flash.read(0, 0)[1] not in (filled(0), BLANK)


@pytest.mark.parametrize(("page", "slc"), [(0, False), (5, False), (2, True)])
def test_pages_that_endanger_none(page: int, slc: bool) -> None:
    flash = paired()
    flash.erase(0, slc=slc)
    cut_program(flash, page, 6)
    for earlier in range(page):
        assert statuses(flash, 0, earlier) == {OK}


def test_an_endangered_page_that_was_left_out_stays_erased() -> None:
    flash = paired()
    flash.program(0, 1, filled(1))
    flash.arm_cut(1, 6)
    assert flash.program(0, 2, filled(2)) == POWER_LOST
    flash.power_on()
    assert statuses(flash, 0, 0) == {ERASED}


def erased_half(seed: int) -> list[int]:
    flash = paired(seed=seed)
    for page in range(6):
        flash.program(1, page, filled(page))
    flash.arm_cut(1, 1)
    assert flash.erase(1) == POWER_LOST
    flash.power_on()
    found = []
    for page in range(PAGES):
        [status] = statuses(flash, 1, page)
        assert status != OK or flash.read(1, page)[1] == filled(page)
        found.append(status)
    assert flash.program(1, 7, filled(7)) == MISUSE
    assert flash.erase(1) == OK
    assert flash.program(1, 0, filled(8)) == OK
    return found


def test_a_half_erased_block() -> None:
    outcomes = [erased_half(seed) for seed in range(20)]
    assert {status for found in outcomes for status in found[:6]} == {OK, ERASED, UNCORRECTABLE}
    assert all(found[6:] == [ERASED, ERASED] for found in outcomes)
    assert len({tuple(found) for found in outcomes}) > 10
    assert erased_half(3) == outcomes[3]


@pytest.mark.parametrize("how", [0, 2, 3])
@pytest.mark.parametrize("physical", [False, True])
@pytest.mark.parametrize("slc", [False, True])
def test_other_cut_erases(how: int, slc: bool, physical: bool) -> None:
    flash = paired()
    flash.program(1, 0, filled(5))
    before = flash.block_table()[1]
    flash.arm_cut(1, how)
    assert flash.erase(1, slc=slc, physical=physical) == POWER_LOST
    flash.power_on()
    if how == 0:
        assert flash.block_table()[1] == before
        assert flash.read(1, 0)[:2] == (OK, filled(5))
        return
    assert flash.read(1, 0)[0] == ERASED
    assert flash.block_table()["slc"][1] == slc
    assert flash.program(1, 0, filled(6)) == OK
    # A weak erase looks like one, and does not hold what is programmed then.
    assert statuses(flash, 1, 0) == ({OK, UNCORRECTABLE} if how == 2 else {OK})
    assert flash.erase(1) == OK
    assert flash.program(1, 0, filled(7)) == OK
    assert statuses(flash, 1, 0) == {OK}


def test_a_cut_comes_when_it_was_ordered_and_once() -> None:
    flash = paired()
    flash.arm_cut(3, 0)
    assert [flash.program(0, 0, BLANK), flash.erase(1), flash.erase(2)] == [OK, OK, POWER_LOST]
    flash.power_on()
    assert flash.erase(2) == OK
    assert flash.operations == 4
    flash.arm_cut(1)
    flash.power_on()  # calls it off
    assert flash.erase(2) == OK
    assert flash.counters()["power_cuts"] == 1


def test_misuse_is_no_operation() -> None:
    flash = paired()
    flash.arm_cut(1, 0)
    assert flash.program(0, PAGES, BLANK) == MISUSE
    assert flash.operations == 0
    assert not flash.lost_power


def test_random_cuts_replay_with_the_seed() -> None:
    def outcomes(seed: int) -> list[Any]:
        flash = paired(seed=seed)
        found: list[Any] = []
        for i in range(60):
            flash.erase(0)
            cut_program(flash, i % PAGES, RANDOM_CUT)
            found.append([flash.read(0, page) for page in range(PAGES)])
        return found

    assert outcomes(1) == outcomes(1) != outcomes(2)
    assert {read[0] for reads in outcomes(1) for read in reads} == {OK, ERASED, UNCORRECTABLE}


@pytest.mark.parametrize("how", range(5))
def test_a_cut_program_of_nor(how: int) -> None:
    """NOR has nobody who notices: bits of the stretch are as before, as asked for, or turn by turn; others stand."""
    flash = EmulatedFlash.in_memory(kind="nor", page_bytes=64, pages_per_block=4, blocks=2, seed=how)
    flash.program(0, 0, b"\x5a" * 64)
    flash.arm_cut(1, how)
    assert flash.program(0, 0, bytes(16), offset=8) == POWER_LOST
    flash.power_on()
    reads = [flash.read(0, 0) for _ in range(40)]
    for status, data, _ in reads:
        assert status == OK
        assert data[:8] + data[24:] == b"\x5a" * 48
    seen = {data[8:24] for _, data, _ in reads}
    if how in (0, 4):
        assert seen == {b"\x5a" * 16 if how == 0 else bytes(16)}
    elif how == 1:
        [data] = seen
        assert data not in (b"\x5a" * 16, bytes(16))
        assert all(byte & ~0x5A == 0 for byte in data)
    else:
        assert len(seen) > 1
    assert flash.program(0, 0, bytes(64)) == OK


def test_a_half_erase_of_nor() -> None:
    flash = EmulatedFlash.in_memory(kind="nor", page_bytes=64, pages_per_block=30, blocks=2)
    for page in range(30):
        flash.program(0, page, b"\x5a" * 64)
    flash.arm_cut(1, 1)
    assert flash.erase(0) == POWER_LOST
    flash.power_on()
    found = [flash.read(0, page)[:2] for page in range(30)]
    assert found == [flash.read(0, page)[:2] for page in range(30)]
    assert (ERASED, b"\xff" * 64) in found
    assert (OK, b"\x5a" * 64) in found
    assert any(status == OK and data != b"\x5a" * 64 for status, data in found)
    assert flash.program(0, 0, b"\x00") == MISUSE


WRITER = """
import sys
from virtflash.flash.emulated import EmulatedFlash, OK
flash = EmulatedFlash.open(sys.argv[1], host_sync=bool(int(sys.argv[2])))
number = int(sys.argv[3])
pages, blocks = flash.superblock.pages_per_block, flash.superblock.blocks
size = flash.superblock.page_bytes
for block in range(blocks):
    if flash.erase(block) != OK:
        sys.exit("erase")
report = open(sys.argv[4], "wb", buffering=0)
print("begun", flush=True)
while True:
    for block in range(blocks):
        for page in range(pages):
            number += 1
            if flash.program(block, page, number.to_bytes(8, "little") * (size // 8)) != OK:
                sys.exit("program")
            report.write(b"p%d %d %d\\n" % (block, page, number))
        if flash.erase((block + 1) % blocks, physical=number % 3 == 0) != OK:
            sys.exit("erase")
        report.write(b"e%d\\n" % ((block + 1) % blocks))
"""


def killed_writer(path: Path, host_sync: bool, number: int, delay: float) -> list[str]:
    """Lines that a writer reported before it was killed."""
    reports = path.with_suffix(".reports")
    command = [sys.executable, "-c", WRITER, str(path), str(int(host_sync)), str(number), str(reports)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        # The moment of the kill is what is random here; the reports say how far it had come.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(delay)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    return [line for line in reports.read_text().split("\n") if line]


def check_after_kill(flash: EmulatedFlash, lines: list[str]) -> None:
    """All that was reported is there; of the one operation under way, something that the model knows."""
    pages: dict[tuple[int, int], int] = {}
    for line in lines:
        if line.startswith("p"):
            block, page, number = map(int, line[1:].split())
            pages[block, page] = number
        else:
            pages = {place: number for place, number in pages.items() if place[0] != int(line[1:])}
    size = flash.superblock.page_bytes
    strange = set()
    for (block, page), number in pages.items():
        status, data, _ = flash.read(block, page)
        if (status, data) != (OK, number.to_bytes(8, "little") * (size // 8)):
            strange.add(block)
    # An erase that was under way takes the pages of one block.
    assert len(strange) <= 1
    if strange:
        assert lines
        last = int(lines[-1][1:].split()[0])
        assert strange == {(last + 1) % flash.superblock.blocks}
        assert lines[-1].startswith("p")


@pytest.mark.parametrize(
    ("profile", "host_sync"), [("slc-nand-256m", False), ("slc-nand-256m", True), ("automotive-tlc-emmc", True)]
)
def test_killed_at_any_moment(tmp_path: Path, profile: str, host_sync: bool) -> None:
    path = tmp_path / "chip"
    draws = random.Random(host_sync)
    EmulatedFlash.create(path, profile, blocks=3, seed=5, factory_bad_share=0).close()
    for turn in range(12):
        lines = killed_writer(path, host_sync, turn << 32, draws.uniform(0, 0.05))
        with EmulatedFlash.open(path, host_sync=host_sync) as flash:
            assert flash.crashed == "process"
            check_after_kill(flash, lines)
            places = [(block, page) for block in range(3) for page in range(flash.superblock.pages_per_block)]
            seen = [flash.read(*place)[0] for place in places]
        with EmulatedFlash.open(path, host_sync=host_sync) as flash:
            assert flash.crashed == "no"
            again = [flash.read(*place)[0] for place in places]
            cuts = flash.counters()["power_cuts"]
        assert sum(a != b for a, b in zip(seen, again, strict=True)) <= 1  # one page may be unstable
    # Large pages take long enough for most kills to come within an operation.
    assert cuts > 0 or profile == "slc-nand-256m"


def in_flight(path: Path, operation: str) -> None:
    """Leave an image as a process does that was killed inside an operation: all of it done, but not taken back."""
    with path.open("r+b") as file:
        state = os.pread(file.fileno(), 4096, 4096)
        kind = {"program": 1, "erase": 2}[operation]
        # in_flight, and left: 0, open
        os.pwrite(file.fileno(), kind.to_bytes(4, "little") + state[4:12] + bytes(4), 4096)


@pytest.mark.parametrize(
    ("how", "seen"),
    [(0, {ERASED}), (1, {UNCORRECTABLE}), (2, {OK, UNCORRECTABLE}), (3, {ERASED, UNCORRECTABLE}), (4, {OK})],
)
def test_what_was_in_flight_is_cut_at_open(tmp_path: Path, how: int, seen: set[int]) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=2, seed=1) as flash:
        flash.program(0, 0, b"a" * 2048)
        flash.program(0, 1, b"b" * 2048)
    in_flight(path, "program")
    with EmulatedFlash.open(path, cut=how) as flash:
        assert flash.crashed == "process"
        assert statuses(flash, 0, 1) == seen
        assert statuses(flash, 0, 0) == {OK}
        assert flash.program(0, 1, b"c") == (OK if how == 0 else MISUSE)


@pytest.mark.parametrize(("how", "seen"), [(0, OK), (2, ERASED), (3, ERASED)])
def test_an_erase_in_flight_is_cut_at_open(tmp_path: Path, how: int, seen: int) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=2, seed=1) as flash:
        flash.program(0, 0, b"a" * 2048)
        flash.erase(0)
    in_flight(path, "erase")
    with EmulatedFlash.open(path, cut=how) as flash:
        assert flash.read(0, 0)[0] == seen
        assert flash.block_table()["weak"][0] == (how == 2)


def test_an_image_opened_read_only_is_cut_in_private(tmp_path: Path) -> None:
    path = tmp_path / "chip"
    with EmulatedFlash.create(path, "slc-nand-256m", blocks=2, seed=1) as flash:
        flash.program(0, 0, b"a" * 2048)
    in_flight(path, "program")
    before = path.read_bytes()
    with EmulatedFlash.open(path, read_only=True, cut=1) as flash:
        assert flash.read(0, 0)[0] == UNCORRECTABLE
    assert path.read_bytes() == before
