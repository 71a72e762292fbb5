"""The gate: what the platform does not allow is answered with IOERR, and never reaches what lies below."""

from collections.abc import Callable

import pytest
from hand_made_ring import eventually
from scripted_target import ScriptedTarget
from served_ring import FLUSH, GET_ID, IN, IOERR, OK, OUT, SECTORS, ServedRing
from test_target import DISCARD, LIFETIME, MILLISECOND, RANGES, SECURE_ERASE, WRITE_ZEROES, ranges

from virtflash.engine.allowance import Allowance

SECTOR = b"x" * 512
ONE_RANGE = ranges((8, 8, 0))
REQUESTS = {  # by the engine's name: type, payload, room
    "read": (IN, b"", 512),
    "write": (OUT, SECTOR, 0),
    "flush": (FLUSH, b"", 0),
    "discard": (DISCARD, ONE_RANGE, 0),
    "write_zeroes": (WRITE_ZEROES, ONE_RANGE, 0),
    "secure_erase": (SECURE_ERASE, ONE_RANGE, 0),
    "get_id": (GET_ID, b"", 20),
    "lifetime": (LIFETIME, b"", 6),
}


@pytest.fixture
def target() -> ScriptedTarget:
    return ScriptedTarget(SECTORS)


@pytest.fixture
def allowance() -> Allowance:
    return Allowance()


@pytest.fixture
def ring(serve: Callable[..., ServedRing], target: ScriptedTarget, allowance: Allowance) -> ServedRing:
    served = serve(-1, SECTORS, target=target, allowance=allowance, **RANGES)
    allowance.owner = served.reactor.run
    return served


def status(ring: ServedRing, name: str) -> int:
    kind, payload, room = REQUESTS[name]
    return ring.do(kind, 0, payload, room).status


def calls(target: ScriptedTarget) -> list[int]:
    return [target.calls(call) for call in ("read", "write", "flush", "change", "lifetime")]


@pytest.mark.parametrize("name", REQUESTS)
def test_what_is_refused_and_nothing_else(ring: ServedRing, target: ScriptedTarget, name: str) -> None:
    ring.binding.set_gate([name])
    before = calls(target)
    assert {each: status(ring, each) for each in REQUESTS if each != name} == dict.fromkeys(
        REQUESTS.keys() - {name}, OK
    )
    reached = calls(target)
    assert reached != before
    assert status(ring, name) == IOERR
    assert calls(target) == reached
    assert ring.statistics()["refused"] == ring.statistics()["errors"] == 1
    assert ring.events() == {}, "the storage has not failed"
    ring.binding.set_gate()
    assert status(ring, name) == OK


@pytest.mark.parametrize("name", ["read", "write", "flush", "discard", "write_zeroes"])
def test_of_files_too(serve: Callable[..., ServedRing], disk: int, name: str) -> None:
    ring = serve(
        disk, SECTORS, **{key: value for key, value in RANGES.items() if key not in ("secure_erase", "lifetime")}
    )
    ring.binding.set_gate([name])
    assert status(ring, name) == IOERR
    ring.binding.set_gate()
    assert status(ring, name) == OK


@pytest.mark.parametrize(("name", "flushed"), [("write", True), ("write_zeroes", True), ("read", False)])
def test_durable_makes_what_is_written_stable(
    ring: ServedRing, target: ScriptedTarget, name: str, flushed: bool
) -> None:
    """Whatever was negotiated."""
    ring.binding.write_through = False
    assert status(ring, name) == OK
    assert target.calls("flush") == 0
    ring.binding.set_gate(durable=True)
    assert status(ring, name) == OK
    assert target.calls("flush") == flushed


def test_a_gate_that_closes_refuses_what_waits_for_its_turn(
    ring: ServedRing, target: ScriptedTarget, allowance: Allowance
) -> None:
    """Writes are throttled, and held; when they could go, they may not. What they would have worn is given back."""
    allowance.set_rates(wear=1, wear_burst=1 << 20)
    before = allowance.left()
    allowance.throttle(1 / 3600, 4 * 4096)  # of which each counts at least 4 KiB
    requests = [ring.blk(OUT, number, SECTOR) for number in range(5)]
    ring.ring.offer(*(request.head for request in requests))
    eventually(lambda: target.calls("write") == 3 and allowance.delayed == 2, "three were written, and two wait")
    ring.binding.set_gate(["write"])
    allowance.throttle(0)
    assert [outcome.status for outcome in ring.collect(*requests)] == [OK, OK, OK, IOERR, IOERR]
    assert target.calls("write") == 3
    assert before - allowance.left() < 4 * 512


def test_reads_and_flushes_are_not_throttled(ring: ServedRing, target: ScriptedTarget, allowance: Allowance) -> None:
    """Trims are, which the device may put off."""
    allowance.throttle(1 / 3600, 4 * 4096)
    assert [status(ring, "discard") for _ in range(3)] == [OK] * 3
    held = ring.blk(DISCARD, 0, ONE_RANGE)
    ring.ring.offer(held.head)
    eventually(lambda: allowance.delayed == 1, "one waits")
    others = [ring.blk(IN, 0, room=512), ring.blk(FLUSH)]
    assert [outcome.status for outcome in ring.run(*others)] == [OK, OK]
    allowance.throttle(0)
    assert [outcome.status for outcome in ring.collect(held)] == [OK]
    assert allowance.write_rate == 0


def test_frozen_the_rest_of_what_has_begun_is_left(ring: ServedRing, target: ScriptedTarget) -> None:
    target.control.part_sectors, target.control.part_ns = 1, 20 * MILLISECOND
    request = ring.blk(DISCARD, 0, ranges((0, 64, 0)))
    ring.ring.offer(request.head)
    eventually(lambda: target.calls("change") > 0, "it has begun")
    ring.binding.set_gate(["write", "discard", "flush"], frozen=True)
    assert [outcome.status for outcome in ring.collect(request)] == [IOERR]
    assert target.calls("change") < 64
    assert not ring.binding.sync_failed


def test_frozen_a_flush_that_passes_does_nothing(ring: ServedRing, target: ScriptedTarget) -> None:
    ring.binding.set_gate(["write"], frozen=True)
    assert status(ring, "flush") == OK
    assert target.calls("flush") == 0
    assert status(ring, "read") == OK


def test_it_can_be_looked_at(ring: ServedRing) -> None:
    assert ring.binding.gate == (set(), False, False)
    ring.binding.set_gate(["write", "flush"], durable=True, frozen=True)
    assert ring.binding.gate == ({"write", "flush"}, True, True)
    with pytest.raises(ValueError, match="nothing like it"):
        ring.binding.set_gate(["nothing like it"])


def test_frozen_no_flush_succeeds_after_a_failure(ring: ServedRing, target: ScriptedTarget) -> None:
    """What a failed write or sync lost is not there, although nothing is left to be flushed."""
    ring.binding.inject_fault("sync", 5)
    assert status(ring, "flush") == IOERR
    ring.binding.inject_fault("sync", 0)
    ring.binding.set_gate(["write"], frozen=True)
    assert ring.binding.sync_failed
    assert status(ring, "flush") == IOERR


def test_frozen_nobody_else_flushes_either(ring: ServedRing, target: ScriptedTarget) -> None:
    """An operator, or a driver that chooses another mode: it is told, and no failure of the storage."""
    ring.binding.set_gate(["write", "flush"], frozen=True)
    with pytest.raises(OSError, match="frozen"):
        ring.binding.sync()
    ring.binding.set_gate(["write"], frozen=True)
    ring.binding.sync()
    assert target.calls("flush") == 0
    ring.binding.set_gate()
    ring.binding.sync()
    assert target.calls("flush") == 1
    assert not ring.binding.sync_failed
