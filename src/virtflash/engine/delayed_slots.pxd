"""Requests that are done, but would not be yet on the real part: a pairing heap by time, linked through the slots.

A driver may have thousands in flight, in any order of time: to add one costs a comparison, to take the first a
logarithm, and neither needs memory.
"""

from virtflash.engine.state cimport ReactorState, Slot


cdef inline Slot *meld(Slot *one, Slot *other) noexcept nogil:
    """Of two heaps one."""
    if one == NULL:
        return other
    if other == NULL:
        return one
    if other.ready_ns < one.ready_ns:
        one, other = other, one
    other.next = one.child
    one.child = other
    return one


cdef inline void delay(ReactorState *reactor, Slot *slot) noexcept nogil:
    slot.child = slot.next = NULL
    reactor.delayed = meld(reactor.delayed, slot)


cdef inline Slot *meld_pairs(Slot *child) noexcept nogil:
    """The children of a heap by twos, last pair first."""
    cdef Slot *pairs = NULL
    cdef Slot *second
    cdef Slot *following
    while child != NULL:
        second = child.next
        following = second.next if second != NULL else NULL
        child = meld(child, second)
        child.next = pairs
        pairs = child
        child = following
    return pairs


cdef inline Slot *take_delayed(ReactorState *reactor) noexcept nogil:
    """Take the first of those that are delayed; there must be one."""
    cdef Slot *first = reactor.delayed
    cdef Slot *pairs = meld_pairs(first.child)
    cdef Slot *following
    reactor.delayed = NULL
    while pairs != NULL:
        following = pairs.next
        reactor.delayed = meld(reactor.delayed, pairs)
        pairs = following
    return first
