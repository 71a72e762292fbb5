"""The table's bytes: what is written is read, what is damaged is seen, what cannot be is refused."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.volumes.errors import (
    DamagedTableError,
    ForeignTableError,
    NoTableError,
    TableError,
    TamperedTableError,
)
from virtflash.volumes.extents import EXTENTS_MOST, Extent, joined
from virtflash.volumes.table import (
    HEADER,
    NAME,
    TABLE_BYTES_MOST,
    VOLUMES_MOST,
    Flags,
    State,
    Table,
    Volume,
    parsed,
    serialised,
    table_bytes,
)

GRANULES = 100


@st.composite
def tables(draw: st.DrawFn) -> Table:
    granule = draw(st.sampled_from([1, 4, 1024, 0xFFFFFFFF]))
    order, volumes = draw(st.permutations(range(GRANULES))), []
    names = draw(st.lists(st.from_regex(NAME, fullmatch=True), max_size=8, unique=True))
    uuids = draw(st.lists(st.uuids(), min_size=len(names), max_size=len(names), unique=True))
    for name, uuid in zip(names, uuids, strict=True):
        extents = joined(Extent(order.pop(), 1) for _ in range(draw(st.integers(1, 10))))
        sectors = sum(extent.count for extent in extents) * granule - draw(st.integers(0, granule - 1))
        flags, state = draw(st.sampled_from([Flags(bits) for bits in range(4)])), draw(st.sampled_from(State))
        volumes.append(Volume(name=name, uuid=uuid, sectors=sectors, extents=extents, flags=flags, state=state))
    return Table(
        identity=draw(st.binary(min_size=16, max_size=16)),
        capacity_sectors=granule * (GRANULES + 2) + draw(st.integers(0, granule - 1)),
        granule_sectors=granule,
        generation=draw(st.integers(0, 2**64 - 1)),
        volumes=tuple(volumes),
    )


def a_volume(name: str = "cluster", first: int = 0, count: int = 2, **changes: object) -> Volume:
    volume = Volume(
        name=name, uuid=UUID(int=first + 1), sectors=count * 8, extents=(Extent(first, count),), flags=Flags.READ_ONLY
    )
    return replace(volume, **changes)  # type: ignore[arg-type]


def a_table(*volumes: Volume) -> Table:
    return Table(identity=b"i" * 16, capacity_sectors=816, granule_sectors=8, generation=7, volumes=volumes)


TWO = serialised(a_table(a_volume(), a_volume("telematics", 5, 3, extents=(Extent(9, 1), Extent(5, 2)))))


@given(table=tables(), behind=st.binary(max_size=64))
def test_what_is_written_is_read(table: Table, behind: bytes) -> None:
    data = serialised(table)
    assert parsed(data + behind) == table
    assert len(data) == table_bytes(table)


def test_the_bytes_are_as_they_are_specified() -> None:
    volume = a_volume(state=State.ERASING, flags=Flags.SECURE_DELETE, extents=(Extent(3, 1), Extent(1, 1)), sectors=15)
    expected = b"vfvols\r\n" + struct.pack("<IIIIQ", 1, 0, 96 + 96 + 16, 1, 7) + b"i" * 16
    expected += struct.pack("<QIIQ", 816, 8, 0, 0) + bytes(24)
    expected += UUID(int=1).bytes + struct.pack("<QIBBH", 15, 2, 2, 7, 2) + b"cluster".ljust(64, b"\0")
    expected += struct.pack("<IIII", 3, 1, 1, 1)
    expected = expected[:12] + struct.pack("<I", zlib.crc32(expected)) + expected[16:]
    assert serialised(a_table(volume)) == expected


@pytest.mark.parametrize("bit", range(8))
def test_any_flipped_bit_is_seen(bit: int) -> None:
    for at in range(len(TWO)):
        data = bytearray(TWO)
        data[at] ^= 1 << bit
        with pytest.raises((DamagedTableError, NoTableError)):
            parsed(bytes(data))


@settings(max_examples=300)
@given(data=st.binary(max_size=400))
def test_anything_else_is_no_table(data: bytes) -> None:
    for given_ in (data.ljust(HEADER.size, b"\0"), (b"vfvols\r\n" + data).ljust(HEADER.size, b"\0")):
        with pytest.raises(TableError):
            parsed(given_)


@settings(max_examples=400)
@given(at=st.integers(16, len(TWO) - 1), data=st.binary(min_size=1, max_size=12))
def test_a_table_with_a_right_checksum_is_read_or_refused_and_nothing_else(at: int, data: bytes) -> None:
    """Whoever can write it can make the checksum fit; what is read then keeps to the flash all the same."""
    try:
        table = parsed(checked(TWO[:at] + data + TWO[at + len(data) :]))
    except TableError as error:
        assert "\n" not in str(error)
        return
    assert parsed(serialised(table)) == table


def checked(data: bytes) -> bytes:
    """With the checksum that it should have."""
    length = struct.unpack_from("<I", data, 16)[0]
    whole = data[:12] + bytes(4) + data[16:length]
    return whole[:12] + struct.pack("<I", zlib.crc32(whole)) + whole[16:] + data[length:]


def patched(at: int, data: bytes) -> bytes:
    return checked(TWO[:at] + data + TWO[at + len(data) :])


u8, u16, u32, u64 = (struct.Struct(f"<{letter}").pack for letter in "BHIQ")
ENTRY, SECOND = 96, 96 + 96 + 8  # where the entries begin
REFUSED: dict[str, tuple[bytes, type[TableError], str]] = {
    "a newer version": (patched(8, u32(2)), ForeignTableError, "is of version 2"),
    "features unknown": (patched(64, u64(4)), ForeignTableError, "features 0x4"),
    "no granules": (patched(56, u32(0)), TamperedTableError, "granules of 0 sectors"),
    "a smaller flash": (patched(48, u64(40)), TamperedTableError, "granules 5 to 7 of 3"),
    "a flash too small for a table": (patched(48, u64(16)), TamperedTableError, "on a flash of 16"),
    "a flag unknown": (patched(ENTRY + 24, u32(4)), TamperedTableError, "flags 0x4"),
    "a state unknown": (patched(ENTRY + 28, u8(3)), TamperedTableError, "3 is not a valid State"),
    "a name of nothing": (patched(ENTRY + 29, u8(0)), TamperedTableError, "named ''"),
    "a path for a name": (patched(ENTRY + 32, b"../"), TamperedTableError, "named '../ster'"),
    "a line for a name": (patched(ENTRY + 32, b"a\nb"), TamperedTableError, r"named 'a\\nbster'"),
    "a name that is not ASCII": (patched(ENTRY + 32, b"\xc3\xa4"), TamperedTableError, "ascii"),
    "two of a name": (patched(SECOND + 29, u8(7) + u16(2) + b"cluster"), TamperedTableError, "the name cluster"),
    "two of an identity": (patched(SECOND, UUID(int=1).bytes), TamperedTableError, "the uuid"),
    "no sectors": (patched(ENTRY + 16, u64(0)), TamperedTableError, "of 0 sectors"),
    "more sectors than granules": (patched(ENTRY + 16, u64(17)), TamperedTableError, "has 2 granules, not 3"),
    "fewer sectors than granules": (patched(ENTRY + 16, u64(8)), TamperedTableError, "has 2 granules, not 1"),
    "no extents": (patched(ENTRY + 30, u16(0)), TamperedTableError, "tampered"),
    "more extents than bytes": (patched(SECOND + 30, u16(9)), TamperedTableError, "9 extents are beyond the end"),
    "extents that overlap": (patched(ENTRY + 96, u32(8)), TamperedTableError, "granule 9 is taken twice"),
    "extents within one volume that do": (patched(SECOND + 96, u32(6)), TamperedTableError, "granule 6 is taken twice"),
    "an extent beyond the flash": (patched(ENTRY + 96, u32(99)), TamperedTableError, "granules 99 to 101 of 100"),
    "an extent on the table": (patched(ENTRY + 96, u32(100)), TamperedTableError, "granules 100 to 102 of 100"),
    "an extent of nothing": (patched(SECOND + 100, u32(0)), TamperedTableError, "has 2 granules, not 3"),
    "fewer volumes than entries": (patched(20, u32(1)), TamperedTableError, "bytes follow the last entry"),
    "more volumes than entries": (patched(20, u32(3)), TamperedTableError, "entry at byte"),
    "very many volumes": (patched(20, u32(0xFFFFFFFF)), TamperedTableError, "entry at byte"),
    "a length of less than a header": (TWO[:16] + u32(95) + TWO[20:], DamagedTableError, "95 bytes long"),
    "a length of more than there is": (TWO[:16] + u32(len(TWO) + 1) + TWO[20:], DamagedTableError, "bytes long"),
    "zeroes": (bytes(512), NoTableError, "no table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case: str) -> None:
    data, kind, says = REFUSED[case]
    with pytest.raises(kind, match=says) as refused:
        parsed(data)
    assert "\n" not in str(refused.value)


NEVER_WRITTEN: dict[str, Callable[[], Table]] = {  # what is wrong, and such a table
    "granule 1 is taken twice": lambda: a_table(a_volume(), a_volume("b", 1)),
    "granules 99 to 101 of 100": lambda: a_table(a_volume(first=99)),
    "volume cluster has 65 extents": lambda: a_table(
        a_volume(sectors=520, extents=tuple(Extent(granule, 1) for granule in range(EXTENTS_MOST + 1)))
    ),
    "128 volumes": lambda: replace(
        a_table(*(a_volume(f"v{number}", number, 1) for number in range(VOLUMES_MOST + 1))), capacity_sectors=4096
    ),
}


@pytest.mark.parametrize("case", NEVER_WRITTEN)
def test_what_would_be_refused_is_not_written(case: str) -> None:
    with pytest.raises(ValueError, match=case):
        serialised(NEVER_WRITTEN[case]())


def test_the_largest_table_is_written_and_read() -> None:
    extents = [tuple(Extent(2 * (64 * n + i), 1) for i in range(EXTENTS_MOST)) for n in range(VOLUMES_MOST)]
    volumes = (a_volume(f"{n:0>63}", n, sectors=8 * EXTENTS_MOST, extents=mine) for n, mine in enumerate(extents))
    table = replace(a_table(*volumes), capacity_sectors=8 * 20000)
    assert parsed(serialised(table)) == table
    assert len(serialised(table)) == TABLE_BYTES_MOST
