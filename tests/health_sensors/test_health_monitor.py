"""The monitor: fast, slow, failing, hung and late sensors, none of which waits for another."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hand_clock import HandClock
from watched_policy import WAIT, HeldSensor, ListedSensor, WatchedPolicy

from virtflash.health.monitor import Monitor
from virtflash.health.sensors.pushed import Pushed
from virtflash.health.sensors.sensor import Sensor, SensorError

Start = Callable[..., Monitor[str]]


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1000.0)


@pytest.fixture
def policy() -> WatchedPolicy:
    return WatchedPolicy()


@pytest.fixture
def start(clock: HandClock, policy: WatchedPolicy) -> Iterator[Start]:
    """Monitors of these sensors; whatever the test did, they end quickly."""
    monitors: list[tuple[Monitor[str], tuple[Sensor, ...]]] = []

    def begin(*sensors: Sensor) -> Monitor[str]:
        monitor = Monitor(sensors, policy, policy.apply, clock)
        monitors.append((monitor, sensors))
        monitor.start()
        return monitor

    yield begin
    for monitor, sensors in monitors:
        for sensor in sensors:
            if isinstance(sensor, HeldSensor):
                for _ in range(10):
                    sensor.let_go.release()
        assert monitor.stop() == []
        assert not monitor.judges


class Logged(logging.Handler):
    """What the server said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelname, record.getMessage()))


@pytest.fixture
def logged() -> Iterator[Logged]:
    logger, handler = logging.getLogger("virtflash"), Logged()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_each_is_read_at_once_and_then_by_its_period(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    start(ListedSensor(1, 2, 3, name="fast", period=1.0), ListedSensor(7, 8, name="slow", period=10.0))
    policy.until_taken("fast", 1)
    policy.until_taken("slow", 1)
    for second in range(1, 10):
        clock.turn(1.0)
        policy.until_taken("fast", second + 1)
    assert policy.values("slow") == [7]
    clock.turn(1.0)
    policy.until_taken("slow", 2)
    policy.until_taken("fast", 11)
    assert policy.values("slow") == [7, 8]
    assert policy.values("fast") == [1, 2, *[3] * 9]
    assert [at for name, _, at in policy.taken if name == "fast"] == [1000.0 + second for second in range(11)]


def test_it_applies_at_the_start_and_then_only_what_has_changed(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    sensor = ListedSensor(1, 2, SensorError("gone"), SensorError("gone"), 3, 3, name="s")
    start(sensor)
    for count in range(1, 7):
        policy.until_taken("s", count)
        clock.turn(1.0)
    policy.until_taken("s", 7)
    policy.until_applied(3)
    assert policy.applied == [{"volume": "good"}, {"volume": "bad"}, {"volume": "good"}]
    assert policy.values("s") == [1, 2, None, None, 3, 3, 3]


def test_one_that_hangs_has_failed_and_delays_nobody(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    hung, fast = HeldSensor("hung"), ListedSensor(5, name="fast")
    monitor = start(hung, fast)
    assert hung.asked.acquire(timeout=WAIT)
    policy.until_taken("fast", 1)
    clock.turn(1.0)
    policy.until_taken("fast", 2)
    assert policy.values("hung") == [], "it has a second left"
    clock.turn(1.0)
    policy.until_taken("hung", 1)
    policy.until_taken("fast", 3)
    assert policy.values("hung") == [None]
    assert monitor.readings()["hung"].problem == "no answer within 2 s"
    for second in range(20):
        clock.turn(1.0)
        policy.until_taken("fast", 4 + second)
    monitor.wake("hung")
    for second in range(3):
        clock.turn(1.0)
        policy.until_taken("fast", 24 + second)
    assert policy.values("hung") == [None], "that it still hangs is no news"
    assert hung.times == 1, "it is not asked before it has come back"


def test_one_that_comes_back_is_asked_anew_at_once(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    hung = HeldSensor("hung")
    monitor = start(hung)
    assert hung.asked.acquire(timeout=WAIT)
    clock.turn(2.0)
    policy.until_taken("hung", 1)
    clock.turn(3600.0)
    hung.value = 41.0  # of an hour ago
    hung.let_go.release()
    assert hung.asked.acquire(timeout=WAIT)
    assert policy.values("hung") == [None]
    hung.value = 42.0
    hung.let_go.release()
    policy.until_taken("hung", 2)
    assert policy.values("hung") == [None, 42.0]
    assert monitor.readings()["hung"].value == 42.0
    assert hung.times == 2
    clock.turn(1.0)
    assert hung.asked.acquire(timeout=WAIT), "it has its period again"


def test_one_that_comes_back_and_hangs_again_has_failed_again(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    hung = HeldSensor("hung")
    start(hung)
    assert hung.asked.acquire(timeout=WAIT)
    for count in range(1, 4):
        clock.turn(2.0)
        policy.until_taken("hung", count)
        hung.let_go.release()
        assert hung.asked.acquire(timeout=WAIT)
    assert policy.values("hung") == [None] * 3


def test_an_answer_at_the_deadline_is_too_late(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    class Late(ListedSensor):
        def read(self) -> float:
            if self.times == 0:
                clock.turn(2.0)
            return super().read()

    start(Late(1, 2, name="late"))
    policy.until_taken("late", 2)
    assert policy.values("late") == [None, 2]


def test_one_that_hangs_later_is_missed_when_its_answer_is_due(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    sensor = HeldSensor("s", period=60.0)
    sensor.let_go.release()
    start(sensor)
    policy.until_taken("s", 1)
    clock.turn(60.0)
    assert sensor.asked.acquire(timeout=WAIT)
    assert sensor.asked.acquire(timeout=WAIT)
    clock.turn(1.9)
    assert policy.values("s") == [1.0]
    clock.turn(0.1)
    policy.until_taken("s", 2)
    assert policy.taken[-1] == ("s", None, 1062.0)


def test_one_that_takes_longer_than_its_period_has_a_pause(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    class Slow(ListedSensor):
        def read(self) -> float:
            asked.append(clock.now())
            if len(asked) < 4:
                clock.turn(1.5)
            return super().read()

    asked: list[float] = []
    start(Slow(1, name="slow", period=1.0))
    for count in range(1, 4):
        policy.until_taken("slow", count)
        clock.turn(1.0)
    policy.until_taken("slow", 4)
    assert asked == [1000.0, 1002.5, 1005.0, 1007.5]


def test_how_long_a_reading_takes_does_not_move_the_next(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    class Slow(ListedSensor):
        def read(self) -> float:
            asked.append(clock.now())
            clock.turn(0.25 if len(asked) < 4 else 0)
            return super().read()

    asked: list[float] = []
    start(Slow(1, name="slow", period=1.0))
    for count in range(1, 4):
        policy.until_taken("slow", count)
        clock.turn(0.75)
    policy.until_taken("slow", 4)
    assert asked == [1000.0, 1001.0, 1002.0, 1003.0]


def until_read(monitor: Monitor[str], name: str, at: float) -> None:
    """A reading of that moment has come, whether it was judged or not."""
    deadline = time.monotonic() + WAIT
    while (reading := monitor.readings().get(name)) is None or reading.at < at:
        assert time.monotonic() < deadline
        os.sched_yield()


def test_what_comes_while_it_is_applied_counts_from_when_it_came(
    start: Start, clock: HandClock, policy: WatchedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying, applied = threading.Semaphore(0), threading.Semaphore(0)

    def apply(_verdicts: dict[str, str]) -> None:
        applying.release()
        applied.acquire()

    monkeypatch.setattr(policy, "apply", apply)
    monitor = start(ListedSensor(1, 2, 3, name="s"))
    assert applying.acquire(timeout=WAIT)
    until_read(monitor, "s", 1000.0)
    for second in range(1, 3):
        clock.turn(1.0)
        until_read(monitor, "s", 1000.0 + second)
    applied.release()
    policy.until_taken("s", 3)
    assert [at for *_, at in policy.taken] == [1000.0, 1001.0, 1002.0]
    policy.until(lambda: len(policy.judged) == 2)
    assert policy.judged == [1000.0, 1002.0]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (SensorError("it is empty"), "it is empty"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("so"), "so"),
        (math.nan, "nan is no reading"),
        (-math.inf, "-inf is no reading"),
    ],
)
def test_failures_are_told_once_and_so_is_what_comes_after(
    failure: float | Exception,
    told: str,
    start: Start,
    clock: HandClock,
    policy: WatchedPolicy,
    logged: Logged,
) -> None:
    monitor = start(ListedSensor(failure, failure, 7, name="s"))
    policy.until_taken("s", 1)
    assert monitor.readings()["s"].problem == told
    for count in (2, 3, 4):
        clock.turn(1.0)
        policy.until_taken("s", count)
    assert policy.values("s") == [None, None, 7, 7]
    assert logged.lines == [
        ("WARNING", f"s cannot be read: {told}"),
        ("INFO", "s can be read again"),
    ]
    reading = monitor.readings()["s"]
    assert (reading.value, reading.unit, reading.at, reading.problem) == (7, "degC", 1003.0, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_is_wrongly_made_is_told_as_one_that_hangs(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    start(ListedSensor(ZeroDivisionError(), name="wrong"), ListedSensor(1, name="right"))
    policy.until_taken("right", 1)
    clock.turn(2.0)
    policy.until_taken("right", 2)
    policy.until_taken("wrong", 1)
    assert policy.values("wrong") == [None]


def test_what_the_policy_waits_for_is_judged_without_a_reading(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    policy.due_at = lambda now: 1005.0 if now < 1005 else None
    start()
    policy.until_applied(1)
    clock.turn(4.9)
    clock.turn(0.1)
    policy.until(lambda: len(policy.judged) == 2)
    clock.turn(100.0)
    assert policy.judged == [1000.0, pytest.approx(1005.0)]
    assert len(policy.applied) == 1, "it said the same again"


def test_a_policy_that_is_always_due_gets_its_pause(start: Start, clock: HandClock, policy: WatchedPolicy) -> None:
    policy.due_at = lambda now: now
    start()
    for count in range(1, 6):
        policy.until(lambda count=count: len(policy.judged) >= count)
        clock.turn(0.01)
    policy.until(lambda: len(policy.judged) >= 6)
    gaps = [after - before for before, after in zip(policy.judged, policy.judged[1:], strict=False)]
    assert min(gaps) > 0.0099


def test_what_could_not_be_applied_is_tried_again(
    start: Start, clock: HandClock, policy: WatchedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[dict[str, str]] = []
    apply = policy.apply

    def fails_at_first(verdicts: dict[str, str]) -> None:
        tried.append(verdicts)
        if len(tried) < 3:
            raise OSError(5, "Input/output error")
        apply(verdicts)

    monkeypatch.setattr(policy, "apply", fails_at_first)
    start(ListedSensor(1, name="s"))
    policy.until_taken("s", 1)
    clock.turn(1.0)
    policy.until_applied(1)
    policy.until_taken("s", 2)
    clock.turn(1.0)
    policy.until_taken("s", 3)
    assert tried == [{"volume": "good"}] * 3


def test_what_somebody_else_has_changed_is_judged_and_applied_at_once(start: Start, policy: WatchedPolicy) -> None:
    monitor = start(ListedSensor(1, name="s", period=1000.0))
    policy.until_taken("s", 1)
    policy.until(lambda: len(policy.judged) == 2)
    assert len(policy.applied) == 1
    monitor.judge_again()
    policy.until_applied(2)
    assert policy.applied == [{"volume": "good"}] * 2
    assert policy.values("s") == [1], "nobody is asked for that"


def test_a_pushed_value_is_judged_at_once_and_again_when_it_runs_out(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    pushed = Pushed(clock.now)
    sensor = pushed.sensor("platform.cabin", period=1000.0)
    monitor = start(sensor, ListedSensor(1, name="other", period=1000.0))
    pushed.on_push = monitor.wake
    policy.until_taken("platform.cabin", 1)
    pushed.push("platform.cabin", 21, 5.0)
    policy.until_taken("platform.cabin", 2)
    pushed.push("platform.cabin", 22, 5.0)
    policy.until_taken("platform.cabin", 3)
    assert policy.taken[-1] == ("platform.cabin", 22.0, 1000.0), "no time has passed"
    clock.turn(5.0)
    policy.until_taken("platform.cabin", 4)
    assert policy.values("platform.cabin") == [None, 21.0, 22.0, None]
    assert policy.values("other") == [1]


def test_a_push_while_the_sensor_is_read_is_not_missed(start: Start, policy: WatchedPolicy) -> None:
    sensor = HeldSensor("s", period=1000.0)
    monitor = start(sensor)
    assert sensor.asked.acquire(timeout=WAIT)
    monitor.wake("s")
    sensor.let_go.release()
    assert sensor.asked.acquire(timeout=WAIT)
    sensor.value = 2.0
    sensor.let_go.release()
    policy.until_taken("s", 2)
    assert policy.values("s")[-1] == 2.0


def test_a_woken_sensor_that_hangs_is_missed_by_the_deadline(
    start: Start, clock: HandClock, policy: WatchedPolicy
) -> None:
    sensor = HeldSensor("s", period=1000.0)
    sensor.let_go.release()
    monitor = start(sensor)
    policy.until_taken("s", 1)
    monitor.wake("s")
    clock.turn(2.0)
    policy.until_taken("s", 2)
    assert policy.taken[-1] == ("s", None, 1002.0)


def test_a_name_that_is_not_there_wakes_nobody(start: Start, policy: WatchedPolicy) -> None:
    monitor = start(ListedSensor(1, name="s", period=1000.0))
    policy.until_taken("s", 1)
    monitor.wake("t")
    assert policy.values("s") == [1]


def test_it_stops_at_once_though_a_sensor_hangs(clock: HandClock, policy: WatchedPolicy) -> None:
    hung, sensors = HeldSensor("hung"), [ListedSensor(1, name=f"s{number}") for number in range(8)]
    monitor = Monitor([hung, *sensors], policy, policy.apply, clock)
    monitor.start()
    assert hung.asked.acquire(timeout=WAIT)
    policy.until(lambda: {name for name, *_ in policy.taken} == {sensor.name for sensor in sensors})
    begin = time.monotonic()
    assert monitor.stop() == ["hung"]
    assert time.monotonic() - begin < 2.0
    told, applied, times = len(policy.taken), len(policy.applied), [sensor.times for sensor in sensors]
    hung.let_go.release()
    clock.turn(100.0)
    assert monitor.stop() == [], "it has come back"
    assert (len(policy.taken), len(policy.applied)) == (told, applied)
    assert [sensor.times for sensor in sensors] == times
    assert not [thread for thread in threading.enumerate() if thread.name in ("vf-sensor", "vf-health")]


def test_one_that_was_never_started_stops(clock: HandClock, policy: WatchedPolicy) -> None:
    assert Monitor([HeldSensor()], policy, policy.apply, clock).stop() == []
    assert policy.judged == []


def test_by_the_clock_on_the_wall(policy: WatchedPolicy) -> None:
    monitor = Monitor(
        [ListedSensor(1, 2, 3, name="s", period=0.01), HeldSensor("hung")], policy, policy.apply, deadline=0.05
    )
    monitor.start()
    policy.until_taken("s", 3)
    policy.until_taken("hung", 1)
    assert monitor.judges
    assert monitor.stop() == ["hung"]
    assert policy.values("s")[:3] == [1, 2, 3]
