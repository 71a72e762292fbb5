"""Rules together: the strictest holds, for the volumes concerned, and nobody is told late."""

import dataclasses
from collections.abc import Mapping

import pytest
from health_rules import STEPS, rule, rules
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.health.platform_state import PlatformState
from virtflash.health.policy import Policy, Verdict
from virtflash.health.rule import ALARM, Answer, Rule

NORMAL, DURABLE, THROTTLED, READ_ONLY, OFFLINE = PlatformState
VOLUMES = {"cluster": "emmc0", "radio": "emmc0", "log": "nor0"}
HOT, SUPPLY = "emmc0.temperature", "platform.voltage"
END = 160


def verdict_of(
    rules: list[Rule], told: Mapping[str, float | None], now: float = 1.0, volume: str = "cluster"
) -> Verdict:
    """After one reading of each sensor, at time 1."""
    policy = Policy(rules, VOLUMES, 0.0)
    for sensor, value in told.items():
        policy.take(sensor, value, 1.0)
    return policy.verdicts(now)[volume]


def hot(threshold: float, answer: Answer, **keys: object) -> Rule:
    return rule(threshold=threshold, until=threshold, answer=answer, **keys)


LADDER = [hot(80, ALARM), hot(85, THROTTLED), hot(95, READ_ONLY, freeze=True), hot(105, OFFLINE)]


@pytest.mark.parametrize(
    ("reading", "state", "freeze", "causes", "alarms"),
    [
        (20, NORMAL, False, [], []),
        (81, NORMAL, False, [], ["above 80"]),
        (90, THROTTLED, False, ["above 85"], ["above 80"]),
        (100, READ_ONLY, True, ["above 95", "above 85"], ["above 80"]),
        (110, OFFLINE, True, ["above 105", "above 95", "above 85"], ["above 80"]),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_the_strictest_state_holds_in_whatever_order_rules_are(
    reading: float, state: PlatformState, freeze: bool, causes: list[str], alarms: list[str], order: int
) -> None:
    verdict = verdict_of(LADDER[::order], {HOT: reading})
    assert (verdict.state, verdict.freeze) == (state, freeze)
    assert [cause.rule for cause in verdict.causes] == [f"{HOT} {each} degC" for each in causes]
    assert [cause.rule for cause in verdict.alarms] == [f"{HOT} {each} degC" for each in alarms]


CONCERNED = [  # of a rule: the sensor, the volumes listed, those spared; who is read-only by it
    (HOT, (), (), {"cluster", "radio"}),
    (HOT, ("radio",), (), {"radio"}),
    (HOT, ("log",), (), {"log"}),  # it lies elsewhere, and is listed
    (HOT, ("radio", "log", "gone"), (), {"radio", "log"}),
    (HOT, (), ("radio",), {"cluster"}),
    (SUPPLY, (), (), {"cluster", "radio", "log"}),
    (SUPPLY, ("log",), (), {"log"}),
    ("nor0.life_time_b", (), (), {"log"}),
    ("nand7.life_time_b", (), (), set()),
]


@pytest.mark.parametrize(("sensor", "volumes", "spared", "closed"), CONCERNED)
def test_a_rule_concerns_the_volumes_it_lists_else_all_of_its_flash(
    sensor: str, volumes: tuple[str, ...], spared: tuple[str, ...], closed: set[str]
) -> None:
    made = hot(1, READ_ONLY, sensor=sensor, volumes=frozenset(volumes), spared=frozenset(spared))
    policy = Policy([made], VOLUMES, 0.0)
    policy.take(sensor, 2.0, 1.0)
    verdicts = policy.verdicts(1.0)
    assert verdicts.keys() == VOLUMES.keys()
    assert {name for name, verdict in verdicts.items() if verdict.state is READ_ONLY} == closed


FREEZES = [  # answer, on_stale, is the sensor there?; is it frozen?
    (READ_ONLY, DURABLE, True, True),
    (OFFLINE, DURABLE, True, True),
    (THROTTLED, READ_ONLY, True, False),
    (THROTTLED, READ_ONLY, False, True),
    (READ_ONLY, DURABLE, False, False),
    (ALARM, OFFLINE, False, True),
]


@pytest.mark.parametrize(("answer", "on_stale", "there", "frozen"), FREEZES)
def test_only_a_state_that_writes_nothing_freezes(answer: Answer, on_stale: Answer, there: bool, frozen: bool) -> None:
    made = hot(85, answer, on_stale=on_stale, freeze=True)
    assert verdict_of([made], {HOT: 90.0 if there else None}).freeze is frozen
    thawed = dataclasses.replace(made, freeze=False)
    assert not verdict_of([thawed], {HOT: 90.0 if there else None}).freeze
    assert verdict_of([thawed, made], {HOT: 90.0 if there else None}).freeze is frozen


@pytest.mark.parametrize(("reading", "rate"), [(20, None), (86, 3000), (91, 1000), (100, None)])
def test_the_least_limit_holds_while_it_is_throttled(reading: float, rate: int | None) -> None:
    ladder = [hot(85, THROTTLED, limit=3000), hot(90, THROTTLED, limit=1000), hot(95, READ_ONLY, limit=1)]
    assert verdict_of(ladder, {HOT: reading}).write_rate == rate


def test_heat_does_not_take_away_that_writes_are_durable() -> None:
    falling = rule(sensor=SUPPLY, is_above=False, threshold=9, until=10, answer=DURABLE)
    both = verdict_of([hot(85, THROTTLED), falling], {HOT: 90, SUPPLY: 8})
    assert (both.state, both.durable) == (THROTTLED, True)
    assert not verdict_of([hot(85, THROTTLED), falling], {HOT: 90, SUPPLY: 12}).durable
    assert verdict_of([hot(85, THROTTLED), falling], {HOT: 20, SUPPLY: 8}).effect == (DURABLE, False, True, None)


def test_a_sensor_that_is_stale_is_a_cause_of_its_own_and_told_once() -> None:
    ladder = [*LADDER[1:], hot(70, ALARM, on_stale=ALARM), hot(1, OFFLINE, on_stale=NORMAL)]
    verdict = verdict_of(ladder, {}, now=30.0)
    assert verdict.state is DURABLE
    assert verdict.causes == ((f"{HOT} stale", f"{HOT} has given no reading since the start, 30 s ago"),)
    assert verdict.alarms == verdict.causes
    assert verdict_of(ladder, {}, now=29.0) == Verdict()


def test_a_stale_sensor_frees_nobody() -> None:
    policy = Policy([hot(95, READ_ONLY)], VOLUMES, 0.0)
    policy.take(HOT, 100.0, 1.0)
    policy.take(HOT, None, 2.0)
    verdict = policy.verdicts(1000.0)["cluster"]
    assert verdict.state is READ_ONLY
    assert [cause.rule for cause in verdict.causes] == [f"{HOT} above 95 degC", f"{HOT} stale"]


def test_a_sensor_that_no_rule_is_about_changes_nothing() -> None:
    policy = Policy(LADDER, VOLUMES, 0.0)
    policy.take("emmc0.voltage", 0.0, 1.0)
    policy.take("temperature", 1000.0, 1.0)
    assert set(policy.verdicts(1.0).values()) == {Verdict()}
    assert policy.sensors == {HOT}


def test_times_that_come_out_of_order_count_as_the_later_one() -> None:
    policy = Policy([rule(delay=5.0)], VOLUMES, 0.0)
    policy.take("emmc0.voltage", 3.0, 10.0)
    policy.take(HOT, 90.0, 8.0)
    assert policy.due(9.0) == 15.0
    assert policy.verdicts(14.0)["cluster"].state is NORMAL
    assert policy.verdicts(15.0)["cluster"].state is THROTTLED


def test_without_rules_nothing_is_due() -> None:
    policy = Policy([], VOLUMES, 0.0)
    assert policy.due(0.0) is None
    assert policy.verdicts(1e9) == dict.fromkeys(VOLUMES, Verdict())


# Any rules, any readings

SENSORS = (HOT, "nor0.life_time_b", SUPPLY)
RULES = st.lists(rules(SENSORS, tuple(VOLUMES)), max_size=4)
Told = list[tuple[float, str, float | None]]


@st.composite
def readings(draw: st.DrawFn) -> Told:
    now, made = 0.0, []
    for sensor, (step, value) in draw(st.lists(st.tuples(st.sampled_from(SENSORS), STEPS), max_size=12)):
        now += step
        made.append((now, sensor, value))
    return made


def densely(rules: list[Rule], events: Told) -> list[dict[str, Verdict]]:
    """At every half second."""
    policy, found = Policy(rules, VOLUMES, 0.0), []
    for tick in range(2 * END):
        for now, sensor, value in events:
            if now * 2 == tick:
                policy.take(sensor, value, now)
        found.append(policy.verdicts(tick / 2))
    return found


def effects(verdicts: dict[str, Verdict]) -> dict[str, object]:
    """All but words, which tell how long."""
    return {
        name: (verdict.effect, [each.rule for each in verdict.causes], [each.rule for each in verdict.alarms])
        for name, verdict in verdicts.items()
    }


@settings(deadline=None)
@given(RULES, readings())
def test_who_comes_when_it_is_due_misses_nothing(rules: list[Rule], events: Told) -> None:
    dense = [effects(each) for each in densely(rules, events)]
    policy = Policy(rules, VOLUMES, 0.0)
    seen = {0.0: effects(policy.verdicts(0.0))}
    for stop in sorted({now for now, _, _ in events} | {float(END)}):
        now = max(seen)
        while (due := policy.due(now)) is not None and due < stop:
            assert due > now
            now = due
            seen[now] = effects(policy.verdicts(now))
        for time, sensor, value in events:
            if time == stop:
                policy.take(sensor, value, time)
        seen[stop] = effects(policy.verdicts(stop))
    for tick, expected in enumerate(dense):
        latest = max(now for now in seen if now <= tick / 2)
        assert seen[latest] == expected


@settings(deadline=None)
@given(RULES, readings())
def test_the_state_is_the_strictest_that_any_rule_alone_would_have(rules: list[Rule], events: Told) -> None:
    together = densely(rules, events)
    alone = [densely([each], events) for each in rules]
    for tick, verdicts in enumerate(together):
        for volume, verdict in verdicts.items():
            each = [one[tick][volume] for one in alone]
            assert verdict.state == max([one.state for one in each], default=NORMAL)
            assert verdict.freeze == any(one.freeze for one in each)
            assert verdict.durable == any(one.durable for one in each)
            assert set(verdict.alarms) == {alarm for one in each for alarm in one.alarms}
            assert set(verdict.causes) == {cause for one in each for cause in one.causes}
            assert bool(verdict.causes) == (verdict.state is not NORMAL)
            assert (verdict.write_rate is not None) == (verdict.state is THROTTLED)


def strictness(verdict: Verdict) -> tuple[int, float]:
    """The less may be written the greater, of those that do not freeze."""
    return verdict.state, -(verdict.write_rate or 0)


@settings(deadline=None)
@given(RULES, readings(), st.lists(st.integers(0, 6), min_size=12, max_size=12))
def test_worse_readings_never_free_a_volume(rules: list[Rule], events: Told, worse: list[int]) -> None:
    """Where more is worse for every rule."""
    rising = [dataclasses.replace(each, is_above=True, until=min(each.until, each.threshold)) for each in rules]
    severe = [
        (now, sensor, None if value is None else value + more)
        for (now, sensor, value), more in zip(events, worse, strict=False)
    ]
    for mild, harder in zip(densely(rising, events), densely(rising, severe), strict=True):
        for volume in VOLUMES:
            assert strictness(harder[volume]) >= strictness(mild[volume])
            assert harder[volume].freeze >= mild[volume].freeze
            assert harder[volume].durable >= mild[volume].durable


# Other rules while it runs


def test_a_rule_that_stays_has_its_history() -> None:
    cooling, heating = rule(), rule(threshold=95.0, until=90.0, answer=READ_ONLY, delay=5.0)
    policy = Policy([cooling, heating], VOLUMES, 0.0)
    policy.take(HOT, 96.0, 1.0)
    policy.take(HOT, 96.0, 4.0)
    policy.change([hot(99, OFFLINE), heating, cooling], {"radio": "emmc0", "new": "emmc0"}, 4.0)
    assert policy.due(4.0) == 6.0
    assert {name: each.state for name, each in policy.verdicts(6.0).items()} == {"radio": READ_ONLY, "new": READ_ONLY}
    policy.take(HOT, 82.0, 7.0)
    policy.change([cooling], VOLUMES, 8.0)
    assert policy.verdicts(8.0)["cluster"].state is THROTTLED


def test_a_new_rule_begins_with_what_its_sensor_said_last() -> None:
    policy = Policy([rule()], VOLUMES, 0.0)
    policy.take(HOT, 96.0, 1.0)
    new = rule(threshold=95.0, until=90.0, answer=READ_ONLY, delay=5.0)
    policy.change([new], VOLUMES, 3.0)
    assert (policy.verdicts(5.9)["cluster"].state, policy.verdicts(6.0)["cluster"].state) == (NORMAL, READ_ONLY)
    assert policy.due(6.0) == 31.0  # stale since the same time as for the rule before
    policy.take(HOT, None, 7.0)
    policy.change([rule(on_stale=OFFLINE)], VOLUMES, 8.0)
    assert policy.verdicts(8.0)["cluster"].state is OFFLINE


def test_a_new_rule_waits_no_longer_for_a_sensor_that_never_spoke() -> None:
    policy = Policy([rule()], VOLUMES, 0.0)
    policy.change([rule(threshold=90.0), rule(sensor=SUPPLY)], VOLUMES, 20.0)
    assert policy.due(20.0) == 30.0
    assert policy.verdicts(30.0)["cluster"].state is DURABLE


def test_a_sensor_that_is_new_is_not_stale_at_once() -> None:
    policy = Policy([rule()], VOLUMES, 0.0)
    policy.take(HOT, 20.0, 100.0)
    policy.change([rule(), rule(sensor=SUPPLY)], VOLUMES, 100.0)
    assert policy.verdicts(100.0)["cluster"].state is NORMAL
    assert policy.due(100.0) == 130.0
