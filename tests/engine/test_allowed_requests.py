"""Volumes with an allowance, served: what waits, what is refused, and what becomes of it when a ring stops."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hand_made_ring import eventually
from scripted_target import ScriptedTarget
from served_ring import FLUSH, IN, IOERR, OK, OUT, SECTORS, ServedRing

from virtflash.engine import Binding
from virtflash.engine.allowance import Allowance
from virtflash.virtio.blk import RequestType

SECTOR = b"x" * 512
HOUR = 1 / 3600  # of a rate: one an hour, so that nothing is paid while a test runs


class Allowed:
    """A ring of a target with an allowance."""

    def __init__(self, serve: Callable[..., ServedRing], **rates: Any) -> None:
        self.target = ScriptedTarget(SECTORS)
        self.allowance = Allowance()
        self.allowance.set_rates(**rates)
        self.ring = serve(
            -1, SECTORS, target=self.target, allowance=self.allowance, discard=True, max_discard_sectors=SECTORS
        )
        self.allowance.owner = self.ring.reactor.run

    def offer(self, *kinds: RequestType) -> list[Any]:
        requests = [
            self.ring.blk(kind, n, SECTOR if kind == OUT else b"", 512 if kind == IN else 0)
            for n, kind in enumerate(kinds)
        ]
        self.ring.ring.offer(*(request.head for request in requests))
        return requests

    def comes_to(self, done: int, waiting: int = 0) -> None:
        """Requests answered since the start, and held."""
        eventually(lambda: (self.done, self.waiting) == (done, waiting), f"{done} requests done and {waiting} waiting")

    @property
    def done(self) -> int:
        return sum(self.ring.queue.statistics()["requests"].values())

    @property
    def waiting(self) -> int:
        return self.ring.queue.statistics()["in_flight"]


@pytest.fixture
def allowed(serve: Callable[..., ServedRing]) -> Iterator[Callable[..., Allowed]]:
    yield lambda **rates: Allowed(serve, **rates)


def test_requests_beyond_the_burst_wait_and_then_stay_in_the_ring(allowed: Callable[..., Allowed]) -> None:
    """Of a burst of eight, six go at once; two more may wait for their time, and one that finds it open."""
    disk = allowed(requests=HOUR, requests_burst=8)
    disk.offer(*[IN] * 16)
    disk.comes_to(6, 3)
    assert disk.allowance.delayed == 3


def test_new_limits_let_everything_go(allowed: Callable[..., Allowed]) -> None:
    disk = allowed(requests=HOUR, requests_burst=8)
    requests = disk.offer(*[OUT] * 16)
    disk.comes_to(6, 3)
    disk.allowance.set_rates()
    assert [outcome.status for outcome in disk.ring.collect(*requests)] == [OK] * 16
    assert disk.target.calls("write") == 16


def test_what_waits_goes_when_its_ring_stops(allowed: Callable[..., Allowed]) -> None:
    """And nothing more is taken: what is left is whoever's who serves the ring next."""
    disk = allowed(requests=HOUR, requests_burst=8)
    disk.offer(*[OUT] * 16)
    disk.comes_to(6, 3)
    assert disk.ring.queue.stop() == 9
    assert (disk.done, disk.target.calls("write")) == (9, 9)


def test_another_volume_waits_for_nothing(allowed: Callable[..., Allowed], serve: Callable[..., ServedRing]) -> None:
    slow = allowed(requests=HOUR, requests_burst=4)
    slow.offer(*[IN] * 8)
    slow.comes_to(3, 2)
    other = serve(-1, SECTORS, target=ScriptedTarget(SECTORS))
    assert [other.read(number).status for number in range(64)] == [OK] * 64
    assert slow.waiting == 2


def test_a_wait_ends_by_itself(allowed: Callable[..., Allowed]) -> None:
    disk = allowed(requests=50, requests_burst=4)
    requests = disk.offer(*[IN] * 12)
    assert [outcome.status for outcome in disk.ring.collect(*requests)] == [OK] * 12
    assert disk.allowance.delayed > 0


def test_bytes_are_those_read_and_written(allowed: Callable[..., Allowed]) -> None:
    disk = allowed(transferred=HOUR, transferred_burst=4096)
    disk.offer(IN, OUT, FLUSH, IN, OUT, IN, IN, FLUSH)
    disk.comes_to(8)  # six of 512 bytes: three quarters
    disk.offer(IN, FLUSH)
    disk.comes_to(9, 1)


def test_reads_and_flushes_pass_writes_that_wait_for_wear(allowed: Callable[..., Allowed]) -> None:
    disk = allowed(wear=HOUR, wear_burst=4096)
    disk.offer(*[OUT] * 7)
    disk.comes_to(6, 1)
    disk.offer(IN, FLUSH, IN)
    disk.comes_to(9, 1)
    assert [event["kind"] for event in disk.ring.binding.take_events()] == ["budget-spent"]


def test_a_spent_budget_can_refuse(allowed: Callable[..., Allowed]) -> None:
    """IOERR, to whatever changes data: reads and flushes still pass."""
    disk = allowed(wear=HOUR, wear_burst=4096, when_spent="read-only")
    statuses = [disk.ring.write(number, SECTOR).status for number in range(9)]
    assert statuses == [OK] * 7 + [IOERR] * 2
    assert disk.ring.do(RequestType.DISCARD, 0, struct.pack("<QII", 0, 8, 0)).status == IOERR
    assert (disk.ring.read(3).status, disk.ring.do(FLUSH).status) == (OK, OK)
    assert disk.ring.read(3).data == SECTOR


def test_a_budget_that_is_there_again_is_told(allowed: Callable[..., Allowed]) -> None:
    disk = allowed(wear=HOUR, wear_burst=4096, when_spent="read-only")
    assert disk.ring.write(0, SECTOR * 8).status == OK
    assert disk.ring.write(0, SECTOR).status == IOERR
    disk.allowance.set_rates(wear=HOUR, wear_burst=1 << 20, when_spent="read-only")
    assert disk.ring.write(0, SECTOR).status == OK
    assert [event["kind"] for event in disk.ring.binding.take_events()] == ["budget-spent", "budget-restored"]


def test_an_allowance_is_of_a_target() -> None:
    with pytest.raises(ValueError, match="target"):
        Binding(-1, SECTORS, allowance=Allowance())
