"""A token bucket, kept as a time: up to when what was taken is paid for, at so many nanoseconds a unit.

What is taken moves that time on, and time passing catches up with it. Up to `burst_ns` ahead of now, whoever asks goes
at once; beyond, he waits. He has reserved his place then: those that wait go one after the other, each at its time, and
never all at once. (The generic cell rate algorithm, in its virtual scheduling form: ITU-T I.371.)

Who waits may have to go early, when his ring stops. A part of the burst, `hold_ns`, is kept for that: while no more
waits than it allows, what was begun in any interval stays within burst_ns + hold_ns + the interval + one request.
"""

from libc.stdint cimport uint64_t

cdef struct Bucket:
    double ns_per_unit  # 0: no limit
    uint64_t burst_ns
    uint64_t hold_ns
    uint64_t paid_ns  # on the monotonic clock; in the past: the bucket is full


cdef inline uint64_t price(const Bucket *bucket, double units) noexcept nogil:
    """In nanoseconds; of what would take centuries, one."""
    cdef double ns = units * bucket.ns_per_unit
    return <uint64_t>ns if ns < 3e18 else 3000000000000000000


cdef inline uint64_t reserve(Bucket *bucket, uint64_t now_ns, double units) noexcept nogil:
    """Take so many units; returns when that may begin. What is more than the whole bucket waits until it is full."""
    cdef uint64_t cost = price(bucket, units)
    cdef uint64_t paid = max(bucket.paid_ns, now_ns)
    cdef uint64_t ready = paid + min(cost, bucket.burst_ns)
    bucket.paid_ns = paid + cost
    return max(now_ns, ready - bucket.burst_ns) if ready > bucket.burst_ns else now_ns


cdef inline void pay_later(Bucket *bucket, uint64_t now_ns, double units) noexcept nogil:
    """They were taken already."""
    bucket.paid_ns = max(bucket.paid_ns, now_ns) + price(bucket, units)


cdef inline void give_back(Bucket *bucket, uint64_t now_ns, double units) noexcept nogil:
    """They were not needed after all."""
    cdef uint64_t back = price(bucket, units)
    cdef uint64_t paid = max(bucket.paid_ns, now_ns)
    bucket.paid_ns = paid - back if paid > now_ns + back else now_ns


cdef inline bint is_empty(const Bucket *bucket, uint64_t now_ns) noexcept nogil:
    """Would a request have to wait?"""
    return bucket.paid_ns > now_ns + bucket.burst_ns


cdef inline uint64_t open_again_ns(const Bucket *bucket) noexcept nogil:
    """When no more waits than may go early; earlier, nothing more is to be taken on. 0: at any time."""
    cdef uint64_t allowed = bucket.burst_ns + bucket.hold_ns
    return bucket.paid_ns - allowed if bucket.paid_ns > allowed else 0
