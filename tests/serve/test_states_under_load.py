"""States come and go while a guest writes: every request is answered, and what was answered well is there."""

import itertools
import threading
from pathlib import Path

import pytest
from configured import Configured
from watched_server import wait_until

from virtflash.driver.blk import BlkDriver
from virtflash.virtio.blk import RequestType, Status

RULE = """
[[health.rule]]
sensor = "platform.{state}"
above = 0
state = "{state}"
on_enter = "{on_enter}"
"""
STATES = ("durable", "throttled", "read-only", "offline")
PLACES = 256
DEPTH = 32
ROUNDS = 24


class Load:
    """A guest that writes numbered data at `DEPTH`, and knows of each place what it may hold."""

    def __init__(self, socket: Path) -> None:
        self.driver = BlkDriver(socket, queue_size=128)
        self.may_hold: list[set[int]] = [{0} for _ in range(PLACES)]
        self.answers = {Status.OK: 0, Status.IOERR: 0}
        self.enough = threading.Event()

    @property
    def done(self) -> int:
        return sum(self.answers.values())

    def run(self) -> None:
        numbers = itertools.count(1)
        while not self.enough.is_set():
            batch = [(number % PLACES, number) for number in itertools.islice(numbers, DEPTH)]
            pending = [self.driver.submit(RequestType.OUT, 8 * place, page(number)) for place, number in batch]
            for (place, number), each in zip(batch, pending, strict=True):
                status = Status(self.driver.complete(each).status)
                self.answers[status] += 1
                self.may_hold[place] = {number} if status == Status.OK else self.may_hold[place] | {number}

    def check(self) -> None:
        for place, numbers in enumerate(self.may_hold):
            found = self.driver.read(8 * place, 4096).check().data
            assert found in {page(number) for number in numbers}


def page(number: int) -> bytes:
    return number.to_bytes(8, "little") * 512


@pytest.mark.parametrize("on_enter", ["flush", "freeze"])
def test_nothing_hangs_and_nothing_is_lost(tmp_path: Path, on_enter: str) -> None:
    rules = "".join(
        RULE.format(state=state, on_enter=on_enter if state in ("read-only", "offline") else "flush")
        + ('limit = "20 MB/s"\n' if state == "throttled" else "")
        for state in STATES
    )
    configured = Configured(tmp_path, {"cluster": "16 MiB"}, rules)
    with configured.in_a_child():
        for state in STATES:
            configured.ask("push", sensor=f"platform.{state}", value=0.0, ttl="1 h")
        load = Load(configured.socket("cluster"))
        worker = threading.Thread(target=load.run)
        worker.start()
        for turn in range(ROUNDS):
            state = STATES[turn % len(STATES)]
            before = load.done
            configured.ask("push", sensor=f"platform.{state}", value=1.0, ttl="1 h")
            wait_until(lambda before=before: load.done >= before + 2 * DEPTH, "it goes on, one way or the other", 20)  # type: ignore[misc]
            configured.ask("push", sensor=f"platform.{state}", value=0.0, ttl="1 h")
        load.enough.set()
        worker.join(30)
        assert not worker.is_alive()
        assert load.answers[Status.OK] > 0 and load.answers[Status.IOERR] > 0
        (told,) = configured.ask("volumes")
        assert told["in_flight"] == 0
        assert told["errors"] == told["refused"] == load.answers[Status.IOERR]
        load.driver.flush().check()
        load.check()
        load.driver.close()
    with configured.in_a_child():
        load.driver = BlkDriver(configured.socket("cluster"))
        load.check()
        load.driver.close()
