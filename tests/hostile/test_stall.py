"""Liveness: front ends that stop in the middle of what they do, on three volumes at once, while a fourth is served."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from attacked_server import FIRST_STAMPS, PATIENCE_SECONDS, make_image
from shared_emmc import SharedEmmc
from stamping_guest import Bystander
from watched_server import WatchedServer, wait_until

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import DeadlineError
from virtflash.driver.front_end import FrontEnd
from virtflash.vhost_user.connection import STALL_SECONDS
from virtflash.vhost_user.messages import CONFIG, HEADER, VERSION, Message, Request

QUESTION = Message(Request.GET_CONFIG, CONFIG.pack(0, 256, 0) + bytes(256))


VOLUMES = ("header", "payload", "answers", "bystander")


def of_files(directory: Path) -> WatchedServer:
    return WatchedServer(directory, [make_image(directory / f"{name}.img") for name in VOLUMES])


def of_flash(directory: Path) -> WatchedServer:
    emmc = SharedEmmc(directory, VOLUMES, 16)
    with emmc.server() as server, BlkDriver(server.sockets[3]) as driver:
        driver.write(0, FIRST_STAMPS).check()
        driver.close()
    return emmc.server()


@pytest.fixture(params=[of_files, of_flash], ids=["files", "emmc"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WatchedServer]:
    with request.param(tmp_path) as server:
        yield server


def use(server: WatchedServer) -> None:
    """Those three volumes, by front ends that behave."""
    for path in server.sockets[:3]:
        with BlkDriver(path) as driver:
            driver.read(0, 512).check()


def ask_without_end(front_end: FrontEnd) -> None:
    """Until the server takes no more questions, since nobody reads its answers."""
    with pytest.raises(DeadlineError):
        while True:
            front_end.send(QUESTION, timeout=0.2)


def test_front_ends_that_stall(server: WatchedServer) -> None:
    """Liveness: a front end that stalls in the middle of a message, in its header or behind it, or reads no answer."""
    with ExitStack() as stack:
        bystander = Bystander(server.sockets[3])
        stack.callback(bystander.close)
        use(server)
        header, payload, answers = (stack.enter_context(FrontEnd(path)) for path in server.sockets[:3])
        before = server.vitals()
        header.send_bytes(HEADER.pack(Request.SET_OWNER, VERSION, 0)[:5])
        payload.send_bytes(HEADER.pack(Request.SET_VRING_NUM, VERSION, 8) + b"\0", [payload.fileno()])
        ask_without_end(answers)
        assert bystander.report().slowest < PATIENCE_SECONDS
        server.wait_line("could not be sent", seconds=STALL_SECONDS + 5)  # to read until it hangs up would be reading
        for front_end in (header, payload, answers):
            front_end.wait_closed(timeout=STALL_SECONDS + 5)
        report = bystander.report()
        assert (report.error, report.slowest < PATIENCE_SECONDS) == (None, True)
        use(server)
        wait_until(lambda: server.vitals().descriptors <= before.descriptors, "descriptors are given back")
    assert [line.split(": ", 1)[1] for line in sorted(server.loud_lines(), key=lambda line: line.split()[2])] == [
        "front end dropped: the answer to GET_CONFIG could not be sent: timed out",
        "front end dropped: the front end stalled for 5 s in the middle of a message",
        "front end dropped: the front end stalled for 5 s in the middle of a message",
    ]
