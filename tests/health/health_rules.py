"""Rules, and what their sensors say, for the tests of policy: tables of cases, and strategies that draw them.

Times are whole seconds, so that a test can look at every one of them, and half way between.
"""

from typing import Any

from hypothesis import strategies as st

from virtflash.health.platform_state import PlatformState
from virtflash.health.rule import ALARM, Answer, Rule
from virtflash.health.rule_state import RuleState

SENSOR = "emmc0.temperature"
ANSWERS: list[Answer] = [*list(PlatformState)[1:], ALARM]
Event = tuple[float, float | None]  # a reading, or a failure, and when


def rule(**given: Any) -> Rule:
    """Above 85 until 80, as far as nothing else is said."""
    usual: dict[str, Any] = {
        "sensor": SENSOR,
        "is_above": True,
        "threshold": 85.0,
        "until": 80.0,
        "answer": PlatformState.THROTTLED,
    }
    return Rule(**(usual | given))


@st.composite
def rules(draw: st.DrawFn, sensors: tuple[str, ...] = (SENSOR,), volumes: tuple[str, ...] = ()) -> Rule:
    is_above = draw(st.booleans())
    threshold, width = draw(st.integers(-3, 3)), draw(st.integers(0, 3))
    return Rule(
        sensor=draw(st.sampled_from(sensors)),
        is_above=is_above,
        threshold=threshold,
        until=threshold - width if is_above else threshold + width,
        answer=draw(st.sampled_from(ANSWERS)),
        delay=draw(st.integers(0, 6)),
        stale=draw(st.integers(1, 8)),
        on_stale=draw(st.sampled_from([PlatformState.NORMAL, *ANSWERS])),
        freeze=draw(st.booleans()),
        limit=draw(st.integers(1, 5)),
        volumes=frozenset(draw(st.sets(st.sampled_from(volumes)))) if volumes else frozenset(),
    )


VALUES = st.integers(-8, 8).map(float)
STEPS = st.tuples(st.integers(0, 9), st.none() | VALUES)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """In order of time; several at once are allowed."""
    events: list[Event] = []
    now = 0.0
    for step, value in draw(st.lists(STEPS, max_size=12)):
        now += step
        events.append((now, value))
    return events


def played(rule: Rule, events: list[Event], until: float) -> RuleState:
    """What a rule has made of what was said up to some time, from 0 on."""
    state = RuleState(rule, 0.0)
    for now, value in events:
        if now <= until:
            state.take(value, now)
    return state
