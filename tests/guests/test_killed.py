"""Front ends and guests that die by SIGKILL under load: the next one is served within a second, and nothing leaks."""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from qemu_machine import MODERN, LinuxConsole, linux_options, make_initramfs, qemu_command
from requirements import require
from served import Serve, volume_statistics
from server_footprint import footprint, wait_until_left
from uml_machine import BOOT_SECONDS, run_uml

from virtflash.demo.server_process import ServerProcess
from virtflash.demo.uml_guest import UmlGuest
from virtflash.driver.blk import BlkDriver, Pending
from virtflash.virtio.blk import RequestType

ROUNDS = 200
SETTLED_ROUND = 20  # by then the server has allocated what it keeps
SERVED_SECONDS = 1.0
ANONYMOUS_SLACK = 512  # KiB that may come and go in 180 rounds; one leaked page a round would be 720
DEPTH = 32
HALF_A_MESSAGE = b"\x01\0\0\0\x01"
SECTORS = 1 << 16
BLOCK = 8  # sectors

FORK = multiprocessing.get_context("fork")  # a new interpreter for each round would take most of the time

pytestmark = pytest.mark.timeout(180)


def write_load(driver: BlkDriver, number: int) -> Pending:
    return driver.submit(RequestType.OUT, number * BLOCK % SECTORS, os.urandom(BLOCK * 512))


def read_load(driver: BlkDriver, number: int) -> Pending:
    return driver.submit(RequestType.IN, number * 64 % SECTORS, room=64 * 512)


def mixed_load(driver: BlkDriver, number: int) -> Pending:
    """Also what the workers do, which takes longer."""
    if number % 4 == 3:
        return driver.submit(RequestType.FLUSH)
    return (write_load, read_load)[number % 2](driver, number)


LOADS: list[Callable[[BlkDriver, int], Pending]] = [write_load, read_load, mixed_load]


def front_end(socket: Path, life: int, said: Connection) -> None:
    """Say when the first request was served and, some requests later, that it is time; and go on until killed."""
    driver = BlkDriver(socket)
    driver.read(0, 512).check()
    said.send("served")
    load = LOADS[life % len(LOADS)]
    pending = deque(load(driver, number) for number in range(DEPTH))
    if life % 5 == 0:
        driver.front_end.send_bytes(HALF_A_MESSAGE)
    for number in range(DEPTH, 1 << 31):
        if number == DEPTH + life:
            said.send("loaded")
        driver.complete(pending.popleft()).check()
        pending.append(load(driver, number))


def run_and_kill(server: ServerProcess, life: int) -> float:
    """One front end's life; returns the seconds until its first request was served."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=front_end, args=(server.socket, life, theirs), daemon=True)
    started = time.monotonic()
    process.start()
    theirs.close()
    try:
        expect(ours, "served")
        seconds = time.monotonic() - started
        expect(ours, "loaded")
    finally:
        process.kill()
        process.join()
        ours.close()
    return seconds


def expect(pipe: Connection, word: str) -> None:
    assert pipe.poll(10), f"the front end was not {word} in 10 s"
    assert pipe.recv() == word


def test_two_hundred_killed_front_ends_leave_nothing_behind(serve: Serve) -> None:
    server = serve(size=SECTORS * 512)
    slowest = 0.0
    for life in range(ROUNDS):
        slowest = max(slowest, run_and_kill(server, life))
        if life == SETTLED_ROUND:
            wait_until_left(server)
            before = footprint(server.pid)
    wait_until_left(server)
    after = footprint(server.pid)
    assert slowest < SERVED_SECONDS
    assert after[:3] == before[:3]
    assert after.anonymous <= before.anonymous + ANONYMOUS_SLACK
    volume = volume_statistics(server)
    assert all(queue["in_flight"] == 0 for queue in volume["queues"])
    assert all(queue["errors"] == 0 for queue in volume["queues"])


MOUNT = """
directory=/run/disk
mkdir $directory
"""
# Writes files, each with its checksum, that are on the disk once they are reported; another process writes meanwhile.
LOAD = """
while :; do dd if=/dev/zero of=$directory/load bs=256k count=64 oflag=direct conv=notrunc status=none; done &
for number in $(seq 1000); do
    file=$directory/file-$1-$number
    head -c 256k /dev/urandom >$file
    sync $file
    sha256sum $file >>$directory/sums
    sync $directory/sums
    report synced "$number"
done
"""
FIRST = f"set -- 0; mkfs.ext4 -q -F /dev/vda; {MOUNT} mount /dev/vda $directory; {LOAD}"
NEXT = f"""
{MOUNT}
mount /dev/vda $directory
sha256sum --quiet -c $directory/sums
report intact "$(wc -l <$directory/sums)"
umount $directory
e2fsck -fn /dev/vda
mount /dev/vda $directory
"""
SYNCED = 5


@pytest.mark.slow
def test_a_new_guest_finds_all_that_the_killed_one_had_synced(serve: Serve, tmp_path: Path) -> None:
    require("linux.uml")
    server = serve()
    for life in range(3):
        script = FIRST if life == 0 else f"set -- {life}; {NEXT} {LOAD}"
        with UmlGuest(f"life{life}", [server.socket], script, tmp_path) as guest:
            guest.wait_for("synced", str(SYNCED), BOOT_SECONDS)
            reports = guest.console.reports
        assert life == 0 or int(reports["intact"]) >= life * SYNCED
    assert int(run_uml(server, NEXT, tmp_path, "last")["intact"]) >= 3 * SYNCED


DD_LOAD = """
dd if=/dev/vda of=/dev/null bs=4k iflag=direct &
while :; do dd if=/dev/zero of=/dev/vda bs=256k count=64 oflag=direct; report loaded; done
"""


@pytest.mark.slow
def test_a_killed_qemu_leaves_a_server_that_serves_at_once(serve: Serve, guest_kernel: Path, tmp_path: Path) -> None:
    server = serve()
    with BlkDriver(server.socket) as driver:
        driver.write(0, bytes(512)).check()
    wait_until_left(server)
    before = footprint(server.pid)
    initramfs = make_initramfs(guest_kernel / "modules", DD_LOAD, tmp_path)
    options = linux_options(guest_kernel / "vmlinuz", initramfs)
    with LinuxConsole(qemu_command(server.socket, MODERN, options)) as machine:
        machine.wait_report("loaded", BOOT_SECONDS)
    killed = time.monotonic()
    with BlkDriver(server.socket) as driver:
        driver.read(0, 512).check()
        assert time.monotonic() - killed < SERVED_SECONDS
    wait_until_left(server)
    assert footprint(server.pid)[:3] == before[:3]
