"""All rules together: what sensors say in, a verdict for each volume out.

Pure: it has no clock, no thread and no sensor of its own. Who owns it brings readings and the time, applies the
verdicts, and comes again at `due` at the latest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from virtflash.health.cause import Cause, beyond_threshold, nothing_known
from virtflash.health.platform_state import PERMISSIONS, PlatformState
from virtflash.health.rule import ALARM, Answer, Rule
from virtflash.health.rule_state import RuleState

Effect = tuple[PlatformState, bool, bool, int | None]


@dataclass(frozen=True)
class Verdict:
    """What holds for a volume.

    `state`: the strictest of the rules in force. `causes`: those that are no mere alarm, the strictest first. `freeze`:
    what is accepted and not stable is left so. `durable`: a rule in force asks that writes be stable when they
    complete, also where a stricter state holds which does not. `write_rate`: bytes a second, while throttled.
    `alarms`: told, nothing else.
    """

    state: PlatformState = PlatformState.NORMAL
    causes: tuple[Cause, ...] = ()
    freeze: bool = False
    durable: bool = False
    write_rate: int | None = None
    alarms: tuple[Cause, ...] = ()

    @property
    def effect(self) -> Effect:
        """What guests feel of it. The words of two verdicts differ with every reading, their effects do not."""
        return self.state, self.freeze, self.durable, self.write_rate


FREE = Verdict()


class InForce(NamedTuple):
    """An answer of a rule, and why."""

    answer: Answer
    cause: Cause
    rule: Rule


class Policy:
    """`volumes`: the flash of each, by name. `start`: as all times, seconds of one clock that does not go back; where
    two callers bring times out of order, the later one counts for both."""

    def __init__(self, rules: Iterable[Rule], volumes: Mapping[str, str], start: float) -> None:
        self._states = [RuleState(rule, start) for rule in rules]
        self._volumes = dict(volumes)
        self._now = start

    @property
    def sensors(self) -> frozenset[str]:
        """That rules are about."""
        return frozenset(state.rule.sensor for state in self._states)

    def take(self, sensor: str, value: float | None, now: float) -> None:
        """A reading, in the unit of its quantity; None: it failed. A sensor that no rule is about changes nothing."""
        now = self._later(now)
        for state in self._states:
            if state.rule.sensor == sensor:
                state.take(value, now)

    def verdicts(self, now: float) -> dict[str, Verdict]:
        """Of every volume."""
        now = self._later(now)
        found = [each for state in self._states for each in in_force(state, now)]
        return {
            volume: verdict([each for each in found if each.rule.concerns(volume, flash)])
            for volume, flash in self._volumes.items()
        }

    def due(self, now: float) -> float | None:
        """When verdicts may change next by themselves, later than now. None: only what a sensor says changes them."""
        now = self._later(now)
        return min((due for state in self._states if (due := state.due(now)) is not None), default=None)

    def change(self, rules: Iterable[Rule], volumes: Mapping[str, str], now: float) -> None:
        """Other rules or volumes, from now on. A rule that stays has its history; a new one begins with what its sensor
        said last, and with when that was, or failed."""
        now = self._later(now)
        before = self._states
        self._states = [continued(rule, before, now) for rule in rules]
        self._volumes = dict(volumes)

    def _later(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now


def continued(rule: Rule, before: Iterable[RuleState], now: float) -> RuleState:
    of_sensor = [state for state in before if state.rule.sensor == rule.sensor]
    for state in of_sensor:
        if state.rule == rule:
            return state
    made = RuleState(rule, of_sensor[0].heard if of_sensor else now)
    for state in of_sensor[:1]:  # all of them heard the same
        if state.reading is not None:
            made.take(state.reading, state.heard)
        if state.failed is not None:
            made.take(None, state.failed)
    return made


def in_force(state: RuleState, now: float) -> Iterator[InForce]:
    """Both answers of a rule may be, one beside the other."""
    if state.in_force_since(now) is not None:
        yield InForce(state.rule.answer, beyond_threshold(state, now), state.rule)
    if state.stale_since(now) is not None and state.rule.on_stale is not PlatformState.NORMAL:
        yield InForce(state.rule.on_stale, nothing_known(state, now), state.rule)


def verdict(found: list[InForce]) -> Verdict:
    """Of all that is in force for one volume."""
    states = [(each.answer, each) for each in found if each.answer is not ALARM]
    strictest = max((answer for answer, _ in states), default=PlatformState.NORMAL)
    by_strictness = sorted(states, key=lambda pair: -pair[0])
    limits = [each.rule.limit for answer, each in states if answer is PlatformState.THROTTLED]
    return Verdict(
        state=strictest,
        causes=once(each.cause for _, each in by_strictness),
        freeze=any(each.rule.freeze and answer >= PlatformState.READ_ONLY for answer, each in states),
        durable=any(PERMISSIONS[answer].durable for answer, _ in states),
        write_rate=min(limits) if strictest is PlatformState.THROTTLED else None,
        alarms=once(each.cause for each in found if each.answer is ALARM),
    )


def once(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """Rules of one sensor say the same of it when it is stale."""
    return tuple(dict.fromkeys(causes))
