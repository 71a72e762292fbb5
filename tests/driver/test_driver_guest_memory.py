"""Guest memory: addresses, borders, the allocator, and what a back end would see of it."""

import mmap
import os
from pathlib import Path

import pytest

from virtflash.driver.guest_memory import GuestMemory, RegionSpec


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_buffer_may_lie_in_two_regions() -> None:
    with GuestMemory((0x10000, 4096), (0x11000, 4096)) as memory:
        memory.write(0x10FFE, b"abcd")
        assert memory.read(0x10FFE, 4) == b"abcd"
        assert bytes(memory.regions[0].memory[-2:]) == b"ab"
        assert bytes(memory.regions[1].memory[:2]) == b"cd"


@pytest.mark.parametrize(("address", "length"), [(0xFFFF, 1), (0x11000, 1), (0x10FFF, 2), (1 << 64, 1), (0xFFFF, 2)])
def test_what_is_in_no_region_is_an_error(address: int, length: int) -> None:
    with GuestMemory((0x10000, 4096)) as memory:
        with pytest.raises(ValueError, match="is in no region"):
            memory.read(address, length)
        with pytest.raises(ValueError, match="is in no region"):
            memory.write(address, bytes(length))
        assert memory.read(address, 0) == b""


def test_addresses_of_guest_and_front_end_differ() -> None:
    with GuestMemory((0x10000, 4096), RegionSpec(0x20000, 4096, user_address=0x5000)) as memory:
        assert memory.user_address(0x10004) - memory.layouts()[0].user_address == 4
        assert memory.layouts()[0].user_address != 0x10000
        assert memory.user_address(0x20FFF) == 0x5FFF


def test_the_allocator() -> None:
    with GuestMemory((0x10001, 4096), (0x20000, 64)) as memory:
        first = memory.allocate(3, alignment=512)
        assert first == 0x10200
        assert memory.allocate(5, alignment=1) == first + 3
        other = memory.allocate(64, region=1)
        assert other == 0x20000
        with pytest.raises(MemoryError, match="region 1 is full: 1 bytes"):
            memory.allocate(1, region=1)
        memory.free(other)
        assert memory.allocate(64, region=1) == other, "what was freed is used again"
        with pytest.raises(KeyError):
            memory.free(other + 1)


def test_what_was_freed_is_used_again_only_where_it_is_aligned() -> None:
    with GuestMemory((0x10008, 65536)) as memory:
        odd = memory.allocate(512, alignment=8)
        memory.free(odd)
        assert memory.allocate(512, alignment=512) % 512 == 0
        assert memory.allocate(512, alignment=8) == odd


@pytest.mark.parametrize("offset", [0, 513, 4096])
def test_a_region_lies_anywhere_in_a_file(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "memory"
    path.write_bytes(bytes(offset) + b"before")
    with GuestMemory(RegionSpec(0x1000, 4096, offset=offset, path=path)) as memory:
        assert memory.read(0x1000, 6) == b"before"
        memory.write(0x1FFF, b"x")
        assert path.read_bytes()[offset + 4095 :] == b"x"
        assert memory.layouts()[0].offset == offset


def test_another_mapping_sees_the_same() -> None:
    with GuestMemory((0x1000, 4096)) as memory, mmap.mmap(memory.regions[0].fd, 4096) as other:
        memory.halfwords(0x1010, 1)[0] = 0x1234
        assert other[0x10:0x12] == b"\x34\x12"


def test_what_was_truncated_is_not_touched() -> None:
    with GuestMemory((0x1000, 8192)) as memory:
        memory.regions[0].truncate(4096)
        assert os.fstat(memory.regions[0].fd).st_size == 4096
        assert memory.read(0x1000, 4096) == bytes(4096)
        with pytest.raises(ValueError, match="was truncated"):
            memory.read(0x1FFF, 2)


def test_nothing_is_left_open() -> None:
    before = open_files()
    with GuestMemory((0x1000, 4096)) as memory:
        view = memory.halfwords(0x1000, 1)
    assert view[0] == 0, "what somebody still looks at stays mapped"
    del view
    assert open_files() == before
