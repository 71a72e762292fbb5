"""Which file descriptor a transfer uses, and whether guest buffers are aligned enough for it (O_DIRECT)."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.state cimport OP_READ, OP_WRITE, STAGE_DATA, STAGE_ROOM, STAGE_SYNC, BindingState, Slot


cdef inline bint is_transfer(const Slot *slot) noexcept nogil:
    return slot.stage == STAGE_DATA and (slot.operation == OP_READ or slot.operation == OP_WRITE)


cdef inline bint is_sync(const Slot *slot) noexcept nogil:
    return slot.stage == STAGE_SYNC or slot.stage == STAGE_ROOM


cdef inline bint is_unaligned(const Slot *slot) noexcept nogil:
    """Must this transfer take the buffered descriptor, since O_DIRECT takes no such offset or length?"""
    cdef BindingState *binding = slot.queue.binding
    return is_transfer(slot) and ((slot.offset | slot.remaining) & binding.offset_mask) != 0


cdef inline int descriptor_for(const Slot *slot) noexcept nogil:
    cdef BindingState *binding = slot.queue.binding
    return binding.fd_unaligned if is_unaligned(slot) else binding.fd


cdef inline bint needs_bounce(const Slot *slot) noexcept nogil:
    """Does O_DIRECT refuse these buffers, so that the data has to take a step in between?"""
    cdef uint64_t all_bits = 0
    cdef uint32_t i
    if slot.queue.binding.memory_mask == 0 or not is_transfer(slot) or is_unaligned(slot):
        return False
    for i in range(slot.iov_count):
        all_bits |= <uint64_t>slot.iov[i].iov_base | slot.iov[i].iov_len
    return (all_bits & slot.queue.binding.memory_mask) != 0
