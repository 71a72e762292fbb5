"""A heat ramp and a brown-out, replayed on an emulated part through the monitor: the same each time."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hand_clock import HandClock
from watched_policy import WatchedPolicy

from virtflash.backing.emulated_flash import create_flash, open_storage
from virtflash.health.monitor import Monitor
from virtflash.health.sensors.emulated import emulated_sensors
from virtflash.health.sensors.script import Script, replayed
from virtflash.health.sensors.sensor import SensorError

T, V = "emmc0.temperature", "emmc0.voltage"
HEAT = [(0.0, T, 25.0), (40.0, T, 105.0), (60.0, T, 105.0), (100.0, T, 25.0)]
BROWN_OUT = [(0.0, V, 3.3), (10.0, V, 3.3), (15.0, V, 2.5), (20.0, V, 2.5), (20.0, V, 3.3)]


class Thresholds:
    """With hysteresis: hot from 85 degC on until it is below 80; low from 2.7 V down until it is above 3."""

    def __init__(self) -> None:
        self._hot = self._low = False

    def __call__(self, newest: Mapping[str, float | None]) -> dict[str, str]:
        celsius, volts = newest.get(T), newest.get(V)
        if celsius is not None:
            self._hot = celsius >= 85 if not self._hot else celsius >= 80
        if volts is not None:
            self._low = volts <= 2.7 if not self._low else volts <= 3.0
        return {"radio": "durable" if self._low else "throttled" if self._hot else "normal"}


def replay(
    path: Path, steps: list[tuple[float, str, float]], name: str, begin: float
) -> tuple[list[tuple[float, str]], list[float]]:
    """What was applied and when, and the temperature of the part itself at each of these moments."""
    clock, policy = HandClock(begin), WatchedPolicy(Thresholds())
    storage = open_storage(path, host_sync=False)
    script = Script(steps)
    sensors = replayed(emulated_sensors("emmc0", storage, clock=clock.now), script, clock.now, period=0.5)
    story: list[tuple[float, str]] = []
    celsius: list[float] = []

    def apply(verdicts: dict[str, str]) -> None:
        story.append((clock.now() - begin, verdicts["radio"]))
        celsius.append(storage.chip.counters()["celsius"])
        policy.apply(verdicts)

    monitor = Monitor(sensors, policy, apply, clock)
    monitor.start()
    policy.until(lambda: len({name for name, *_ in policy.taken}) == len(sensors))
    while clock.now() < begin + script.seconds + 1:
        clock.turn(0.5)
        now = clock.now()
        policy.until(lambda now=now: policy.taken and any(took[0] == name and took[2] == now for took in policy.taken))
        policy.until(lambda now=now: policy.judged[-1] == now)
    assert monitor.stop() == []
    storage.close()
    return story, celsius


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "flash.vflash"
    create_flash(path, "automotive-tlc-emmc", capacity_bytes=32 << 20, seed=3)
    return path


def test_a_heat_ramp_goes_there_and_back_the_same_each_time(image: Path) -> None:
    stories = [replay(image, HEAT, T, begin) for begin in (0.0, 1000.0)]
    assert stories[0] == stories[1]
    story, celsius = stories[0]
    assert story == [(0.0, "normal"), (30.0, "throttled"), (73.0, "normal")]
    assert celsius[1:] == [85.0, 79.0], "the part itself is so hot"


def test_a_brown_out_goes_there_and_back_the_same_each_time(image: Path) -> None:
    stories = [replay(image, BROWN_OUT, V, begin)[0] for begin in (0.0, 1000.0)]
    assert stories[0] == stories[1] == [(0.0, "normal"), (14.0, "durable"), (20.0, "normal")]


def test_a_script_of_what_is_not_there_is_refused(image: Path) -> None:
    storage = open_storage(image, host_sync=False)
    with pytest.raises(SensorError, match=r"nand0\.temperature: the script names it, and it is not there; there are"):
        replayed(emulated_sensors("emmc0", storage), Script([(0.0, "nand0.temperature", 1.0)]), HandClock().now)
    storage.close()
