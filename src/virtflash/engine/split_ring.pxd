"""The split virtqueue, device side (virtio 1.4 §2.7): taking heads, giving them back, and who has to wake whom.

A packed ring (§2.8) is a second module with the same verbs: `ring_pending`, `ring_take`, `ring_give`, `ring_publish`,
`ring_wants_interrupt`, `ring_allow_kicks`, `ring_forbid_kicks`. Indices are 16 bits and wrap; a difference of two of
them, cut to 16 bits, is a count.
"""

from libc.stdint cimport uint16_t, uint32_t

from virtflash.engine.atomics cimport (
    event_passed,
    fence_full,
    load_acquire_u16,
    load_relaxed_u16,
    store_relaxed_u16,
    store_release_u16,
)
from virtflash.engine.state cimport SplitRing
from virtflash.engine.virtio cimport (
    AVAIL_F_NO_INTERRUPT,
    RING_HEADER_BYTES,
    USED_ELEMENT_BYTES,
    USED_F_NO_NOTIFY,
)

cdef enum:
    INDEX_OFFSET = 2  # of idx, behind le16 flags, in both rings


cdef inline void ring_forbid_kicks(SplitRing *ring) noexcept nogil:
    """Ask not to be kicked while we look anyway (§2.7.10.1). With EVENT_IDX an avail_event left behind says it."""
    if not ring.event_idx:
        store_relaxed_u16(ring.used, USED_F_NO_NOTIFY)


cdef inline void ring_begin(SplitRing *ring) noexcept nogil:
    """Before the first look: with EVENT_IDX the flags stay 0 (§2.7.10.1), without it nobody need kick yet."""
    store_relaxed_u16(ring.used, 0)
    ring_forbid_kicks(ring)


cdef inline int ring_pending(SplitRing *ring) noexcept nogil:
    """Entries made available and not taken yet; -1 when the driver's index has jumped by more than the ring holds."""
    cdef uint16_t pending
    ring.seen_available = load_acquire_u16(ring.available + INDEX_OFFSET)
    pending = ring.seen_available - ring.next_available
    return -1 if pending > ring.size else <int>pending


cdef inline uint16_t ring_take(SplitRing *ring) noexcept nogil:
    """Head of the next chain, unchecked. Only after `ring_pending` said that there is one."""
    cdef uint16_t entry = ring.next_available & (ring.size - 1)
    ring.next_available += 1
    return load_relaxed_u16(ring.available + RING_HEADER_BYTES + 2 * entry)


cdef inline void ring_give(SplitRing *ring, uint16_t head, uint32_t length) noexcept nogil:
    """Write a used element: the driver sees it with the next `ring_publish`. `length`: bytes written (§2.7.8)."""
    cdef uint32_t *element = <uint32_t *>(
        ring.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * (ring.next_used & (ring.size - 1))
    )
    element[0] = head
    element[1] = length
    ring.next_used += 1


cdef inline uint16_t ring_publish(SplitRing *ring) noexcept nogil:
    """Let the driver see what was given back; returns how many elements were new (§2.7.8.2)."""
    cdef uint16_t fresh = ring.next_used - ring.published_used
    store_release_u16(ring.used + INDEX_OFFSET, ring.next_used)
    ring.published_used = ring.next_used
    return fresh


cdef inline bint ring_wants_interrupt(SplitRing *ring, uint16_t fresh) noexcept nogil:
    """Must the driver be interrupted for the `fresh` elements just published? (§2.7.7.2)"""
    cdef uint16_t event
    fence_full()  # the index must be visible before the driver's wish is read, or both sides may sleep
    if not ring.event_idx:
        return not (load_relaxed_u16(ring.available) & AVAIL_F_NO_INTERRUPT)
    event = load_relaxed_u16(ring.available + RING_HEADER_BYTES + 2 * ring.size)
    return event_passed(event, ring.published_used, ring.published_used - fresh)


cdef inline bint ring_allow_kicks(SplitRing *ring) noexcept nogil:
    """Ask to be kicked for the next entry. True: one came in the meantime, do not sleep."""
    if ring.event_idx:
        store_relaxed_u16(ring.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * ring.size, ring.next_available)
    else:
        store_relaxed_u16(ring.used, 0)
    fence_full()  # pairs with the driver's barrier between publishing its index and reading our wish
    return load_acquire_u16(ring.available + INDEX_OFFSET) != ring.next_available
