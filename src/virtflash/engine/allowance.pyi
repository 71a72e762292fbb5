"""What a volume may take, as Python sees it: limits set, the budget looked at, and, for tests, requests admitted.

Times are nanoseconds of the monotonic clock. An allowance that a binding serves belongs to its reactor, which `owner`
reaches; what is only for the time before, or for tests, says so.
"""

from collections.abc import Callable
from typing import Any, Literal, TypedDict

WhenSpent = Literal["throttle", "read-only", "alarm"]

class WearState(TypedDict):
    """`paid_ns`: up to when what was spent is paid for; in the past: nothing is owed."""

    paid_ns: int
    mark_ns: int
    spent: bool
    times_spent: int
    amplification: float
    wanted: bool  # is another mark asked for?

class Allowance:
    """Nothing is limited at first. `slack`: bytes that a cache below may hold back.

    `now_ns` of the methods: 0: now.
    """

    def __init__(self, *, slack: int = 0) -> None: ...
    owner: Callable[[Any], None] | None  # runs a capsule "virtflash.engine.Call" on the thread that admits
    capsule: object
    delayed: int  # requests that had to wait
    wear: WearState
    wear_ns_per_byte: float  # 0: no budget
    burst_ns: int  # of wear, with what is kept for requests that go early

    def set_rates(
        self,
        *,
        requests: float = 0,  # a second; 0: no limit
        requests_burst: float = 0,
        transferred: float = 0,  # bytes a second
        transferred_burst: float = 0,
        wear: float = 0,  # bytes of flash a second
        wear_burst: float = 0,
        when_spent: WhenSpent = "throttle",
        ledger_fd: int = -1,
        programmed: int = 0,
        now_ns: int = 0,
    ) -> None:
        """Limits from now on. What was spent stays spent, in bytes. ValueError: a burst of nothing beside a limit.

        ledger_fd: an eventfd. The wear that is spent is noted somewhere then, and not spent beyond what is (`mark`);
        it is written when another mark is wanted, by the first request at the latest. -1: it is not noted.
        programmed: what the flash counts now for the volume, from which a budget counts that was not there before.
        """
    def throttle(self, rate: float, burst: float = 0, now_ns: int = 0) -> None:
        """Bytes a second that may change the medium from now on, whatever the limits; 0: any number. Each request
        counts at least 4 KiB, a discard or an erase 4 KiB. Those that wait go at once. ValueError: a burst of nothing
        beside a rate."""
    write_rate: float  # as `throttle` has set it
    def owe(self, amount: float, now_ns: int = 0) -> None:
        """What was spent before this process began."""
    def owed(self, at_ns: int, now_ns: int = 0) -> float:
        """Bytes that are not paid for yet at a time that `paid_ns` or a mark names."""
    def next_mark(self, now_ns: int = 0) -> int: ...
    def mark(self, mark_ns: int) -> None:
        """It may be spent up to there: that is noted."""
    def left(self, now_ns: int = 0) -> float:
        """Bytes of the wear budget that may be spent at once; negative: debt."""
    # What the data plane does, for tests
    def admit(self, size: int, *, writes: bool, now_ns: int) -> int | None:
        """When a request of so many bytes may begin; None: it is refused. It is taken to begin then."""
    def settle(self, programmed: int, now_ns: int) -> None: ...
    def closed_until(self) -> int | None:
        """Nothing is taken from the rings before; 0: it may be. None: until there is another mark."""
