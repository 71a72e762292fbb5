"""Counters of a queue. One reactor writes them, Python reads them at any time; none is ever reset."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.atomics cimport count_u64
from virtflash.engine.state cimport (
    LATENCY_BUCKETS,
    LATENCY_FLUSH,
    LATENCY_OTHER,
    LATENCY_READ,
    LATENCY_WRITE,
    OP_DISCARD,
    OP_FLUSH,
    OP_READ,
    OP_SECURE_ERASE,
    OP_WRITE,
    OP_WRITE_ZEROES,
    Slot,
    Statistics,
)
from virtflash.engine.virtio cimport BLK_S_OK, BLK_S_UNSUPP, RANGE_FLAG_UNMAP, SECTOR_BYTES

cdef extern from *:
    int __builtin_clzll(unsigned long long) nogil

cdef enum:
    LATENCY_SUB_BITS = 2  # four buckets to each doubling: an error of at most a quarter
    LATENCY_FIRST_BIT = 8  # everything below 256 ns is one bucket


cdef inline uint32_t latency_bucket(uint64_t ns) noexcept nogil:
    cdef uint32_t top
    cdef uint32_t bucket
    if ns < (1 << LATENCY_FIRST_BIT):
        return 0
    top = 63 - __builtin_clzll(ns)
    bucket = ((top - LATENCY_FIRST_BIT) << LATENCY_SUB_BITS) + ((ns >> (top - LATENCY_SUB_BITS)) & 3) + 1
    return bucket if bucket < LATENCY_BUCKETS else LATENCY_BUCKETS - 1


cdef inline uint32_t latency_class(uint32_t operation) noexcept nogil:
    if operation == OP_READ:
        return LATENCY_READ
    if operation == OP_WRITE:
        return LATENCY_WRITE
    return LATENCY_FLUSH if operation == OP_FLUSH else LATENCY_OTHER


cdef inline uint64_t discarded_bytes(Slot *slot) noexcept nogil:
    cdef uint64_t sectors = 0
    cdef uint32_t i
    for i in range(slot.segment_count):
        if slot.operation != OP_WRITE_ZEROES or slot.segments[i].flags & RANGE_FLAG_UNMAP:
            sectors += slot.segments[i].count
    return sectors * SECTOR_BYTES


cdef inline void account(Statistics *statistics, Slot *slot, uint32_t status, uint64_t now_ns) noexcept nogil:
    """Count a completed request. Bytes count when the request succeeded."""
    cdef uint32_t operation = slot.operation
    count_u64(&statistics.requests[operation], 1)
    count_u64(&statistics.latency[latency_class(operation)][latency_bucket(now_ns - slot.started_ns)], 1)
    if status != BLK_S_OK:
        count_u64(&statistics.unsupported if status == BLK_S_UNSUPP else &statistics.errors, 1)
    elif operation == OP_READ:
        count_u64(&statistics.bytes_read, slot.length)
    elif operation == OP_WRITE:
        count_u64(&statistics.bytes_written, slot.length)
    elif operation == OP_DISCARD or operation == OP_WRITE_ZEROES or operation == OP_SECURE_ERASE:
        count_u64(&statistics.bytes_discarded, discarded_bytes(slot))
