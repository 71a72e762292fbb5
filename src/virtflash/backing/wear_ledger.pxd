"""The wear ledger: how many bytes of flash were programmed because of each owner.

What an owner's data took, and what it asked for, is its own. What all pay for (collection, checkpoints) is distributed
by what each had programmed directly; of that, what is older counts half with each distribution, so that who wrote just
before collection came does not pay for all of it.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.ftl.state cimport OWNERS, Ftl

cdef enum:
    LEDGER_WINDOW = 262144  # bytes between two distributions

cdef struct WearLedger:
    uint64_t seen[OWNERS]  # programmed directly, at the last distribution
    uint64_t weight[OWNERS]
    uint64_t share[OWNERS]  # of the overhead
    uint64_t seen_overhead


cdef inline uint64_t update_weights(WearLedger *ledger, const Ftl *ftl) noexcept nogil:
    """Returns their sum."""
    cdef uint64_t total = 0
    cdef uint32_t owner
    for owner in range(OWNERS):
        ledger.weight[owner] = ledger.weight[owner] // 2 + (ftl.programmed.direct[owner] - ledger.seen[owner])
        ledger.seen[owner] = ftl.programmed.direct[owner]
        total += ledger.weight[owner]
    return total


cdef inline void distribute(WearLedger *ledger, const Ftl *ftl) noexcept nogil:
    """The overhead since the last time. What rounding leaves is the last one's; without any weight, nobody's (0)."""
    cdef uint64_t left = ftl.programmed.overhead - ledger.seen_overhead
    cdef uint64_t total = update_weights(ledger, ftl)
    cdef uint64_t part
    cdef uint32_t owner
    ledger.seen_overhead = ftl.programmed.overhead
    for owner in range(OWNERS):
        if ledger.weight[owner] == 0:
            continue
        # Both shrink together: the last one's weight is all of the total, and it takes all that is left.
        part = min(left, <uint64_t>(<double>left * (<double>ledger.weight[owner] / <double>total)))
        part = left if ledger.weight[owner] == total else part
        ledger.share[owner] += part
        left -= part
        total -= ledger.weight[owner]
    ledger.share[0] += left


cdef inline uint64_t overhead_waiting(const WearLedger *ledger, const Ftl *ftl) noexcept nogil:
    return ftl.programmed.overhead - ledger.seen_overhead


cdef inline uint64_t programmed_by(WearLedger *ledger, const Ftl *ftl, uint32_t owner) noexcept nogil:
    """Bytes so far; never less than before. All that waits is less than the window."""
    if owner >= OWNERS:
        return 0
    if overhead_waiting(ledger, ftl) >= LEDGER_WINDOW:
        distribute(ledger, ftl)
    return ftl.programmed.direct[owner] + ledger.share[owner] + (ftl.programmed.nobody if owner == 0 else 0)
