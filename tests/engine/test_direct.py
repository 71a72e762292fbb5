"""O_DIRECT: guest buffers and requests that are not aligned enough for it, on a real disk, and what happens when its
bounce buffers run out or its transfers come back short."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_made_ring import Memory
from served_ring import FLUSH, IN, OK, OUT, SECTORS, ServedRing, make_disk, sectors_bytes

Serve = Callable[..., ServedRing]
ALIGNED = {"memory_alignment": 4096, "offset_alignment": 4096}
BOUNCE_BUFFERS, BOUNCE_BYTES = 8, 1 << 18  # of a reactor, as in engine/state.pxd


@pytest.fixture
def direct(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The same disk twice: without and with the host's page cache."""
    buffered = make_disk(tmp_path / "disk", SECTORS * 16)
    try:
        fd = os.open(tmp_path / "disk", os.O_RDWR | os.O_DIRECT)
    except OSError:
        pytest.skip("the file system of the temporary directory has no direct I/O")
    yield fd, buffered
    os.close(fd)
    os.close(buffered)


@pytest.fixture
def served(serve: Serve, direct: tuple[int, int]) -> ServedRing:
    fd, buffered = direct
    memory = {"memory": Memory(8 << 20)}
    return serve(fd, SECTORS * 16, fd_unaligned=buffered, ring=memory, **ALIGNED)


PLACES = {
    "aligned": (4096, 0, 8, 8),
    "a buffer that is not": (4096, 16, 8, 8),
    "a buffer at an odd address": (4096, 1, 8, 8),
    "a sector that is not": (4096, 0, 7, 8),
    "a length that is not": (4096, 0, 8, 7),
    "nothing is": (4096, 511, 5, 3),
    "as much as bounces at once": (4096, 16, 8, 512),
    "more than bounces at once": (4096, 16, 8, 512 + 8),
    "three times what bounces at once": (4096, 16, 8, 3 * 512),
}


@pytest.mark.parametrize("place", PLACES)
def test_reads_and_writes_whatever_the_alignment(served: ServedRing, direct: tuple[int, int], place: str) -> None:
    alignment, shift, first, sectors = PLACES[place]
    room = served.memory.allocate(512 * sectors + 513, alignment) + shift
    assert served.run(served.blk(IN, first, room=512 * sectors, at=room))[0].data == sectors_bytes(first, sectors)
    data = os.urandom(512 * sectors)
    source = served.memory.allocate(16 + 512 * sectors + 513, alignment)
    served.memory.next_free = source + 4096 + shift - 16  # the payload of the write begins `shift` behind a page
    assert served.write(first, data).status == OK
    assert served.do(FLUSH).status == OK
    expected = sectors_bytes(0, first) + data + sectors_bytes(first + sectors, SECTORS * 16 - first - sectors)
    assert os.pread(direct[1], SECTORS * 16 * 512, 0) == expected
    assert served.read(first, sectors).data == data


@pytest.mark.parametrize("cuts", [[16, 500], [16, 4000, 4096, 4112], list(range(16, 16 + 4096, 100))])
def test_bounces_many_pieces(served: ServedRing, cuts: list[int]) -> None:
    data = os.urandom(8192)
    assert served.do(OUT, 16, data, cuts=cuts).status == OK
    assert served.do(IN, 16, room=8192, room_cuts=cuts).data == data


def test_more_at_once_than_there_are_bounce_buffers(served: ServedRing) -> None:
    """What finds none waits for one, and nothing else has to happen for it to go on."""
    data = [os.urandom(4096) for _ in range(5 * BOUNCE_BUFFERS // 2)]
    writes = [served.blk(OUT, 8 * i, block) for i, block in enumerate(data)]
    assert {outcome.status for outcome in served.run(*writes)} == {OK}
    reads = [served.blk(IN, 8 * i, room=4096, at=served.memory.allocate(4097) + 1) for i in range(len(data))]
    assert [outcome.data for outcome in served.run(*reads)] == data


# A pipe or a socket below, which io_uring reads and writes like a file, takes as much and as little as the test wants.


@pytest.fixture
def ring_path(path: str) -> str:
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    return path


@pytest.mark.usefixtures("ring_path")
def test_goes_on_buffered_when_a_direct_write_comes_back_short(serve: Serve, tmp_path: Path) -> None:
    """The rest is no longer aligned: what goes to the other descriptor is the rest, and not what went before."""
    direct, device = socket.socketpair()
    direct.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sectors = 512
    buffered = make_disk(tmp_path / "disk", SECTORS * 4)
    with direct, device:
        served = serve(direct.fileno(), SECTORS * 4, fd_unaligned=buffered, **ALIGNED)
        data = os.urandom(512 * sectors)
        assert served.write(0, data).status == OK  # at offset 0, the only one that a socket takes
        received = device.recv(1 << 20)
        at = len(received)
        assert data.startswith(received)
        assert 0 < at < len(data)
        assert at % 4096, "the transfer came back short, but aligned: the test shows nothing"
        behind = sectors_bytes(sectors, SECTORS * 4 - sectors)
        assert os.pread(buffered, SECTORS * 4 * 512, 0) == sectors_bytes(0, sectors)[:at] + data[at:] + behind
    os.close(buffered)


@pytest.mark.usefixtures("ring_path")
def test_goes_on_buffered_when_a_direct_read_comes_back_short(serve: Serve, tmp_path: Path) -> None:
    direct, device = os.pipe()
    buffered = make_disk(tmp_path / "disk", 16)
    served = serve(direct, 16, fd_unaligned=buffered, **ALIGNED)  # a request that reads behind the end would fail
    os.write(device, b"!" * 700)
    outcome = served.run(served.blk(IN, 8, room=4096, at=served.memory.allocate(4097) + 1))[0]
    assert outcome == (OK, 4097, b"!" * 700 + sectors_bytes(8, 8)[700:])
    for fd in (direct, device, buffered):
        os.close(fd)


@pytest.mark.usefixtures("ring_path")
def test_who_waited_longest_gets_the_next_bounce_buffer(serve: Serve) -> None:
    """Also while new requests keep coming: none may wait for ever."""
    device, direct = os.pipe()
    served = serve(direct, 1 << 20, fd_unaligned=direct, ring={"size": 512}, **ALIGNED)
    order = []

    def offer(number: int) -> None:
        block = number.to_bytes(2, "little") * 2048
        served.ring.offer(served.blk(OUT, 8 * number, block, cuts=[16, 100]).head)

    for number in range(32):  # 16 blocks fill a pipe, the rest waits, and more comes for each that is done
        offer(number)
    for number in range(32, 96):
        order.append(int.from_bytes(os.read(device, 4096)[:2], "little"))
        offer(number)
    order += [int.from_bytes(os.read(device, 4096)[:2], "little") for _ in range(32)]
    assert len(served.ring.wait(96)) == 96
    assert sorted(order) == list(range(96))
    passed_over = max(max(order[:done]) + 1 - done for done in range(1, 97))
    assert passed_over < BOUNCE_BUFFERS, order  # only those that had a buffer too: the kernel keeps no order among them
    os.close(device)
    os.close(direct)
