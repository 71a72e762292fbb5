"""Whether to look at the rings a little longer before sleeping, and for how long.

Being woken costs a microsecond on one machine and thirty on another, so the window is learned: a sleep that ends within
POLL_WINDOW_MAX_NS was not worth it and widens the window, a longer one narrows it, and a driver that comes once a
millisecond finds none. Storage that makes the reactor sleep by itself outweighs a wake-up: then polling only burns CPU.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.state cimport ReactorState
from virtflash.engine.system cimport cpu_relax, monotonic_ns

cdef enum:
    POLL_WINDOW_MIN_NS = 4000
    POLL_WINDOW_MAX_NS = 64000
    POLL_CREDIT_MAX = 8
    POLL_RETRY = 64  # sleeps after which polling is tried again although it did not pay before


cdef inline bint io_under_way(const ReactorState *reactor) noexcept nogil:
    cdef uint32_t i
    for i in range(reactor.queue_count):
        if reactor.queues[i].in_flight:
            return True
    return False


cdef inline void begin_idling(ReactorState *reactor) noexcept nogil:
    """Nothing happened in this turn for the first time: choose how long to go on looking."""
    reactor.waits_for_storage = io_under_way(reactor)
    reactor.idle_since_ns = monotonic_ns()
    reactor.poll_until_ns = reactor.idle_since_ns
    if not reactor.waits_for_storage and not reactor.storage_slept and reactor.poll_credit > 0:
        reactor.poll_until_ns += reactor.poll_window_ns
    if not reactor.waits_for_storage:
        reactor.slow_storage = reactor.storage_slept
        reactor.storage_slept = False


cdef inline bint keep_polling(ReactorState *reactor) noexcept nogil:
    """Nothing happened in this turn. Look again before sleeping?"""
    if reactor.idle_since_ns == 0:
        begin_idling(reactor)
    if monotonic_ns() < reactor.poll_until_ns:
        cpu_relax()
        return True
    if reactor.poll_until_ns - reactor.idle_since_ns >= POLL_WINDOW_MAX_NS:
        reactor.poll_credit -= 1  # a wider window there is none: perhaps the driver needs the processor that we hold
    return False


cdef inline void poll_paid(ReactorState *reactor) noexcept nogil:
    """Something happened. If we were looking for it, looking was right."""
    if reactor.idle_since_ns and reactor.poll_credit < POLL_CREDIT_MAX:
        reactor.poll_credit += 1
    reactor.idle_since_ns = 0


cdef inline void learn_from_sleep(ReactorState *reactor, uint64_t slept_ns) noexcept nogil:
    """Called after each sleep: widen or narrow the window."""
    reactor.idle_since_ns = 0
    if reactor.waits_for_storage:
        reactor.storage_slept = reactor.slow_storage = True
        return
    if slept_ns >= POLL_WINDOW_MAX_NS:
        reactor.poll_window_ns = reactor.poll_window_ns // 2 if reactor.poll_window_ns > POLL_WINDOW_MIN_NS else 0
    elif reactor.poll_window_ns < POLL_WINDOW_MAX_NS:
        reactor.poll_window_ns = 2 * reactor.poll_window_ns if reactor.poll_window_ns else POLL_WINDOW_MIN_NS
    if reactor.wakeups % POLL_RETRY == 0 and reactor.poll_credit <= 0:
        reactor.poll_credit = 1
