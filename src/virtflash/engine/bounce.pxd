"""Aligned buffers between O_DIRECT and guest buffers that are not: a few for each reactor, made when first needed."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.uio cimport iovec

from virtflash.engine.block_request cimport iov_fill
from virtflash.engine.state cimport BOUNCE_BUFFERS, BOUNCE_BYTES, OP_WRITE, ReactorState, Slot


cdef inline bint bounce_make(ReactorState *reactor) noexcept nogil:
    """Have the buffers. False: there is no memory for them."""
    cdef uint32_t i
    if reactor.bounce_memory != NULL:
        return True
    reactor.bounce_memory = <char *>mmap(
        NULL, BOUNCE_BUFFERS * BOUNCE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
    )
    if <void *>reactor.bounce_memory == MAP_FAILED:
        reactor.bounce_memory = NULL
        return False
    for i in range(BOUNCE_BUFFERS):
        reactor.bounce_free[i] = reactor.bounce_memory + i * BOUNCE_BYTES
    reactor.bounce_free_count = BOUNCE_BUFFERS
    return True


cdef inline void bounce_unmake(ReactorState *reactor) noexcept nogil:
    if reactor.bounce_memory != NULL:
        munmap(reactor.bounce_memory, BOUNCE_BUFFERS * BOUNCE_BYTES)


cdef inline bint bounce_take(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Give the slot a buffer, if it has none. False: all are in use."""
    if slot.bounce != NULL:
        return True
    if reactor.bounce_free_count == 0:
        return False
    reactor.bounce_free_count -= 1
    slot.bounce = reactor.bounce_free[reactor.bounce_free_count]
    return True


cdef inline void bounce_return(ReactorState *reactor, Slot *slot) noexcept nogil:
    if slot.bounce != NULL:
        reactor.bounce_free[reactor.bounce_free_count] = slot.bounce
        reactor.bounce_free_count += 1
        slot.bounce = NULL


cdef inline void bounce_prepare(Slot *slot) noexcept nogil:
    """Choose the next piece, and gather it when it is to be written. The buffer list itself moves on completion."""
    cdef uint64_t filled = 0
    cdef uint64_t piece
    cdef uint32_t i = 0
    slot.bounce_bytes = BOUNCE_BYTES if slot.remaining > BOUNCE_BYTES else <uint32_t>slot.remaining
    while slot.operation == OP_WRITE and filled < slot.bounce_bytes:
        piece = slot.iov[i].iov_len
        if piece > slot.bounce_bytes - filled:
            piece = slot.bounce_bytes - filled
        memcpy(slot.bounce + filled, slot.iov[i].iov_base, piece)
        filled += piece
        i += 1


cdef inline void bounce_scatter(Slot *slot, uint64_t length) noexcept nogil:
    """Bring what was read to the guest's buffers, and move the buffer list on."""
    iov_fill(&slot.iov, &slot.iov_count, slot.bounce, length)
