# cython: language_level=3
"""The allowance of a volume as Python sees it; the types and errors are described in `allowance.pyi`."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.backing.target cimport Call

from virtflash.engine.admission cimport (
    NEVER_NS,
    SPENT_ALARM,
    SPENT_READ_ONLY,
    SPENT_THROTTLE,
    Allowance as State,
    admit,
    ask_ledger,
    begin_charged,
    closed_until,
    settle,
)
from virtflash.engine.atomics cimport exchange_u32, load_relaxed_u32, load_relaxed_u64
from virtflash.engine.system cimport monotonic_ns
from virtflash.engine.token_bucket cimport Bucket, pay_later

WHEN_SPENT = {"throttle": SPENT_THROTTLE, "read-only": SPENT_READ_ONLY, "alarm": SPENT_ALARM}

cdef enum:
    HOLD_SHARE = 4  # of a burst that is kept for requests that have to go early: one in so many
    STEP_SHARE = 8  # of a burst that lies between two marks: one in so many
    SECOND_NS = 1000000000


# Rates in units a second, 0: no limit; bursts in units.
cdef struct Rates:
    State *state
    double requests
    double requests_burst
    double bytes
    double bytes_burst
    double wear
    double wear_burst
    uint32_t when_spent
    int ledger_fd
    uint64_t programmed
    uint64_t now_ns


# What the platform lets pass.
cdef struct Throttle:
    State *state
    double rate
    double burst
    uint64_t now_ns


# A mark that is noted.
cdef struct Mark:
    State *state
    uint64_t mark_ns


# What is owed from before.
cdef struct Debt:
    State *state
    double amount
    uint64_t now_ns


cdef void fill(Bucket *bucket, double rate, double burst, uint64_t now_ns) noexcept nogil:
    """What was taken stays taken, in units."""
    cdef double owed = 0
    if bucket.ns_per_unit > 0 and bucket.paid_ns > now_ns:
        owed = <double>(bucket.paid_ns - now_ns) / bucket.ns_per_unit
    memset(bucket, 0, sizeof(Bucket))
    if rate <= 0:
        return
    bucket.ns_per_unit = SECOND_NS / rate
    bucket.hold_ns = <uint64_t>(burst * bucket.ns_per_unit / HOLD_SHARE)
    bucket.burst_ns = <uint64_t>(burst * bucket.ns_per_unit) - bucket.hold_ns
    pay_later(bucket, now_ns, owed)


cdef void apply_rates(void *argument) noexcept nogil:
    """On the thread that admits."""
    cdef Rates *rates = <Rates *>argument
    cdef State *state = rates.state
    if state.wear.ns_per_unit <= 0:  # what was programmed without a budget is not owed to the first one
        state.programmed = state.programmed_then = rates.programmed
        state.charged, state.begun = 0, 0
    fill(&state.requests, rates.requests, rates.requests_burst, rates.now_ns)
    fill(&state.bytes, rates.bytes, rates.bytes_burst, rates.now_ns)
    fill(&state.wear, rates.wear, rates.wear_burst, rates.now_ns)
    state.when_spent, state.released = rates.when_spent, True
    state.ledger_fd, state.marked = rates.ledger_fd, rates.wear > 0 and rates.ledger_fd >= 0
    state.mark_ns = state.wear.paid_ns  # the first request asks for another one
    state.step_ns = (state.wear.burst_ns + state.wear.hold_ns) // STEP_SHARE
    if rates.wear <= 0:
        exchange_u32(&state.spent, 0)


cdef void apply_throttle(void *argument) noexcept nogil:
    """Those that wait go at once, and the next ones wait instead: a new rate owes nothing."""
    cdef Throttle *throttle = <Throttle *>argument
    throttle.state.writes.paid_ns = 0
    fill(&throttle.state.writes, throttle.rate, throttle.burst, throttle.now_ns)
    throttle.state.released = True


cdef void apply_mark(void *argument) noexcept nogil:
    cdef Mark *mark = <Mark *>argument
    mark.state.mark_ns = mark.mark_ns
    exchange_u32(&mark.state.asked, 0)
    ask_ledger(mark.state)  # more may have been spent while it was noted


cdef void apply_debt(void *argument) noexcept nogil:
    cdef Debt *debt = <Debt *>argument
    pay_later(&debt.state.wear, debt.now_ns, debt.amount)
    debt.state.mark_ns = debt.state.wear.paid_ns  # that much is noted


cdef class Allowance:
    """See allowance.pyi."""

    cdef State state
    cdef readonly object capsule  # for a binding
    cdef public object owner  # runs a call on the thread that admits; None: whoever calls does

    def __cinit__(self):
        memset(&self.state, 0, sizeof(State))

    def __init__(self, *, double slack=0):
        self.state.slack = slack
        self.state.amplification = 1
        self.state.ledger_fd = -1
        self.capsule = PyCapsule_New(&self.state, "virtflash.engine.Allowance", NULL)

    @property
    def delayed(self):
        return load_relaxed_u64(&self.state.delayed)

    @property
    def wear_ns_per_byte(self):
        return self.state.wear.ns_per_unit

    @property
    def burst_ns(self):
        return self.state.wear.burst_ns + self.state.wear.hold_ns

    @property
    def wear(self):
        return {
            "paid_ns": load_relaxed_u64(&self.state.wear.paid_ns),
            "mark_ns": load_relaxed_u64(&self.state.mark_ns),
            "spent": load_relaxed_u32(&self.state.spent) != 0,
            "times_spent": load_relaxed_u64(&self.state.times_spent),
            "amplification": self.state.amplification,
            "wanted": load_relaxed_u32(&self.state.asked) != 0,
        }

    def set_rates(
        self,
        *,
        double requests=0,
        double requests_burst=0,
        double transferred=0,
        double transferred_burst=0,
        double wear=0,
        double wear_burst=0,
        str when_spent="throttle",
        int ledger_fd=-1,
        uint64_t programmed=0,
        uint64_t now_ns=0,
    ):
        cdef Rates rates = Rates(
            &self.state, requests, requests_burst, transferred, transferred_burst, wear, wear_burst,
            WHEN_SPENT[when_spent], ledger_fd, programmed, now_ns or monotonic_ns(),
        )
        for rate, burst in ((requests, requests_burst), (transferred, transferred_burst), (wear, wear_burst)):
            if rate > 0 and burst <= 0:
                raise ValueError("a burst of nothing lets nothing pass")
        self._run(apply_rates, &rates)

    def throttle(self, double rate, double burst=0, uint64_t now_ns=0):
        cdef Throttle throttle = Throttle(&self.state, rate, burst, now_ns or monotonic_ns())
        if rate > 0 and burst <= 0:
            raise ValueError("a burst of nothing lets nothing pass")
        self._run(apply_throttle, &throttle)

    @property
    def write_rate(self):
        return 0.0 if self.state.writes.ns_per_unit <= 0 else SECOND_NS / self.state.writes.ns_per_unit

    cdef _run(self, void (*function)(void *argument) noexcept nogil, void *argument):
        cdef Call call
        call.function, call.argument = function, argument
        if self.owner is None:
            function(argument)
        else:
            self.owner(PyCapsule_New(&call, "virtflash.engine.Call", NULL))

    def owe(self, double amount, uint64_t now_ns=0):
        cdef Debt debt = Debt(&self.state, amount, now_ns or monotonic_ns())
        self._run(apply_debt, &debt)

    def owed(self, uint64_t at_ns, uint64_t now_ns=0):
        cdef uint64_t now = now_ns or monotonic_ns()
        if self.state.wear.ns_per_unit <= 0 or at_ns <= now:
            return 0.0
        return <double>(at_ns - now) / self.state.wear.ns_per_unit

    def next_mark(self, uint64_t now_ns=0):
        return max(self.state.wear.paid_ns, now_ns or monotonic_ns()) + self.state.step_ns

    def mark(self, uint64_t mark_ns):
        cdef Mark mark = Mark(&self.state, mark_ns)
        self._run(apply_mark, &mark)

    def left(self, uint64_t now_ns=0):
        cdef uint64_t now = now_ns or monotonic_ns()
        cdef uint64_t paid = max(self.state.wear.paid_ns, now)
        if self.state.wear.ns_per_unit <= 0:
            return 0.0
        return (<double>self.burst_ns - <double>(paid - now)) / self.state.wear.ns_per_unit

    # What the data plane does

    def admit(self, uint64_t size, *, bint writes, uint64_t now_ns):
        cdef double wear
        cdef uint64_t ready_ns = admit(&self.state, now_ns, size, writes, &wear)
        if ready_ns == NEVER_NS:
            return None
        begin_charged(&self.state, size if writes else 0, wear)
        return ready_ns

    def settle(self, uint64_t programmed, uint64_t now_ns):
        settle(&self.state, now_ns, programmed)

    def closed_until(self):
        cdef uint64_t until = closed_until(&self.state)
        return None if until == NEVER_NS else until
