"""Why a volume is in a state, in words."""

from typing import NamedTuple

from virtflash.health.rule_state import RuleState

STEPS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "h"), (2 * 60, 60, "min"))  # from how many seconds on


class Cause(NamedTuple):
    """`rule`: its name, the same for as long as it holds; `words`: as it stands now."""

    rule: str
    words: str


def beyond_threshold(state: RuleState, now: float) -> Cause:
    """Of a rule whose condition holds."""
    rule, reading, began = state.rule, state.reading, state.began
    assert reading is not None and began is not None
    limit, time = f"{rule.side} {rule.show(rule.threshold)}", lasted(now - began)
    if rule.is_beyond(reading):
        return Cause(rule.name, f"{rule.sensor} is {rule.show(reading)}, {limit} since {time}")
    held = f"went {limit} {time} ago, and holds until {rule.show(rule.until)}"
    return Cause(rule.name, f"{rule.sensor} is {rule.show(reading)}, {held}")


def nothing_known(state: RuleState, now: float) -> Cause:
    """Of a rule whose sensor has failed, or is stale. In the same words for all rules of one sensor."""
    name = f"{state.rule.sensor} stale"
    if state.failed is not None:
        return Cause(name, f"{state.rule.sensor} has failed, {lasted(now - state.failed)} ago")
    silent = lasted(now - state.heard)
    since = f"for {silent}" if state.reading is not None else f"since the start, {silent} ago"
    return Cause(name, f"{state.rule.sensor} has given no reading {since}")


def lasted(seconds: float) -> str:
    for least, length, unit in STEPS:
        if seconds >= least:
            return f"{seconds // length:.0f} {unit}"
    return f"{round(seconds, 2):g} s"
