"""Data that can be checked: whatever happens to a unit is found, and nothing else."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.lab.checked_data import CheckedData, Found, WriteRefusedError, pieces
from virtflash.lab.errors import LabError
from virtflash.lab.opened_flash import opened_flash
from virtflash.lab.working_copy import working_copy

SECTORS = 8  # of a unit


@pytest.fixture
def storage(make_image: Callable[..., Path]) -> Iterator[EmulatedStorage]:
    with opened_flash(make_image()) as opened:
        yield opened


def units(*numbers: int) -> numpy.ndarray:
    return numpy.array(numbers, dtype=numpy.int64)


def test_what_was_written_reads_right_and_all_else_is_empty(storage: EmulatedStorage) -> None:
    data = CheckedData(storage.target)
    data.write(numpy.arange(100, 1500))
    data.write(units(7, 8, 9, 7, 7, 3000))  # a unit twice: the last one counts
    data.write(units(100, 1499))
    data.trim(units(101, 102, 400))
    data.flush()
    assert data.read_back() == Found(units=data.units)
    assert data.read(units(7, 100, 101, 102, 103, 5)) == Found(units=6)
    assert len(data.holding()) == 1400 + 4 - 3


def test_it_is_the_same_on_the_flash(make_image: Callable[..., Path]) -> None:
    """Not only in the device's cache."""
    image = make_image()
    with opened_flash(image) as storage:
        data = CheckedData(storage.target)
        data.fill(0.5)
        data.write(units(1, 8000 % data.units, 3))
    with opened_flash(image) as again:
        assert data.read_back(target=again.target) == Found(units=data.units)


def test_no_two_units_and_no_two_versions_are_the_same(storage: EmulatedStorage) -> None:
    data = CheckedData(storage.target)
    seen = set()
    for _ in range(3):
        data.write(numpy.arange(300))
        seen |= {storage.target.read(unit * SECTORS, SECTORS) for unit in range(300)}
    assert len(seen) == 900


DAMAGES: dict[str, Callable[[EmulatedStorage, bytes], Any]] = {
    "another's data": lambda storage, _old: storage.target.write(80, storage.target.read(96, 8)),
    "old data": lambda storage, old: storage.target.write(80, old),
    "a bit": lambda storage, _old: storage.target.write(80, flipped(storage.target.read(80, 8))),
    "zeroes": lambda storage, _old: storage.target.change(1, 80, 8),
}


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_reads_wrong_is_found(storage: EmulatedStorage, damage: str) -> None:
    data = CheckedData(storage.target)
    data.write(numpy.arange(64))
    old = storage.target.read(80, 8)
    data.write(numpy.arange(64))
    DAMAGES[damage](storage, old)
    assert data.read_back() == Found(units=data.units, wrong=1)
    assert data.read(units(9, 10, 11)) == Found(units=3, wrong=1)


def test_data_where_none_should_be_is_found(storage: EmulatedStorage) -> None:
    data = CheckedData(storage.target)
    data.write(units(5))
    data.trim(units(5))
    storage.target.write(5 * SECTORS, b"x" * 4096)
    assert data.read_back() == Found(units=data.units, wrong=1)


def test_what_cannot_be_read_is_counted(storage: EmulatedStorage) -> None:
    data = CheckedData(storage.target)
    data.write(numpy.arange(12 * 64))
    data.flush()
    block = next(block for block in range(100) if storage.translation.snapshot()[0]["valid"][block] > 100)
    storage.chip.spoil(block, 3)
    found = data.read_back()
    assert found.wrong == 0
    assert 0 < found.unreadable <= 12
    assert found.good == data.units - found.unreadable


def test_data_that_was_there_is_known_by_its_checksum(storage: EmulatedStorage) -> None:
    storage.target.write(0, os.urandom(40 * 4096))
    storage.target.flush()
    data = CheckedData(storage.target)
    data.adopt()
    assert data.holding().tolist() == list(range(40))
    data.fill(0.25)
    assert data.read_back() == Found(units=data.units)
    storage.target.write(8, flipped(storage.target.read(8, 8)))
    assert data.read_back() == Found(units=data.units, wrong=1)
    data.write(units(1))
    assert data.read_back() == Found(units=data.units)


class Refusing:
    """A target that takes so many units, and then no more."""

    def __init__(self, target: Any, takes: int, error: int = errno.EROFS) -> None:
        self._target, self._takes, self._error = target, takes, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def write(self, sector: int, data: memoryview) -> None:
        for start in range(0, len(data), 4096):
            if self._takes == 0:
                raise OSError(self._error, "no more")
            self._takes -= 1
            self._target.write(sector + start // 512, data[start : start + 4096])


@pytest.mark.parametrize("takes", [0, 1, 5, 15, 16, 17, 39])
def test_a_write_that_is_refused_leaves_old_or_new(storage: EmulatedStorage, takes: int) -> None:
    CheckedData(storage.target)
    refusing = Refusing(storage.target, takes)
    data = CheckedData(refusing)  # type: ignore[arg-type]
    refusing._takes = 1000
    data.write(numpy.arange(40))
    refusing._takes = takes
    with pytest.raises(WriteRefusedError):
        data.write(numpy.concatenate([numpy.arange(30), numpy.arange(10)]))
    assert data.read_back() == Found(units=data.units)
    storage.target.write(35 * SECTORS, b"x" * 4096)  # one that was not touched
    assert data.read_back() == Found(units=data.units, wrong=1)


def test_another_failure_is_not_a_refusal(storage: EmulatedStorage) -> None:
    refusing = Refusing(storage.target, 3, errno.ENOSPC)
    with pytest.raises(OSError, match="no more"):
        CheckedData(refusing).fill(0.9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("numbers", "most", "expected"),
    [
        ([], 16, []),
        ([5], 16, [(0, 1)]),
        ([5, 6, 7, 9, 8], 16, [(0, 3), (3, 4), (4, 5)]),
        ([5, 5, 6], 16, [(0, 1), (1, 3)]),
        (list(range(5)), 2, [(0, 2), (2, 4), (4, 5)]),
    ],
)
def test_units_in_a_row_make_a_piece(numbers: list[int], most: int, expected: list[tuple[int, int]]) -> None:
    assert list(pieces(units(*numbers), most)) == expected


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_copy_is_the_same_with_its_holes_and_goes(make_image: Callable[..., Path]) -> None:
    image = make_image()
    before = digest(image)
    with working_copy(image) as copy:
        assert copy != image
        assert digest(copy) == before
        assert copy.stat().st_blocks <= image.stat().st_blocks + 64
        with opened_flash(copy) as storage:
            CheckedData(storage.target).fill(0.5)
        assert copy.resolve().name.endswith("(deleted)")  # so that a kill leaves nothing
    assert not copy.exists()
    assert digest(image) == before


def test_a_copy_that_is_kept_stays_unless_it_was_broken_off(make_image: Callable[..., Path], tmp_path: Path) -> None:
    image, kept = make_image(), tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt), working_copy(image, output=kept):
        raise KeyboardInterrupt
    assert not kept.exists()
    with working_copy(image, output=kept) as copy:
        assert copy == kept
    assert digest(kept) == digest(image)
    with pytest.raises(LabError, match="exists already"), working_copy(image, output=kept):
        pass
    assert kept.exists()


def test_in_place_is_the_image_itself(make_image: Callable[..., Path]) -> None:
    image = make_image()
    with working_copy(image, in_place=True) as place:
        assert place == image


def test_a_copy_of_nothing_or_of_what_is_used_is_refused(make_image: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(LabError, match="No such file"), working_copy(tmp_path / "no"):
        pass
    (tmp_path / "odd").write_bytes(bytes(9000))
    with pytest.raises(LabError, match="not an image"), working_copy(tmp_path / "odd"):
        pass
    image = make_image()
    with opened_flash(image), pytest.raises(LabError, match="another server"), working_copy(image):
        pass
    with pytest.raises(LabError, match="No such file"), working_copy(image, output=tmp_path / "no" / "copy"):
        pass
