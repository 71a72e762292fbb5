"""A critical volume on a reactor that others keep busy: its requests come between any two calls for the others."""

import struct
from collections.abc import Callable

import pytest
from scripted_target import ScriptedTarget
from served_ring import FLUSH, IN, OK, OUT, SECTORS, ServedRing

from virtflash.engine import Binding
from virtflash.virtio.blk import RequestType

MILLISECOND = 1_000_000
RANGES = {"discard": True, "max_discard_sectors": SECTORS}
DISCARD = struct.pack("<QII", 0, SECTORS, 0)


def test_requests_of_a_critical_volume_come_between_the_calls_of_others(serve: Callable[..., ServedRing]) -> None:
    """Of 128 parts of a discard, each of which keeps the thread for a millisecond, few come before a read."""
    busy, calm = ScriptedTarget(SECTORS), ScriptedTarget(SECTORS)
    other, critical = serve(-1, SECTORS, target=busy, **RANGES), serve(-1, SECTORS, target=calm, critical=True)
    busy.control.part_sectors, busy.control.part_ns = 2, MILLISECOND
    long = [other.blk(RequestType.DISCARD, 0, DISCARD) for _ in range(8)]
    other.ring.offer(*(request.head for request in long))
    for number in range(20):
        before = busy.calls("change")
        assert critical.read(number).status == OK
        assert busy.calls("change") - before <= 4
    assert busy.calls("change") < 8 * SECTORS // 2  # it was still at it
    assert [outcome.status for outcome in other.collect(*long)] == [OK] * 8


def test_others_go_on_beside_a_critical_volume(serve: Callable[..., ServedRing]) -> None:
    critical = serve(-1, SECTORS, target=ScriptedTarget(SECTORS), critical=True)
    other = serve(-1, SECTORS, target=ScriptedTarget(SECTORS))
    reads = [critical.blk(IN, number, room=512) for number in range(16)]
    writes = [other.blk(OUT, number, bytes([number]) * 512) for number in range(16)]
    for _ in range(20):
        critical.ring.offer(*(request.head for request in reads))
        other.ring.offer(*(request.head for request in writes))
        for ring, requests in ((critical, reads), (other, writes)):
            used = dict(ring.ring.wait(16))
            assert set(used) == {request.head for request in requests}
    assert other.do(FLUSH).status == OK
    assert [other.read(number).data for number in range(16)] == [bytes([number]) * 512 for number in range(16)]


def test_large_writes_of_others_are_whole(serve: Callable[..., ServedRing]) -> None:
    """They are done in small parts."""
    serve(-1, SECTORS, target=ScriptedTarget(SECTORS), critical=True)
    target = ScriptedTarget(SECTORS)
    other = serve(-1, SECTORS, target=target)
    data = bytes(range(256)) * (SECTORS * 2)
    assert other.write(0, data).status == OK
    assert target.memory == data
    assert target.calls("write") == SECTORS * 512 // 16384


def test_only_a_target_can_be_critical() -> None:
    with pytest.raises(ValueError, match="share a reactor"):
        Binding(-1, SECTORS, critical=True)
