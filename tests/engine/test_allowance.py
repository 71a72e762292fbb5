"""What a volume may take: buckets, a wear budget that follows what was programmed, marks; the clock is the test's.

The bounds are those that docs/volumes.md promises.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.engine.allowance import Allowance

SECOND = 1_000_000_000
START = 1000 * SECOND
MIB = 1 << 20


@dataclass
class Begun:
    """What began, and when."""

    events: list[tuple[int, float]] = field(default_factory=list)

    def add(self, at_ns: int, amount: float) -> None:
        self.events.append((at_ns, amount))

    def most_beyond(self, rate: float) -> float:
        """The most that any interval holds beyond rate x its length."""
        self.events.sort()
        worst = best = 0.0
        before = None
        for at, amount in self.events:
            if before is not None:
                best = max(best - rate * (at - before) / SECOND, 0)
            best += amount
            worst, before = max(worst, best), at
        return worst


steps = st.lists(
    st.tuples(
        st.integers(0, 3 * SECOND), st.integers(0, 4 * MIB), st.booleans(), st.sampled_from(["", "", "", "stop"])
    ),
    max_size=60,
)


@given(steps, st.sampled_from([0.5, 3, 40]), st.integers(1, 20))
def test_requests_in_any_interval(history: list[tuple[int, int, bool, str]], rate: float, burst: int) -> None:
    """Burst + rate x time + one request, also where rings stop and what waits goes early."""
    allowance = Allowance()
    allowance.set_rates(requests=rate, requests_burst=burst, now_ns=START)
    begun, held, now = Begun(), [], START
    for wait, size, writes, event in history:
        now += wait
        for at in held:
            if at <= now or event == "stop":
                begun.add(min(at, now), 1)
        held = [at for at in held if at > now and event != "stop"]
        if (allowance.closed_until() or 0) > now:
            continue
        ready = allowance.admit(size, writes=writes, now_ns=now)
        assert ready is not None
        held.append(ready)
    for at in held:
        begun.add(at, 1)
    assert begun.most_beyond(rate) <= burst + 1 + 1e-3


@given(steps, st.sampled_from([MIB / 10, 2.0 * MIB]), st.integers(1, 8))
def test_bytes_in_any_interval(history: list[tuple[int, int, bool, str]], rate: float, burst: int) -> None:
    allowance = Allowance()
    allowance.set_rates(transferred=rate, transferred_burst=burst * MIB, now_ns=START)
    begun, now = Begun(), START
    for wait, size, writes, _ in history:
        now += wait
        ready = allowance.admit(size, writes=writes, now_ns=now)
        assert ready is not None and ready >= now
        begun.add(ready, size)
    assert begun.most_beyond(rate) <= burst * MIB + 4 * MIB + 4096


@dataclass
class Flash:
    """Programs what is written behind a cache, and collects when it likes."""

    cache: int
    programmed: float = 0
    cached: float = 0

    def write(self, size: float) -> float:
        """Returns what that programmed."""
        self.cached += size
        out = max(self.cached - self.cache, 0)
        self.cached -= out
        self.programmed += out
        return out

    def collect(self, size: float) -> float:
        self.programmed += size
        return size


wear_steps = st.lists(
    st.tuples(st.integers(0, 20 * SECOND), st.integers(1, MIB), st.integers(0, 3 * MIB)), min_size=1, max_size=80
)


@given(wear_steps, st.sampled_from([MIB / 50, MIB / 2]), st.sampled_from([0, MIB]))
def test_programmed_bytes_in_any_interval(history: list[tuple[int, int, int]], rate: float, cache: int) -> None:
    """Burst + rate x time + one request + what collection programs between two admissions."""
    burst, flash = 8 * MIB, Flash(cache)
    allowance = Allowance(slack=cache)
    allowance.set_rates(wear=rate, wear_burst=burst, now_ns=START)
    programmed, now, reserve = Begun(), START, 0
    for wait, size, collected in history:
        now += wait
        allowance.settle(int(flash.programmed), now)
        ready = allowance.admit(size, writes=True, now_ns=now)
        assert ready is not None
        now = max(now, ready)  # one guest, that waits for its request
        programmed.add(now, flash.write(size))
        programmed.add(now, flash.collect(collected))
        reserve = max(reserve, collected)
    assert programmed.most_beyond(rate) <= burst + MIB + reserve + cache + 4096


def test_an_idle_bucket_saves_up_its_burst_and_no_more() -> None:
    allowance = Allowance()
    allowance.set_rates(requests=1, requests_burst=4, now_ns=START)
    later = START + 1000 * SECOND
    at_once = [allowance.admit(0, writes=False, now_ns=later) == later for _ in range(5)]
    assert at_once == [True, True, True, False, False]  # a quarter of the burst is kept for those that go early
    assert allowance.delayed == 2


def test_those_that_wait_go_one_after_the_other() -> None:
    allowance = Allowance()
    allowance.set_rates(requests=2, requests_burst=4, now_ns=START)
    ready = [allowance.admit(0, writes=False, now_ns=START) for _ in range(6)]
    assert [round((at - START) / SECOND, 6) for at in ready if at is not None] == [0, 0, 0, 0.5, 1, 1.5]


WEAR = {"wear": 1.0 * MIB, "wear_burst": 8.0 * MIB}


def test_a_budget_that_follows_the_flash() -> None:
    """Collection that was not foreseen is owed; what was never programmed is given back."""
    allowance = Allowance()
    allowance.set_rates(**WEAR, now_ns=START)
    allowance.admit(MIB, writes=True, now_ns=START)
    assert allowance.left(START) == pytest.approx(7 * MIB)
    allowance.settle(3 * MIB, START)
    assert allowance.left(START) == pytest.approx(5 * MIB)
    allowance.admit(MIB, writes=True, now_ns=START)
    allowance.settle(3 * MIB, START)
    assert allowance.left(START) == pytest.approx(5 * MIB)


def test_what_the_cache_holds_is_not_given_back() -> None:
    allowance = Allowance(slack=2 * MIB)
    allowance.set_rates(**WEAR, now_ns=START)
    allowance.admit(3 * MIB, writes=True, now_ns=START)
    allowance.settle(0, START)
    assert allowance.left(START) == pytest.approx(6 * MIB)


def test_the_amplification_is_learned() -> None:
    allowance = Allowance()
    allowance.set_rates(wear=1e9, wear_burst=1e12, now_ns=START)
    for number in range(1, 40):
        allowance.admit(MIB, writes=True, now_ns=START)
        allowance.settle(3 * number * MIB, START)
    assert allowance.wear["amplification"] == pytest.approx(3, rel=0.01)


def test_a_spent_budget_refuses_until_some_of_it_is_back() -> None:
    allowance = Allowance()
    allowance.set_rates(**WEAR, when_spent="read-only", now_ns=START)
    answers = [allowance.admit(MIB, writes=True, now_ns=START) for _ in range(9)]
    assert [answer is not None for answer in answers] == [True] * 7 + [False] * 2
    assert allowance.wear["spent"] and allowance.wear["times_spent"] == 1
    assert allowance.admit(MIB, writes=False, now_ns=START) is not None
    assert allowance.admit(MIB, writes=True, now_ns=START + SECOND // 2) is None
    assert allowance.admit(MIB, writes=True, now_ns=START + 3 * SECOND) is not None
    assert not allowance.wear["spent"]


def test_an_alarm_holds_up_nobody() -> None:
    allowance = Allowance()
    allowance.set_rates(**WEAR, when_spent="alarm", now_ns=START)
    assert all(allowance.admit(MIB, writes=True, now_ns=START) == START for _ in range(30))
    assert allowance.wear["spent"]
    assert allowance.left(START) == pytest.approx(-22 * MIB)


def test_reads_cost_no_wear_and_trims_wait_for_debt() -> None:
    allowance = Allowance()
    allowance.set_rates(**WEAR, now_ns=START)
    allowance.settle(12 * MIB, START)
    assert allowance.admit(MIB, writes=False, now_ns=START) == START
    assert allowance.admit(0, writes=True, now_ns=START) == START + 6 * SECOND


def test_new_rates_forget_nothing_that_was_spent() -> None:
    allowance = Allowance()
    allowance.set_rates(**WEAR, now_ns=START)
    allowance.admit(4 * MIB, writes=True, now_ns=START)
    allowance.set_rates(wear=MIB / 4, wear_burst=16 * MIB, now_ns=START)
    assert allowance.left(START) == pytest.approx(12 * MIB)


def test_a_burst_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="burst"):
        Allowance().set_rates(requests=5)


@pytest.fixture
def ledger() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield fd
    os.close(fd)


def was_asked(fd: int) -> bool:
    try:
        return os.eventfd_read(fd) > 0
    except BlockingIOError:
        return False


def is_open(allowance: Allowance) -> bool:
    until = allowance.closed_until()
    return until is not None and until <= START


def test_nothing_is_spent_beyond_the_mark(ledger: int) -> None:
    allowance = Allowance()
    allowance.set_rates(**{**WEAR, "wear_burst": 16.0 * MIB}, ledger_fd=ledger, now_ns=START)
    allowance.mark(allowance.next_mark(START))
    assert not was_asked(ledger)
    allowance.admit(MIB // 2, writes=True, now_ns=START)
    assert not was_asked(ledger) and is_open(allowance)
    allowance.admit(MIB, writes=True, now_ns=START)
    assert was_asked(ledger) and is_open(allowance)
    allowance.admit(MIB, writes=True, now_ns=START)
    assert not was_asked(ledger)  # once is enough
    assert allowance.closed_until() is None
    allowance.mark(allowance.next_mark(START))
    assert is_open(allowance)
    assert allowance.owed(allowance.wear["mark_ns"], START) == pytest.approx(4.5 * MIB)


@given(st.lists(st.integers(1, 3 * MIB), max_size=30))
def test_what_the_marks_say_is_never_less_than_what_was_spent(sizes: list[int]) -> None:
    """Whoever starts after a cut takes the mark for what was spent."""
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        allowance = Allowance()
        allowance.set_rates(**WEAR, ledger_fd=fd, now_ns=START)
        noted = allowance.next_mark(START)
        allowance.mark(noted)
        for spent, size in zip(accumulate(sizes), sizes, strict=True):
            if allowance.closed_until() is None:
                noted = allowance.next_mark(START)
                allowance.mark(noted)
            allowance.admit(size, writes=True, now_ns=START)
            assert allowance.owed(noted, START) >= spent - 3 * MIB - 1  # one request may go beyond
    finally:
        os.close(fd)


def test_what_is_owed_from_before_is_noted_already(ledger: int) -> None:
    allowance = Allowance()
    allowance.set_rates(**WEAR, ledger_fd=ledger, now_ns=START)
    allowance.owe(2 * MIB, START)
    assert is_open(allowance)
    assert allowance.left(START) == pytest.approx(6 * MIB)


@pytest.mark.parametrize("when_spent", ["throttle", "read-only"])
def test_debt_beyond_the_mark_asks_for_another(ledger: int, when_spent: Any) -> None:
    """Collection may go beyond it at any time; nobody would be woken otherwise."""
    allowance = Allowance()
    allowance.set_rates(**WEAR, when_spent=when_spent, ledger_fd=ledger, now_ns=START)
    allowance.settle(9 * MIB, START)
    allowance.admit(1, writes=True, now_ns=START)
    assert was_asked(ledger) and not is_open(allowance)
    allowance.mark(START + 1)  # what was noted meanwhile is too little
    assert was_asked(ledger)
    allowance.mark(allowance.next_mark(START))
    assert is_open(allowance) or when_spent == "throttle"


def test_a_budget_counts_from_when_it_is_set() -> None:
    """What a volume has cost its flash before is not owed to it, nor what it cost while there was none."""
    allowance = Allowance()
    allowance.set_rates(now_ns=START)
    allowance.admit(MIB, writes=True, now_ns=START)
    allowance.set_rates(**WEAR, programmed=500 * MIB, now_ns=START)
    allowance.settle(500 * MIB, START)
    assert allowance.left(START) == pytest.approx(8 * MIB)
    allowance.settle(501 * MIB, START)
    allowance.set_rates(**WEAR, programmed=999 * MIB, now_ns=START)  # one that was there counts on
    allowance.settle(502 * MIB, START)
    assert allowance.left(START) == pytest.approx(6 * MIB)
