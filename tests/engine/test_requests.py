"""Each request type of the block device and its errors, to the letter (virtio 1.4 §5.2.6), through every I/O path."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_made_ring import WRITE, Piece, header
from served_ring import (
    ALL_TYPES,
    EVERYTHING,
    FLUSH,
    GET_ID,
    IN,
    IOERR,
    OK,
    OUT,
    SECTORS,
    UNSUPP,
    Outcome,
    ServedRing,
    sector_bytes,
    sectors_bytes,
)

from virtflash.virtio.blk import RANGE_FLAG_UNMAP, BlkFeature, RequestType
from virtflash.virtio.ring_features import RingFeature

Serve = Callable[..., ServedRing]
Wear = Callable[[bytes, bytes], dict[str, int]]
DISCARD, WRITE_ZEROES, SECURE_ERASE = RequestType.DISCARD, RequestType.WRITE_ZEROES, RequestType.SECURE_ERASE
LIFETIME = RequestType.GET_LIFETIME
UNMAP = RANGE_FLAG_UNMAP
RANGES = {
    "discard": True,
    "write_zeroes": True,
    "secure_erase": True,
    "max_segments": 2,
    "max_discard_sectors": 100,
    "max_write_zeroes_sectors": 100,
    "max_secure_erase_sectors": 100,
    "secure_erase_alignment_sectors": 8,
}


def ranges(*segments: tuple[int, int, int]) -> bytes:
    """Segments of (sector, sectors, flags)."""
    return b"".join(struct.pack("<QII", *segment) for segment in segments)


# Reads and writes


@pytest.mark.parametrize("sectors", [1, 2, 7, 8, 9, 128, SECTORS])
def test_reads_what_is_there(serve: Serve, disk: int, sectors: int) -> None:
    served = serve(disk)
    first = (SECTORS - sectors) // 2
    assert served.read(first, sectors) == (OK, 512 * sectors + 1, sectors_bytes(first, sectors))


@pytest.mark.parametrize("sectors", [1, 2, 7, 8, 9, 128, SECTORS])
def test_writes_what_is_given_and_nothing_else(serve: Serve, disk: int, sectors: int) -> None:
    served = serve(disk)
    first = (SECTORS - sectors) // 2
    data = os.urandom(512 * sectors)
    assert served.write(first, data) == (OK, 1, b"")
    expected = sectors_bytes(0, first) + data + sectors_bytes(first + sectors, SECTORS - first - sectors)
    assert os.pread(disk, 1 << 20, 0) == expected


OUT_OF_BOUNDS = {
    "one past the end": (SECTORS, 1),
    "the end in the middle": (SECTORS - 1, 2),
    "all and one more": (0, SECTORS + 1),
    "a shift that wraps": (1 << 55, 1),
    "a sum that wraps": (2**64 - 1, 1),
    "a sum that wraps to the start": (2**64 - 1, 2),
    "half of the world": (1 << 63, 1),
}


@pytest.mark.parametrize("where", OUT_OF_BOUNDS)
def test_refuses_what_is_out_of_bounds(serve: Serve, disk: int, where: str) -> None:
    served = serve(disk)
    sector, sectors = OUT_OF_BOUNDS[where]
    status, length, data = served.do(IN, sector, room=512 * sectors)
    assert (status, length, data.strip(b"\0")) == (IOERR, 0, b"")
    assert served.do(OUT, sector, b"x" * 512 * sectors) == (IOERR, 1, b"")
    assert os.pread(disk, 1 << 20, 0) == sectors_bytes(0, SECTORS)


@pytest.mark.parametrize("length", [1, 511, 513, 1000])
def test_refuses_what_is_no_whole_number_of_sectors(serve: Serve, disk: int, length: int) -> None:
    served = serve(disk)
    assert served.do(IN, 0, room=length)[:2] == (IOERR, 0)
    assert served.do(OUT, 0, b"x" * length) == (IOERR, 1, b"")
    assert os.pread(disk, 1024, 0) == sectors_bytes(0, 2)


def test_transfers_of_nothing_succeed_inside_the_volume(serve: Serve, disk: int) -> None:
    served = serve(disk)
    assert served.do(IN, SECTORS) == served.do(OUT, SECTORS) == (OK, 1, b"")
    assert served.do(IN, SECTORS + 1) == served.do(OUT, 2**64 - 1) == (IOERR, 1, b"")


def test_a_read_only_volume_refuses_every_change_and_flushes(serve: Serve, disk: int) -> None:
    """§5.2.6.2, also when the driver has not acknowledged RO; cloud-hypervisor issues 7705, 7706."""
    served = serve(disk, read_only=True, **RANGES)
    assert served.write(0, b"x" * 512).status == IOERR
    assert served.do(OUT, 0).status == IOERR
    for kind in (DISCARD, WRITE_ZEROES, SECURE_ERASE):
        assert served.do(kind, 0, ranges((0, 8, 0))).status == IOERR
    assert served.read(0) == (OK, 513, sector_bytes(0))
    assert served.do(FLUSH) == (OK, 1, b"")
    assert os.pread(disk, 1 << 20, 0) == sectors_bytes(0, SECTORS)


def test_flushes_a_read_only_volume_whose_file_cannot_be_synced(serve: Serve) -> None:
    """As on squashfs, where fsync is an error: nothing was written, so nothing is unstable."""
    with Path("/proc/self/status").open("rb") as unsyncable:
        with pytest.raises(OSError, match="Invalid argument"):
            os.fdatasync(unsyncable.fileno())
        served = serve(unsyncable.fileno(), read_only=True)
        assert served.do(FLUSH) == (OK, 1, b"")


# Framing (§2.7.4): any split of header, data and status over descriptors


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("cut", range(1, 17))
def test_a_header_cut_anywhere(serve: Serve, disk: int, cut: int, indirect: bool) -> None:
    served = serve(disk)
    assert served.do(IN, 3, room=512, cuts=[cut], indirect=indirect) == (OK, 513, sector_bytes(3))
    data = os.urandom(1024)
    assert served.do(OUT, 3, data, cuts=[cut], indirect=indirect) == (OK, 1, b"")
    assert os.pread(disk, 1024, 3 * 512) == data


def test_a_header_of_sixteen_descriptors(serve: Serve, disk: int) -> None:
    assert serve(disk).do(IN, 3, room=512, cuts=list(range(1, 17))) == (OK, 513, sector_bytes(3))


FRAMINGS = {
    "all in one": ([], []),
    "data and status in one": ([16], []),
    "data in single bytes": ([16], list(range(1, 40))),
    "data cut in odd places": ([16, 17, 29, 500], [1, 3, 511]),
    "the last byte of the data with the status": ([16], [511]),
}


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_any_framing(serve: Serve, disk: int, framing: str, indirect: bool) -> None:
    served = serve(disk)
    cuts, room_cuts = FRAMINGS[framing]
    outcome = served.do(IN, 3, room=512, cuts=cuts, room_cuts=room_cuts, indirect=indirect)
    assert outcome == (OK, 513, sector_bytes(3))
    data = os.urandom(1024)
    assert served.do(OUT, 8, data, cuts=cuts, room_cuts=room_cuts, indirect=indirect) == (OK, 1, b"")
    assert os.pread(disk, 1024, 8 * 512) == data


def test_an_indirect_table_behind_ordinary_descriptors(serve: Serve, disk: int) -> None:
    """§2.7.5.3.2: zero or more normal descriptors, then one that refers to a table; its WRITE flag means nothing."""
    served = serve(disk)
    memory, ring = served.memory, served.ring
    place, room = memory.allocate(16), memory.allocate(513)
    memory.write(place, header(IN, 9))
    table = memory.allocate(32)
    ring.link(0, [Piece(place + 8, 8), Piece(room, 513, WRITE)], table=table)
    ring.offer(ring.chain([Piece(place, 3), Piece(place + 3, 5), Piece(table, 32, 4 | WRITE)]))
    assert ring.wait(1)[0][1] == 513
    assert memory.read(room, 513) == sector_bytes(9) + bytes([OK])


def test_an_indirect_table_in_any_order(serve: Serve, disk: int) -> None:
    """It begins at index 0 and goes where `next` says."""
    served = serve(disk)
    memory, ring = served.memory, served.ring
    place, room, table = memory.allocate(16), memory.allocate(513), memory.allocate(16 * 9)
    memory.write(place, header(IN, 9))
    ring.put_descriptor(0, place, 16, 1, 8, table=table)
    ring.put_descriptor(8, room, 512, 1 | WRITE, 4, table=table)
    ring.put_descriptor(4, room + 512, 1, WRITE, 77, table=table)
    ring.offer(ring.chain([Piece(table, 16 * 9, 4)]))
    ring.wait(1)
    assert memory.read(room, 513) == sector_bytes(9) + bytes([OK])


def test_thousands_of_descriptors_of_no_bytes(serve: Serve, disk: int) -> None:
    """They say nothing, in whatever place and direction."""
    served = serve(disk)
    place, room = served.memory.allocate(16), served.memory.allocate(513)
    served.memory.write(place, header(IN, 9))
    nothing = [Piece(0xDEAD_0000_0000, 0, WRITE if i % 2 else 0) for i in range(500)]
    pieces = [*nothing, Piece(place, 16), *nothing, Piece(room, 513, WRITE), *nothing[:20]]
    for _ in range(10):
        served.ring.offer(served.ring.indirect_chain(pieces))
        served.ring.wait(1)
        assert served.memory.read(room, 513) == sector_bytes(9) + bytes([OK])


def test_a_chain_as_long_as_the_ring(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"size": 32})
    data = os.urandom(512)
    assert served.do(OUT, 1, data, cuts=[*range(16, 46)], room_cuts=[]).status == OK
    assert os.pread(disk, 512, 512) == data


@pytest.mark.parametrize("pieces", [1, 8, 9, 512])
def test_data_in_many_pieces(serve: Serve, disk: int, pieces: int) -> None:
    served = serve(disk, ring={"size": 1024})
    step = 2048 // pieces
    outcome = served.do(IN, 3, room=2048, room_cuts=range(step, 2049, step))
    assert outcome == (OK, 2049, sectors_bytes(3, 4))
    assert served.do(OUT, 3, outcome.data[::-1], cuts=range(16, 2065, step)).status == OK
    assert os.pread(disk, 2048, 3 * 512) == outcome.data[::-1]


# Identification


@pytest.mark.parametrize(
    ("room", "length", "data"),
    [
        (0, 1, b""),
        (1, 2, b"a"),
        (19, 20, b"a-serial-of-20-byte"),
        (20, 21, b"a-serial-of-20-bytes"),
        (21, 20, b"a-serial-of-20-bytes\0"),
        (4096, 20, b"a-serial-of-20-bytes".ljust(4096, b"\0")),
    ],
)
def test_tells_its_name(serve: Serve, disk: int, room: int, length: int, data: bytes) -> None:
    """The used length covers what was written from the start, and never what was not (§2.7.8.2)."""
    served = serve(disk, serial=b"a-serial-of-20-bytes-and-more")
    for cuts in ([room], [], range(1, 40)):
        assert served.do(GET_ID, room=room, room_cuts=cuts) == (OK, length, data)


def test_a_short_name_is_padded(serve: Serve, disk: int) -> None:
    assert serve(disk, serial=b"abc").do(GET_ID, room=20).data == b"abc".ljust(20, b"\0")


# Lifetime


LIFETIMES = {
    "as the kernel prints it": (b"0x01\n", b"0x02 0x0b\n", (OK, 7, (1, 2, 11))),
    "undefined": (b"0x00\n", b"0x00 0x00\n", (OK, 7, (0, 0, 0))),
    "reserved values are not told": (b"0x04\n", b"0x0c 0xff\n", (OK, 7, (0, 0, 0))),
    "no number": (b"\n", b"0x02 0x01\n", (IOERR, 0, None)),
    "one number": (b"0x01\n", b"0x02\n", (IOERR, 0, None)),
    "nothing": (b"", b"", (IOERR, 0, None)),
}


@pytest.fixture
def wear(tmp_path: Path) -> Iterator[Wear]:
    descriptors = {}

    def make(pre_eol: bytes, life_time: bytes) -> dict[str, int]:
        for name, text in (("pre_eol_fd", pre_eol), ("life_time_fd", life_time)):
            (tmp_path / name).write_bytes(text)
            descriptors[name] = os.open(tmp_path / name, os.O_RDONLY)
        return descriptors

    yield make
    for fd in descriptors.values():
        os.close(fd)


@pytest.mark.parametrize("case", LIFETIMES)
@pytest.mark.parametrize("null", [False, True])
def test_tells_its_lifetime(serve: Serve, disk: int, wear: Wear, case: str, null: bool) -> None:
    pre_eol, life_time, (status, length, figures) = LIFETIMES[case]
    served = serve(-1 if null else disk, **wear(pre_eol, life_time))
    outcome = served.do(LIFETIME, room=6)
    assert outcome[:2] == (status, length)
    if figures is not None:
        assert struct.unpack("<HHH", outcome.data) == figures


@pytest.mark.parametrize(
    ("room", "status", "length"), [(0, IOERR, 1), (5, IOERR, 0), (6, OK, 7), (7, OK, 6), (99, OK, 6)]
)
def test_lifetime_needs_room(serve: Serve, disk: int, wear: Wear, room: int, status: int, length: int) -> None:
    served = serve(disk, **wear(b"0x01", b"0x02 0x03"))
    assert served.do(LIFETIME, room=room)[:2] == (status, length)


# Ranges (§5.2.6): discard, write zeroes, secure erase

BOTH = (DISCARD, WRITE_ZEROES)
ALL = (*BOTH, SECURE_ERASE)
REFUSED = {
    "three ranges where two are allowed": (ALL, ranges((0, 8, 0), (8, 8, 0), (16, 8, 0)), UNSUPP),
    "an unknown flag": (ALL, ranges((0, 8, 2)), UNSUPP),
    "the highest flag": (ALL, ranges((0, 8, 1 << 31)), UNSUPP),
    "an unknown flag in the second range": (ALL, ranges((0, 8, 0), (8, 8, 4)), UNSUPP),
    "an unknown flag out of bounds": (ALL, ranges((SECTORS, 8, 4)), UNSUPP),
    "unmap on what is no write zeroes": ((DISCARD, SECURE_ERASE), ranges((0, 8, UNMAP)), UNSUPP),
    "no range": (ALL, b"", IOERR),
    "8 bytes": (ALL, ranges((0, 8, 0))[:8], IOERR),
    "15 bytes": (ALL, ranges((0, 8, 0))[:15], IOERR),
    "17 bytes": (ALL, ranges((0, 8, 0)) + b"x", IOERR),
    "one past the end": (ALL, ranges((SECTORS, 8, 0)), IOERR),
    "over the end": (ALL, ranges((SECTORS - 8, 16, 0)), IOERR),
    "the second one over the end": (ALL, ranges((0, 8, 0), (SECTORS - 8, 16, 0)), IOERR),
    "more sectors than are allowed": (ALL, ranges((0, 104, 0)), IOERR),
    "all sectors that a number can say": (ALL, ranges((0, 0xFFFFFFFF, 0)), IOERR),
    "a sum that wraps": (ALL, ranges((2**64 - 8, 8, 0)), IOERR),
    "a shift that wraps": (ALL, ranges((1 << 55, 8, 0)), IOERR),
    "a start that is not aligned": ((SECURE_ERASE,), ranges((4, 8, 0)), IOERR),
    "a length that is not aligned": ((SECURE_ERASE,), ranges((8, 4, 0)), IOERR),
}


@pytest.mark.parametrize(("kind", "what"), [(kind, what) for what, (kinds, _, _) in REFUSED.items() for kind in kinds])
def test_refuses_ranges(serve: Serve, disk: int, kind: int, what: str) -> None:
    _, payload, status = REFUSED[what]
    served = serve(disk, **RANGES)
    assert served.do(kind, 0, payload) == (status, 1, b"")
    assert os.pread(disk, 1 << 20, 0) == sectors_bytes(0, SECTORS)
    counted = "unsupported" if status == UNSUPP else "errors"
    assert served.statistics()[counted] == 1


@pytest.mark.parametrize("what", ["discard", "write zeroes", "write zeroes, unmap", "write zeroes as data", "overlap"])
def test_ranges_read_as_zeroes_afterwards(serve: Serve, disk: int, what: str) -> None:
    """For discard that is what punching a hole does; for write zeroes it is the rule."""
    served = serve(disk, **RANGES, zero_range="as data" not in what)
    kind = DISCARD if what == "discard" else WRITE_ZEROES
    flags = UNMAP if "unmap" in what else 0
    segments = [(8, 8, flags), (100, 16, flags)] if what != "overlap" else [(8, 100, flags), (16, 100, flags)]
    assert served.do(kind, 0, ranges(*segments)) == (OK, 1, b"")
    expected = bytearray(sectors_bytes(0, SECTORS))
    for sector, count, _ in segments:
        expected[512 * sector : 512 * (sector + count)] = bytes(512 * count)
    assert os.pread(disk, 1 << 20, 0) == expected
    assert os.fstat(disk).st_size == SECTORS * 512


def test_a_discard_gives_the_space_back(serve: Serve, disk: int) -> None:
    served = serve(disk, **RANGES)
    before = os.fstat(disk).st_blocks
    assert served.do(DISCARD, 0, ranges((16, 64, 0))).status == OK
    assert before - os.fstat(disk).st_blocks >= 64 - 16


def test_ranges_of_no_sectors(serve: Serve, disk: int) -> None:
    served = serve(disk, **RANGES)
    for kind in ALL:
        assert served.do(kind, 0, ranges((0, 0, 0), (SECTORS, 0, 0))).status == OK
    assert os.pread(disk, 1 << 20, 0) == sectors_bytes(0, SECTORS)
    assert served.do(DISCARD, 0, ranges((SECTORS + 1, 0, 0))).status == IOERR


def test_ranges_in_any_framing(serve: Serve, disk: int) -> None:
    served = serve(disk, **RANGES)
    payload = ranges((1, 1, 0), (3, 1, 0))
    for cuts in ([], [16], [16, 24, 33], range(1, 47)):
        assert served.do(WRITE_ZEROES, 0, payload, cuts=cuts).status == OK
    assert os.pread(disk, 4 * 512, 0) == sector_bytes(0) + bytes(512) + sector_bytes(2) + bytes(512)


def test_a_file_cannot_be_erased_securely(serve: Serve, disk: int) -> None:
    """The ioctl is not there: an error, and no claim."""
    served = serve(disk, **RANGES)
    assert served.do(SECURE_ERASE, 0, ranges((0, 8, 0))).status == IOERR
    assert os.pread(disk, 512, 0) == sector_bytes(0)


# What is not offered


NEGOTIATED = {
    DISCARD: BlkFeature.DISCARD,
    WRITE_ZEROES: BlkFeature.WRITE_ZEROES,
    SECURE_ERASE: BlkFeature.SECURE_ERASE,
    LIFETIME: BlkFeature.LIFETIME,
}


@pytest.mark.parametrize("kind", NEGOTIATED)
def test_unsupported_without_its_feature(serve: Serve, disk: int, wear: Wear, kind: RequestType) -> None:
    served = serve(disk, ring={"features": EVERYTHING & ~NEGOTIATED[kind]}, **RANGES, **wear(b"0x01", b"0x02 0x03"))
    assert served.do(kind, 0, ranges((0, 8, 0)), 6)[:2] == (UNSUPP, 0)
    for other in NEGOTIATED.keys() - {kind, SECURE_ERASE}:
        assert served.do(other, 0, ranges((0, 8, 0)), 6).status == OK


@pytest.mark.parametrize("kind", NEGOTIATED)
def test_unsupported_where_the_backing_cannot(serve: Serve, disk: int, kind: RequestType) -> None:
    assert serve(disk).do(kind, 0, ranges((0, 8, 0)), 6)[:2] == (UNSUPP, 0)


UNKNOWN = [2, 3, 5, 6, 7, 9, 12, 15, 16, 18, 20, 22, 24, 26, 27, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_unknown_types(serve: Serve, disk: int, kind: int) -> None:
    """SCSI commands, zoned requests without ZONED (§5.2.6.2: UNSUPP), barriers, and what nobody has named yet."""
    served = serve(disk, ring={"features": ALL_TYPES | RingFeature.INDIRECT_DESC}, **RANGES)
    assert served.do(kind, 0, b"x" * 512, 0) == (UNSUPP, 1, b"")
    assert served.do(kind, 0, b"", 4096)[:2] == (UNSUPP, 0)
    assert os.pread(disk, 1024, 0) == sectors_bytes(0, 2)
    assert served.statistics()["requests"]["unknown"] == served.statistics()["unsupported"] == 2


# The null backing


def test_the_null_backing_claims_nothing_that_it_has_not_written(serve: Serve) -> None:
    served = serve(**RANGES)
    served_before = served.blk(IN, 0, room=512)
    served.memory.write(served_before.room, b"!" * 512)
    assert served.run(served_before)[0] == Outcome(OK, 0, b"!" * 512)
    assert served.write(0, b"x" * 512) == (OK, 1, b"")
    assert served.do(FLUSH) == served.do(DISCARD, 0, ranges((0, 8, 0))) == (OK, 1, b"")
    assert served.read(SECTORS).status == IOERR


# Counting


def test_counts_what_was_done(serve: Serve, disk: int) -> None:
    served = serve(disk, **RANGES)
    served.read(0, 2)
    served.read(SECTORS)
    served.write(5, b"x" * 1536)
    served.do(FLUSH)
    served.do(GET_ID, room=20)
    served.do(DISCARD, 0, ranges((0, 8, 0), (8, 2, 0)))
    served.do(WRITE_ZEROES, 0, ranges((0, 8, 0), (8, 3, UNMAP)))
    served.do(77)
    statistics = served.statistics()
    assert {kind: count for kind, count in statistics["requests"].items() if count} == {
        "read": 2,
        "write": 1,
        "flush": 1,
        "get_id": 1,
        "discard": 1,
        "write_zeroes": 1,
        "unknown": 1,
    }
    expected = {"bytes_read": 1024, "bytes_written": 1536, "bytes_discarded": 5120 + 1536, "errors": 1}
    expected |= {"unsupported": 1, "malformed": 0, "in_flight": 0, "interrupts": 8, "interrupts_suppressed": 0}
    assert {key: statistics[key] for key in expected} == expected
    counted = {kind: sum(histogram["counts"]) for kind, histogram in statistics["latency"].items()}
    assert counted == {"read": 2, "write": 1, "flush": 1, "other": 4}


def test_latencies_lie_below_their_bounds(serve: Serve, disk: int) -> None:
    served = serve(disk)
    served.write(0, bytes(512))
    histogram = served.statistics()["latency"]["write"]
    assert len(histogram["bounds_ns"]) == len(histogram["counts"]) == 128
    assert histogram["bounds_ns"] == sorted(set(histogram["bounds_ns"]))
    (bucket,) = [i for i, count in enumerate(histogram["counts"]) if count]
    assert histogram["bounds_ns"][bucket] < 10_000_000_000
