"""What the platform pushes: good until its time is over, refused when nobody waits for it."""

import math

import pytest
from hand_clock import HandClock

from virtflash.health.sensors.pushed import Pushed
from virtflash.health.sensors.sensor import SensorError


def test_a_value_is_good_for_as_long_as_it_says() -> None:
    clock = HandClock()
    pushed = Pushed(clock.now)
    sensor = pushed.sensor("platform.cabin", "degC")
    with pytest.raises(SensorError, match=r"platform\.cabin: nothing has been pushed yet"):
        sensor.read()
    pushed.push("platform.cabin", 21, 5.0)
    assert (sensor.unit, sensor.read()) == ("degC", 21.0)
    clock.turn(4.99)
    assert sensor.read() == 21.0
    clock.turn(0.01)
    with pytest.raises(SensorError, match=r"platform\.cabin: what was pushed last has been stale for 0\.0 s"):
        sensor.read()
    pushed.push("platform.cabin", 22.5, 1.0)
    assert sensor.read() == 22.5


def test_a_newer_value_counts_even_if_it_ends_sooner() -> None:
    clock = HandClock()
    pushed = Pushed(clock.now)
    sensor = pushed.sensor("platform.x")
    pushed.push("platform.x", 1, 100)
    pushed.push("platform.x", 2, 1)
    assert sensor.read() == 2
    clock.turn(2)
    with pytest.raises(SensorError, match="stale"):
        sensor.read()


def test_it_is_read_again_when_it_runs_out() -> None:
    clock = HandClock()
    pushed = Pushed(clock.now)
    sensor = pushed.sensor("platform.x", period=1.0)
    assert sensor.period == 1.0
    pushed.push("platform.x", 1, 10)
    assert sensor.period == 1.0
    clock.turn(9.75)
    assert sensor.period == pytest.approx(0.25)
    clock.turn(1)
    assert sensor.period == 1.0


def test_each_push_is_told() -> None:
    told: list[str] = []
    pushed = Pushed()
    pushed.sensor("platform.a")
    pushed.push("platform.a", 1, 1)
    pushed.on_push = told.append
    pushed.push("platform.a", 1, 1)
    assert told == ["platform.a"]


@pytest.mark.parametrize(
    ("name", "value", "ttl", "line"),
    [
        ("platform.c", 1.0, 1.0, r"platform\.c: nobody waits for it; what can be pushed: platform\.a, platform\.b"),
        ("platform.a", math.nan, 1.0, r"platform\.a: nan is no reading"),
        ("platform.a", math.inf, 1.0, r"platform\.a: inf is no reading"),
        ("platform.a", 1.0, 0.0, r"platform\.a: it would be stale at once"),
        ("platform.a", 1.0, -1.0, r"platform\.a: it would be stale at once"),
        ("platform.a", 1.0, math.nan, r"platform\.a: it would be stale at once"),
        ("platform.a", 1.0, math.inf, r"platform\.a: it would be stale at once"),
    ],
)
def test_what_is_no_push_is_refused_and_changes_nothing(name: str, value: float, ttl: float, line: str) -> None:
    told: list[str] = []
    pushed = Pushed()
    sensors = [pushed.sensor(name) for name in ("platform.b", "platform.a")]
    pushed.on_push = told.append
    with pytest.raises(SensorError, match=line):
        pushed.push(name, value, ttl)
    assert told == []
    for sensor in sensors:
        with pytest.raises(SensorError, match="nothing has been pushed"):
            sensor.read()


def test_nothing_can_be_pushed_where_nobody_waits() -> None:
    with pytest.raises(SensorError, match="what can be pushed: none"):
        Pushed().push("platform.a", 1, 1)
