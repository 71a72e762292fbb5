"""Liveness: a guest that is lazy, mad or greedy; none may starve another volume."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from attacked_server import IMAGE_BYTES, Attack, AttackedServer, Files, SharedFlash, on_files_and_flash
from chains import SECTOR

from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import ONE
from virtflash.virtio.blk import RANGE_SEGMENT, RequestType, Status

MADNESS_SECONDS = 0.3
CAPACITY = IMAGE_BYTES // SECTOR


@contextmanager
def looping(body: str, *fds: int) -> Iterator[None]:
    """Python that does `body` again and again, in a process of its own."""
    code = f"import os\nos.write(1, b'.')\nwhile True:\n    {body}\n"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=fds, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.read(1)
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def watch_bystander(attack: Attack) -> None:
    """For as long as a madman needs to show himself."""
    rounds = 0
    for _ in range(5):
        select.select([], [], [], MADNESS_SECONDS / 5)  # the madness goes on meanwhile
        rounds += attack.server.check_bystander()
    assert rounds > 10


@on_files_and_flash
def test_guest_that_never_kicks(attack: Attack) -> None:
    """Liveness: a guest that never kicks is not served for certain; once it kicks, it is."""
    driver = attack.driver()
    pending = [driver.submit(RequestType.IN, i, room=SECTOR, kick=False) for i in range(20)]
    attack.server.check_bystander()
    driver.queues[0].kick(force=True)
    assert all(driver.complete(each).status == Status.OK for each in pending)


@on_files_and_flash
def test_guest_that_kicks_without_end(attack: Attack) -> None:
    """Liveness: a guest that kicks a million times a second."""
    driver = attack.driver()
    fd = driver.queues[0].kick_fd
    with looping(f"os.write({fd}, {ONE!r})", fd):
        watch_bystander(attack)
        driver.read(0, SECTOR).check()


@on_files_and_flash
def test_kick_that_is_never_empty(attack: Attack) -> None:
    """Liveness: a kick that has 2^64 - 2 to be read, one at a time."""
    driver = attack.driver()
    fd = os.eventfd(0, os.EFD_SEMAPHORE)
    os.write(fd, ((1 << 64) - 2).to_bytes(8, "little"))
    driver.front_end.set_vring_kick(0, fd)
    os.close(fd)
    watch_bystander(attack)
    driver.read(0, SECTOR).check()


@on_files_and_flash
def test_guest_that_reads_no_answers(attack: Attack) -> None:
    """Liveness: a guest that stops reading its used ring, and its interrupts."""
    driver = attack.driver(queue_size=256, indirect=True)
    for i in range(256):
        driver.submit(RequestType.IN, i, room=SECTOR, kick=i == 255)
    driver.queues[0].wait_used(256)
    watch_bystander(attack)
    driver.front_end.round_trip()


@on_files_and_flash
def test_guest_that_wants_everything_at_once(attack: Attack) -> None:
    """Liveness: a thousand long requests at once, and again."""
    driver = attack.driver(queue_size=1024, indirect=True, memory=GuestMemory((1 << 20, 256 << 20)))
    for _ in range(2):
        pending = [driver.submit(RequestType.IN, i, room=128 << 10, kick=i == 999) for i in range(1000)]
        attack.server.check_bystander()
        assert all(driver.complete(each).status == Status.OK for each in pending)


@pytest.fixture(
    params=[Files, partial(Files, options=("--io", "threads")), SharedFlash], ids=["auto", "threads", "emmc"]
)
def server_in_memory(request: pytest.FixtureRequest) -> Iterator[AttackedServer]:
    """On tmpfs, which has no quick way to write zeroes."""
    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no /dev/shm")
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        AttackedServer(request.param(Path(directory))).running() as server,
    ):
        yield server


@pytest.mark.parametrize("kind", [RequestType.WRITE_ZEROES, RequestType.DISCARD])
def test_guest_that_asks_for_what_takes_long(server_in_memory: AttackedServer, kind: RequestType) -> None:
    """Liveness: a guest whose every request keeps a processor busy, more of them than there are threads for it."""
    attack = Attack(server_in_memory)
    driver = attack.driver(queue_size=128, indirect=True)
    data = RANGE_SEGMENT.pack(0, CAPACITY, 0) * 16
    pending = [driver.submit(kind, data=data, kick=i == 95) for i in range(96)]
    while driver.queues[0].used_index < len(pending):
        server_in_memory.check_bystander()
    assert all(driver.complete(each).status == Status.OK for each in pending)
    attack.over()
