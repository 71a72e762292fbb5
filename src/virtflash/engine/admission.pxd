"""What a volume may take: requests and bytes a second, and how much flash may be programmed for it a day.

**Wear** is charged when a write is admitted, as the guest's bytes times the write amplification of the moment. What the
flash counts for the volume (`Target.programmed`) corrects it before each write: what collection cost beyond becomes
debt, and what the cache saved is given back. Of what was charged, `slack` may not be programmed yet: the cache has it.

What was spent must outlive this process. `mark_ns` is noted on the flash: up to there the budget may be spent, and
whoever starts next takes it for spent. When half of the way to it is gone the ledger is asked for a new one; beyond it
nothing is taken from the ring. Everything here is the reactor's: the control plane changes it through a call.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.atomics cimport exchange_u32
from virtflash.engine.system cimport write
from virtflash.engine.token_bucket cimport (
    Bucket,
    give_back,
    is_empty,
    open_again_ns,
    pay_later,
    reserve,
)

cdef enum:
    SPENT_THROTTLE
    SPENT_READ_ONLY
    SPENT_ALARM

cdef enum:
    AMPLIFICATION_WINDOW = 1048576  # bytes that a guest writes between two looks at the amplification
    TRIM_BYTES = 4096  # that a discard or an erase counts for, where writes are throttled
    RECOVERED_SHARE = 8  # one in so many of the burst has to be there again before a spent budget counts as restored

cdef extern from *:
    """
    #define NEVER_NS UINT64_MAX
    #define AMPLIFICATION_LEAST 0.1  /* a cache may save nine of ten */
    #define AMPLIFICATION_MOST 64.0
    """
    const uint64_t NEVER_NS
    const double AMPLIFICATION_LEAST
    const double AMPLIFICATION_MOST

cdef struct Allowance:
    Bucket requests
    Bucket bytes
    Bucket wear
    Bucket writes  # bytes that change the medium, while the platform throttles
    uint32_t when_spent
    uint32_t spent  # shared
    uint64_t times_spent
    uint64_t delayed  # requests that had to wait
    double amplification
    double slack  # bytes that the cache may hold
    double charged  # bytes of flash, for what was begun
    uint64_t programmed  # as last told by the flash
    uint64_t begun  # bytes of guests' writes, since the last look at the amplification
    uint64_t programmed_then
    bint marked  # is what is spent noted on the flash?
    uint64_t mark_ns
    uint64_t step_ns  # from one mark to the next
    int ledger_fd  # an eventfd, of whoever notes it
    uint32_t asked  # shared: it was written to
    bint released  # limits have changed: those that wait may go


cdef inline void learn_amplification(Allowance *allowance, uint64_t programmed) noexcept nogil:
    cdef double fresh
    if allowance.begun < AMPLIFICATION_WINDOW:
        return
    fresh = <double>(programmed - allowance.programmed_then) / <double>allowance.begun
    fresh = min(max(fresh, AMPLIFICATION_LEAST), AMPLIFICATION_MOST)
    allowance.amplification = (3 * allowance.amplification + fresh) / 4
    allowance.programmed_then, allowance.begun = programmed, 0


cdef inline void settle(Allowance *allowance, uint64_t now_ns, uint64_t programmed) noexcept nogil:
    """What was charged becomes what was programmed, but for what may still be on its way."""
    cdef double behind = <double>(programmed - allowance.programmed) - allowance.charged
    cdef double excess = -behind - allowance.slack * allowance.amplification
    if behind > 0:
        pay_later(&allowance.wear, now_ns, behind)
        allowance.programmed, allowance.charged = programmed, 0
    elif excess > 0:
        give_back(&allowance.wear, now_ns, excess)
        allowance.charged -= excess
    learn_amplification(allowance, programmed)


cdef inline void look_whether_spent(Allowance *allowance, uint64_t now_ns) noexcept nogil:
    """With some distance between the two, so that it does not flap."""
    cdef Bucket *wear = &allowance.wear
    if not allowance.spent:
        if is_empty(wear, now_ns):
            allowance.spent = True
            allowance.times_spent += 1
    elif wear.paid_ns <= now_ns + wear.burst_ns - wear.burst_ns // RECOVERED_SHARE:
        allowance.spent = False


cdef inline void ask_ledger(Allowance *allowance) noexcept nogil:
    cdef uint64_t one = 1
    if not allowance.marked or allowance.wear.paid_ns + allowance.step_ns // 2 <= allowance.mark_ns:
        return
    if exchange_u32(&allowance.asked, 1) == 0:
        write(allowance.ledger_fd, &one, sizeof(one))


cdef inline uint64_t admit_wear(Allowance *allowance, uint64_t now_ns, double bytes) noexcept nogil:
    """When a write that programs so many bytes, about, may begin; NEVER_NS: it is refused."""
    cdef uint64_t ready_ns
    if allowance.when_spent == SPENT_READ_ONLY:
        look_whether_spent(allowance, now_ns)
        if allowance.spent:
            ask_ledger(allowance)  # debt alone may have led beyond the mark
            return NEVER_NS
    ready_ns = reserve(&allowance.wear, now_ns, bytes)
    look_whether_spent(allowance, now_ns)
    ask_ledger(allowance)
    return ready_ns if allowance.when_spent == SPENT_THROTTLE else now_ns


cdef inline uint64_t admit(
    Allowance *allowance, uint64_t now_ns, uint64_t transferred, bint writes, double *wear
) noexcept nogil:
    """When a request may begin; NEVER_NS: it is refused. `transferred`: bytes read or written. `writes`: it changes
    data. `wear`: what was reserved for it, which `begin_charged` is told when it begins. Wear comes first: what is
    refused takes nothing."""
    cdef uint64_t ready_ns = now_ns
    wear[0] = 0
    if writes and allowance.wear.ns_per_unit > 0:
        wear[0] = transferred * allowance.amplification
        ready_ns = admit_wear(allowance, now_ns, wear[0])
        if ready_ns == NEVER_NS:
            return ready_ns
    if allowance.requests.ns_per_unit > 0:
        ready_ns = max(ready_ns, reserve(&allowance.requests, now_ns, 1))
    if allowance.bytes.ns_per_unit > 0 and transferred:
        ready_ns = max(ready_ns, reserve(&allowance.bytes, now_ns, transferred))
    if allowance.writes.ns_per_unit > 0 and writes:
        ready_ns = max(ready_ns, reserve(&allowance.writes, now_ns, max(transferred, TRIM_BYTES)))
    allowance.delayed += ready_ns > now_ns
    return ready_ns


cdef inline void begin_charged(Allowance *allowance, uint64_t written, double wear) noexcept nogil:
    """An admitted request begins."""
    allowance.charged += wear
    allowance.begun += written


cdef inline void take_back(Allowance *allowance, uint64_t now_ns, double wear) noexcept nogil:
    """An admitted request does not begin after all."""
    if wear > 0:
        give_back(&allowance.wear, now_ns, wear)


cdef inline bint is_beyond_mark(const Allowance *allowance) noexcept nogil:
    if not allowance.marked or allowance.when_spent == SPENT_ALARM:
        return False
    return allowance.wear.paid_ns > allowance.mark_ns


cdef inline uint64_t closed_until(const Allowance *allowance) noexcept nogil:
    """When something may be taken from the volume's rings again; NEVER_NS: when somebody says so."""
    cdef uint64_t until = open_again_ns(&allowance.requests) if allowance.requests.ns_per_unit > 0 else 0
    if allowance.bytes.ns_per_unit > 0:
        until = max(until, open_again_ns(&allowance.bytes))
    if allowance.writes.ns_per_unit > 0:
        until = max(until, open_again_ns(&allowance.writes))
    if allowance.wear.ns_per_unit > 0 and allowance.when_spent == SPENT_THROTTLE:
        until = max(until, open_again_ns(&allowance.wear))
    if is_beyond_mark(allowance):
        until = NEVER_NS
    return until
