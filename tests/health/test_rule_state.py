"""One rule over time: hysteresis, delay, staleness; and against a model that looks at every moment."""

import dataclasses
import math
from itertools import pairwise

import pytest
from health_rules import SENSOR, Event, histories, played, rule, rules
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.health.cause import beyond_threshold, lasted, nothing_known
from virtflash.health.rule import Rule
from virtflash.health.rule_state import RuleState

END = 130  # later than anything that a history says, and than what follows from it by itself
BELOW: dict[str, object] = {"is_above": False, "threshold": 2.7, "until": 2.8}
NAN = math.nan

# The rule; what its sensor says; a time, and since when the rule is in force then.
IN_FORCE: list[tuple[dict[str, object], list[Event], float, float | None]] = [
    ({}, [], 99, None),
    ({}, [(1, 85)], 1, None),  # at the threshold is not beyond it
    ({}, [(1, 85.1)], 1, 1),
    ({}, [(1, 90), (2, 80.1)], 3, 1),  # not yet at its end
    ({}, [(1, 90), (2, 80)], 3, None),
    ({}, [(1, 90), (2, 80), (3, 84)], 3, None),
    ({}, [(1, 90), (2, 80), (3, 86)], 4, 3),
    ({"until": 85.0}, [(1, 90), (2, 85)], 2, None),
    (BELOW, [(1, 2.7)], 1, None),
    (BELOW, [(1, 2.6)], 1, 1),
    (BELOW, [(1, 2.6), (2, 2.79)], 2, 1),
    (BELOW, [(1, 2.6), (2, 2.8)], 2, None),
    (BELOW, [(1, -math.inf)], 1, 1),
    ({"delay": 5}, [(1, 90)], 5.9, None),
    ({"delay": 5}, [(1, 90)], 6, 6),  # by itself
    ({"delay": 5}, [(1, 90), (3, 85), (4, 90)], 8.9, None),  # a gap
    ({"delay": 5}, [(1, 90), (3, 85), (4, 90)], 9, 9),
    ({"delay": 5}, [(1, 90), (5.9, 84)], 7, None),  # hysteresis is for a rule in force only
    ({"delay": 5}, [(1, 90), (6, 84)], 7, 6),  # it has come in force, and then the reading
    ({"delay": 5}, [(1, 90), (9, 84)], 9, 6),  # though nobody has looked in between
    ({"delay": 5}, [(1, 90), (9, 80)], 9, None),
    ({"delay": 5}, [(1, 90), (9, 80), (10, 90)], 14.9, None),  # the delay is anew
    ({"delay": 5}, [(1, 90), (3, None), (4, NAN)], 6, 6),  # silence and failure are no gap
    ({}, [(1, 90), (2, None)], 500, 1),  # nor do they end it
    ({}, [(1, None), (2, NAN)], 500, None),  # nor begin it
    ({}, [(1, math.inf)], 1, 1),
]
# The same for the sensor: since when it is stale or has failed.
STALE: list[tuple[dict[str, object], list[Event], float, float | None]] = [
    ({}, [], 29.9, None),
    ({}, [], 30, 30),  # it never said anything
    ({"stale": 3.0}, [(1, 20)], 3.9, None),
    ({"stale": 3.0}, [(1, 20)], 4, 4),
    ({"stale": 3.0}, [(1, 20), (4, 20)], 4, None),
    ({"stale": 3.0}, [(1, 20), (9, 20)], 9, None),  # it is back
    ({}, [(1, None)], 1, 1),
    ({}, [(1, NAN)], 1, 1),
    ({}, [(1, None), (2, None)], 5, 1),
    ({}, [(1, None), (2, 20)], 2, None),
    ({"stale": 3.0}, [(1, 20), (8, None)], 9, 4),  # it was stale before it failed
    ({"stale": 3.0}, [(1, 20), (2, None)], 9, 2),
]
# When something changes by itself, after a time.
DUE: list[tuple[dict[str, object], list[Event], float, float | None]] = [
    ({}, [], 0, 30),
    ({}, [], 30, None),
    ({}, [(1, 20)], 1, 31),
    ({"delay": 5.0}, [(1, 90)], 1, 6),
    ({"delay": 5.0}, [(1, 90)], 6, 31),
    ({"delay": 5.0}, [(1, 90)], 31, None),
    ({"delay": 50.0}, [(1, 90)], 1, 31),
    ({"delay": 50.0}, [(1, 90)], 31, 51),
    ({"delay": 5.0}, [(1, 90), (2, 80)], 2, 32),
    ({}, [(1, None)], 1, None),
    ({"delay": 5.0}, [(1, 90), (2, None)], 2, 6),
]


@pytest.mark.parametrize(("keys", "events", "now", "since"), IN_FORCE)
def test_a_condition_begins_beyond_its_threshold_and_ends_at_until(
    keys: dict[str, object], events: list[Event], now: float, since: float | None
) -> None:
    assert played(rule(**keys), events, now).in_force_since(now) == since


@pytest.mark.parametrize(("keys", "events", "now", "since"), STALE)
def test_a_sensor_is_stale_when_it_is_silent_or_failed(
    keys: dict[str, object], events: list[Event], now: float, since: float | None
) -> None:
    assert played(rule(**keys), events, now).stale_since(now) == since


@pytest.mark.parametrize(("keys", "events", "now", "due"), DUE)
def test_it_says_when_something_changes_by_itself(
    keys: dict[str, object], events: list[Event], now: float, due: float | None
) -> None:
    assert played(rule(**keys), events, now).due(now) == due


def test_a_sensor_is_listened_to_from_the_start_on() -> None:
    assert RuleState(rule(), 1000.0).stale_since(1029.0) is None
    assert RuleState(rule(), 1000.0).stale_since(1030.0) == 1030.0


# Against a model


def model(rule: Rule, events: list[Event], ticks: int) -> list[tuple[bool, bool]]:
    """At every half second: is the rule in force, is its sensor stale? Steps through time, and counts it."""
    held: float | None = None  # seconds for which the condition has held
    in_force, silent, failed = False, 0.0, False
    found: list[tuple[bool, bool]] = []
    for tick in range(ticks):
        if tick:
            held, silent = (None if held is None else held + 0.5), silent + 0.5
        in_force = in_force or (held is not None and held >= rule.delay)
        for _, value in (event for event in events if event[0] * 2 == tick):
            if value is None:
                failed = True
                continue
            failed, silent = False, 0.0
            beyond = value > rule.threshold if rule.is_above else value < rule.threshold
            between = value > rule.until if rule.is_above else value < rule.until
            if beyond:
                held = 0.0 if held is None else held
            elif not in_force or not between:
                held, in_force = None, False
            in_force = in_force or (held is not None and held >= rule.delay)
        found.append((in_force, failed or silent >= rule.stale))
    return found


@settings(deadline=None)
@given(rules(), histories())
def test_a_rule_does_what_the_model_does_however_often_one_asks(rule: Rule, events: list[Event]) -> None:
    for tick, expected in enumerate(model(rule, events, 2 * END)):
        now = tick / 2
        state = played(rule, events, now)
        assert (state.in_force_since(now) is not None, state.stale_since(now) is not None) == expected, now


@settings(deadline=None)
@given(rules(), histories())
def test_since_is_when_it_came(rule: Rule, events: list[Event]) -> None:
    found = model(rule, events, 2 * END)
    for tick, (in_force, stale) in enumerate(found):
        state = played(rule, events, tick / 2)
        for is_so, since, at in (
            (in_force, state.in_force_since(tick / 2), 0),
            (stale, state.stale_since(tick / 2), 1),
        ):
            if is_so:
                assert since is not None
                begin = int(since * 2)
                assert all(each[at] for each in found[begin : tick + 1])
                assert begin == 0 or not found[begin - 1][at] or since in {now for now, _ in events}


@settings(deadline=None)
@given(rules(), histories())
def test_what_changes_by_itself_changes_when_it_is_due(rule: Rule, events: list[Event]) -> None:
    found = model(rule, events, 2 * END)
    told = {now for now, _ in events}
    for tick in range(1, 2 * END):
        if found[tick] != found[tick - 1] and tick / 2 not in told:
            before = played(rule, events, tick / 2 - 0.5)
            assert before.due(tick / 2 - 0.5) == tick / 2


# Noise, and gaps


@given(
    st.lists(st.tuples(st.integers(-40, 40), st.integers(0, 9)), min_size=1, max_size=40),
    st.integers(0, 40),
    st.integers(0, 3),
    st.booleans(),
)
def test_noise_within_the_hysteresis_does_not_flap(
    ramp: list[tuple[int, int]], turn: int, delay: int, is_above: bool
) -> None:
    """However it goes up and then down, it comes in force once at most: the noise is less than the hysteresis, 10."""
    sign = 1 if is_above else -1
    levels = sorted(level for level, _ in ramp[:turn]) + sorted((level for level, _ in ramp[turn:]), reverse=True)
    state = RuleState(rule(is_above=is_above, threshold=0.0, until=-10.0 * sign, delay=float(delay)), 0.0)
    in_force: list[bool] = []
    for now, (level, (_, noise)) in enumerate(zip(levels, ramp, strict=True)):
        state.take(sign * float(level - noise), now)
        in_force.append(state.in_force_since(now) is not None)
    changes = [after for before, after in pairwise([False, *in_force]) if before != after]
    assert changes in ([], [True], [True, False])


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(-30, 30), st.integers(0, 3))
def test_noise_around_a_level_changes_the_rule_once_at_most(noise: list[int], level: int, delay: int) -> None:
    state = RuleState(rule(threshold=0.0, until=-10.0, delay=float(delay)), 0.0)
    in_force = []
    for now, each in enumerate(noise):
        state.take(float(level + each), now)
        in_force.append(state.in_force_since(now) is not None)
    assert in_force == sorted(in_force)


@settings(deadline=None)
@given(histories(), rules())
def test_it_is_entered_only_when_the_condition_has_held_without_a_gap(events: list[Event], rule: Rule) -> None:
    """In the whole of the delay before, no reading was short of the threshold, and the first was beyond."""
    for now in range(END):
        state = played(rule, events, now)
        since = state.in_force_since(now)
        if since is None:
            continue
        began = since - rule.delay
        at_begin = [value for time, value in events if time == began and value is not None]
        during = [value for time, value in events if began < time < since and value is not None]
        assert any(rule.is_beyond(value) for value in at_begin)
        assert all(rule.is_beyond(value) for value in during)


WORSE = st.lists(st.tuples(st.integers(-8, 8), st.integers(0, 6)), max_size=12)


@given(rules(), WORSE, st.integers(1, 4))
def test_worse_readings_never_make_it_freer(rule: Rule, readings: list[tuple[int, int]], step: int) -> None:
    """The same history, each reading as bad or worse: in force whenever it was."""
    sign = 1 if rule.is_above else -1
    mild, severe = RuleState(rule, 0.0), RuleState(rule, 0.0)
    for number, (value, worse) in enumerate(readings):
        for late in (0, step / 2):
            now = number * step + late
            if not late:
                mild.take(float(value), now)
                severe.take(float(value + sign * worse), now)
            assert severe.in_force_since(now) is not None or mild.in_force_since(now) is None
            assert severe.stale_since(now) == mild.stale_since(now)


# Words


@pytest.mark.parametrize(
    ("keys", "events", "now", "words"),
    [
        ({"delay": 5}, [(1, 86.5)], 6, f"{SENSOR} is 86.5 degC, above 85 degC since 5 s"),
        ({}, [(1, 90), (2, 82)], 301, f"{SENSOR} is 82 degC, went above 85 degC 5 min ago, and holds until 80 degC"),
        (BELOW | {"sensor": "emmc0.voltage"}, [(0, 2.65)], 0, "emmc0.voltage is 2.65 V, below 2.7 V since 0 s"),
        ({"sensor": "nand0.life_time_b"}, [(0, 93)], 9000, "nand0.life_time_b is 93 %, above 85 % since 2 h"),
        (
            {"sensor": "platform.load", "threshold": 0.5},
            [(0, 1234567)],
            1,
            "platform.load is 1234567, above 0.5 since 1 s",
        ),
    ],
)
def test_it_says_why_in_words(keys: dict[str, object], events: list[Event], now: float, words: str) -> None:
    cause = beyond_threshold(played(rule(**keys), events, now), now)
    assert cause.words == words
    assert words.startswith(cause.rule.split()[0])


@pytest.mark.parametrize(
    ("events", "now", "words"),
    [
        ([], 42, f"{SENSOR} has given no reading since the start, 42 s ago"),
        ([(2, 20)], 44, f"{SENSOR} has given no reading for 42 s"),
        ([(2, 20), (4, None)], 5.5, f"{SENSOR} has failed, 1.5 s ago"),
    ],
)
def test_it_says_that_nothing_is_known(events: list[Event], now: float, words: str) -> None:
    assert nothing_known(played(rule(), events, now), now) == (f"{SENSOR} stale", words)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.25, "0.25 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200000, "2 days")]
)
def test_times_are_told_as_people_do(seconds: float, words: str) -> None:
    assert lasted(seconds) == words


def test_a_rule_has_one_name_for_as_long_as_it_is() -> None:
    assert rule().name == f"{SENSOR} above 85 degC"
    assert dataclasses.replace(rule(), is_above=False, threshold=-40.0).name == f"{SENSOR} below -40 degC"
