"""Requests that ask for what a volume has not, cannot, or may not do (virtio 1.4 §5.2.6)."""

import re
import struct

import pytest
from attacked_server import IMAGE_BYTES, Attack
from chains import INDIRECT, NEXT, SECTOR, WRITE, header, room

from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import RANGE_SEGMENT, BlkFeature, RequestType, Status

CAPACITY = IMAGE_BYTES // SECTOR
OUT_OF_BOUNDS = r"attacked: ring 0: \d+ requests refused, the last one a request that is out of bounds"
IN, OUT = RequestType.IN, RequestType.OUT
DISCARD, WRITE_ZEROES, SECURE_ERASE = RequestType.DISCARD, RequestType.WRITE_ZEROES, RequestType.SECURE_ERASE
UNMAP = 1
LIMIT = 16  # ranges in one request, as max_discard_seg and max_write_zeroes_seg say


class Volume:
    """The attacked volume, whose content must stay as it was."""

    def __init__(self, attack: Attack, driver: BlkDriver) -> None:
        self.attack, self.driver = attack, driver
        driver.write(0, b"\xaa" * 4096).check()
        driver.write(CAPACITY - 8, b"\xbb" * 4096).check()
        self.before = attack.content(driver)

    def refuses(self, kind: int, sector: int = 0, data: bytes = b"", room: int = 0, *, status: int) -> None:
        assert self.driver.request(kind, sector, data, room).status == status
        self.attack.may_say(OUT_OF_BOUNDS)
        self.driver.read(0, SECTOR).check()
        assert self.attack.content(self.driver) == self.before


@pytest.fixture
def volume(attack: Attack) -> Volume:
    return Volume(attack, attack.driver())


def test_what_was_refused_is_counted(attack: Attack) -> None:
    """However many requests are refused at once, the operator reads a line or two, and how many there were."""
    driver = attack.driver()
    pending = [driver.submit(IN, CAPACITY, room=SECTOR, kick=turn == 39) for turn in range(40)]
    assert all(driver.complete(each).status == Status.IOERR for each in pending)
    driver.kill()
    process = attack.server.process
    process.wait_line("attacked: front end left", attack.since)
    told = [
        re.search(r"(\d+) requests refused, the last one a request that is", line)
        for line in process.loud_lines(attack.since)
    ]
    assert sum(int(found[1]) for found in told if found) == 40
    assert len(told) <= 2
    attack.may_say(OUT_OF_BOUNDS)


SECTORS: dict[str, tuple[int, int]] = {  # first sector, bytes
    "2^55, whose byte offset is 2^64": (1 << 55, SECTOR),
    "2^55 - 1": ((1 << 55) - 1, SECTOR),
    "2^54": (1 << 54, SECTOR),
    "2^63": (1 << 63, SECTOR),
    "2^64 - 1": ((1 << 64) - 1, SECTOR),
    "2^64 - 8 and eight sectors": ((1 << 64) - 8, 8 * SECTOR),
    "2^64 - 7 and eight sectors": ((1 << 64) - 7, 8 * SECTOR),
    "one past the end": (CAPACITY, SECTOR),
    "straddles the end": (CAPACITY - 1, 2 * SECTOR),
    "straddles the end by the last of eight": (CAPACITY - 7, 8 * SECTOR),
    "far behind the end": (CAPACITY * 2, SECTOR),
    "511 bytes": (0, 511),
    "513 bytes": (0, 513),
    "one byte": (0, 1),
    "768 bytes at the end": (CAPACITY - 1, 768),
    "nothing, behind the end": (CAPACITY + 1, 0),
    "nothing, at 2^64 - 1": ((1 << 64) - 1, 0),
}


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("place", SECTORS)
def test_sector(volume: Volume, place: str, kind: RequestType) -> None:
    """Sector: shifts and additions that wrap, the end of the volume, lengths that are no multiple of 512."""
    sector, length = SECTORS[place]
    if kind == IN:
        volume.refuses(kind, sector, room=length, status=Status.IOERR)
    else:
        volume.refuses(kind, sector, bytes(length), status=Status.IOERR)


@pytest.mark.parametrize("length", [SECTOR, 8 * SECTOR])
def test_last_sector_works(attack: Attack, length: int) -> None:
    """Sector: the last ones are there."""
    driver = attack.driver()
    content = b"\x5a" * length
    driver.write(CAPACITY - length // SECTOR, content).check()
    assert driver.read(CAPACITY - length // SECTOR, length).check().data == content


def segment(sector: int, count: int, flags: int = 0) -> bytes:
    return RANGE_SEGMENT.pack(sector, count, flags)


RANGES: dict[str, tuple[bytes, Status]] = {
    "num_sectors 0xffffffff": (segment(0, 0xFFFFFFFF), Status.IOERR),
    "num_sectors 0x80000000": (segment(0, 0x80000000), Status.IOERR),
    "num_sectors 0x800000, 2^32 bytes": (segment(0, 0x800000), Status.IOERR),
    "num_sectors one more than there are": (segment(0, CAPACITY + 1), Status.IOERR),
    "sector 2^55": (segment(1 << 55, 8), Status.IOERR),
    "sector 2^64 - 1": (segment((1 << 64) - 1, 1), Status.IOERR),
    "sector 2^64 - 8, wraps": (segment((1 << 64) - 8, 0xFFFFFFFF), Status.IOERR),
    "straddles the end": (segment(CAPACITY - 1, 2), Status.IOERR),
    "behind the end": (segment(CAPACITY, 1), Status.IOERR),
    "nothing, behind the end": (segment(CAPACITY + 1, 0), Status.IOERR),
    "good, then bad": (segment(0, 8) + segment(CAPACITY, 1), Status.IOERR),
    "no segment": (b"", Status.IOERR),
    "15 bytes": (segment(0, 8)[:15], Status.IOERR),
    "17 bytes": (segment(0, 8) + b"\0", Status.IOERR),
    "31 bytes": ((segment(0, 8) * 2)[:31], Status.IOERR),
    "one segment too many": (segment(0, 8) * (LIMIT + 1), Status.UNSUPP),
    "4096 segments": (segment(0, 8) * 4096, Status.UNSUPP),
    "unknown flag 1": (segment(0, 8, 2), Status.UNSUPP),
    "unknown flag 31": (segment(0, 8, 1 << 31), Status.UNSUPP),
    "all flags": (segment(0, 8, 0xFFFFFFFF), Status.UNSUPP),
    "good, then an unknown flag": (segment(0, 8) + segment(0, 8, 4), Status.UNSUPP),
}


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
@pytest.mark.parametrize("ranges", RANGES)
def test_ranges(volume: Volume, ranges: str, kind: RequestType) -> None:
    """Discard and write zeroes: numbers of sectors and segments, flags, payloads, ends that cannot be."""
    data, status = RANGES[ranges]
    volume.refuses(kind, data=data, status=status)


@pytest.mark.parametrize("ranges", RANGES)
def test_secure_erase(volume: Volume, ranges: str) -> None:
    """Secure erase: a file has none; nothing is erased, whatever is asked. Flash refuses what cannot be."""
    data, status = RANGES[ranges]
    offered = volume.driver.front_end.offered & BlkFeature.SECURE_ERASE
    volume.refuses(SECURE_ERASE, data=data, status=status if offered else Status.UNSUPP)


def test_unmap_on_discard(volume: Volume) -> None:
    """Discard: the `unmap` flag must be zero there (§5.2.6.2)."""
    volume.refuses(DISCARD, data=segment(0, 8, UNMAP), status=Status.UNSUPP)


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_ranges_that_work(attack: Attack, kind: RequestType) -> None:
    """Discard and write zeroes: segments that overlap, the limit of segments, empty ones, and the whole volume."""
    driver = attack.driver()
    for segments in (
        [(0, 16, 0), (8, 16, 0), (0, 16, 0)],
        [(i * 8, 8, 0) for i in range(LIMIT)],
        [(5, 0, 0), (CAPACITY, 0, 0)],
        [(CAPACITY - 1, 1, 0)],
        [(0, CAPACITY, 0)],
    ):
        driver.write(0, b"\xaa" * 65536).check()
        assert driver.ranges(kind, segments).status == Status.OK
        if any(count for _, count, _ in segments[:1]) and segments[0][0] == 0:
            assert driver.read(0, 8 * SECTOR).check().data == bytes(8 * SECTOR)


UNKNOWN = [5, 6, 7, 9, 12, 17, 19, 21, 23, 25, 27, 0x100, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF]
SCSI = [RequestType.SCSI_CMD, RequestType.SCSI_CMD_OUT]
ZONED = [15, 16, 18, 20, 22, 24, 26]


@pytest.mark.parametrize("payload", ["none", "readable", "writable"])
@pytest.mark.parametrize("kind", [*UNKNOWN, *SCSI, *ZONED, RequestType.GET_LIFETIME])
def test_type(volume: Volume, kind: int, payload: str) -> None:
    """Type: unknown types, SCSI commands, zoned requests without ZONED, a lifetime that a file has not."""
    data, room = (bytes(SECTOR) if payload == "readable" else b""), (SECTOR if payload == "writable" else 0)
    has_lifetime = kind == RequestType.GET_LIFETIME and volume.driver.front_end.offered & BlkFeature.LIFETIME
    status = Status.OK if room else Status.IOERR  # of a flash, which has one, if there is room for it
    volume.refuses(kind, 0, data, room, status=status if has_lifetime else Status.UNSUPP)


@pytest.mark.parametrize("length", [0, 1, 19, 20, 21, 4096, 65536])
def test_get_id(attack: Attack, length: int) -> None:
    """Type: GET_ID with 1 and with 4096 bytes: as much of the 20 as fits, and nothing behind them."""
    completion = attack.driver().get_id(length).check()
    serial = b"attacked".ljust(20, b"\0")
    assert completion.data == serial[:length].ljust(length, b"\xff")
    assert completion.used_length == (length + 1 if length <= 20 else 20)


FEATURE_OF = {DISCARD: BlkFeature.DISCARD, WRITE_ZEROES: BlkFeature.WRITE_ZEROES}


@pytest.mark.parametrize("kind", FEATURE_OF)
def test_type_that_was_not_negotiated(attack: Attack, kind: RequestType) -> None:
    """Type: what the device can do, but the driver did not take."""
    volume = Volume(attack, attack.driver(features=FEATURES & ~int(FEATURE_OF[kind])))
    volume.refuses(kind, data=segment(0, 8), status=Status.UNSUPP)


def test_zoned_features_are_not_offered(attack: Attack) -> None:
    """Type: zones are not offered, and a driver that takes them all the same is refused."""
    front_end = attack.front_end()
    front_end.negotiate()
    assert not front_end.offered & BlkFeature.ZONED
    attack.may_say("SET_FEATURES refused: features 0x20000 were not offered")
    assert front_end.acknowledged(2, struct.pack("<Q", front_end.features | BlkFeature.ZONED)) != 0


# Allocation

GIB = 1 << 30


@pytest.mark.parametrize("kind", [IN, OUT, RequestType.GET_ID, RequestType.FLUSH, DISCARD, 99])
@pytest.mark.parametrize("pieces", [1, 100])
def test_allocation(attack: Attack, kind: int, pieces: int) -> None:
    """Allocation: a size named by the guest becomes none: buffers of 4 GiB, one and a hundred of them."""
    driver = attack.driver(memory=GuestMemory((1 << 20, 32 << 20), (GIB, 4 * GIB)))
    giant = Buffer(GIB, 0xFFFFFE00, WRITE if kind in (IN, RequestType.GET_ID) else 0)
    chain = [header(driver, kind), *[giant] * pieces, room(driver, 1)]
    done = driver.submit_chain(chain)
    driver.queues[0].wait_used()
    status = driver.memory.read(chain[-1].address, 1)[0]
    expected = {IN: 1, OUT: 1, RequestType.GET_ID: 0, RequestType.FLUSH: 0, DISCARD: 2, 99: 2}
    assert (done.head, status) == (0, expected[kind])
    attack.may_say(OUT_OF_BOUNDS)


def test_all_requests_of_a_ring_in_as_many_pieces_as_can_be(attack: Attack) -> None:
    """Allocation: what the lists of pieces of a whole ring of requests take is given back when the front end leaves."""
    driver = attack.driver(queue_size=1024)
    queue, memory = driver.queues[0], driver.memory
    pieces = [header(driver), *[Buffer(memory.allocate(1), 1, WRITE)] * 1024, room(driver, 1)]
    table = memory.allocate(16 * len(pieces))
    for index, (address, length, flags) in enumerate(pieces):
        following = flags | (NEXT if index + 1 < len(pieces) else 0)
        queue.write_descriptor(index, address, length, following, index + 1, table=table)
    for head in range(1024):
        queue.write_descriptor(head, table, 16 * len(pieces), INDIRECT)
    queue.publish(*range(1024))
    queue.kick()
    assert {used.length for used in queue.wait_used(1024)} == {1025}
