"""Walking a descriptor chain of a split ring (virtio 1.4 §2.7.5) into host buffers.

Everything here is the guest's, and may be rewritten while it is read: a descriptor is copied once, checked, then used.
Walks are bounded: a chain by the ring size (a loop is longer), an indirect table by its own length and IOV_LIMIT.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from virtflash.engine.atomics cimport copy_once
from virtflash.engine.memory_table cimport read_guest, translate
from virtflash.engine.state cimport (
    FAULT_ADDRESS,
    FAULT_CHAIN_LENGTH,
    FAULT_CHAIN_LOOP,
    FAULT_DESCRIPTOR_RANGE,
    FAULT_DIRECTION,
    FAULT_INDIRECT_LENGTH,
    FAULT_INDIRECT_NESTED,
    FAULT_INDIRECT_NEXT,
    FAULT_INDIRECT_REFUSED,
    FAULT_NONE,
    IOV_LIMIT,
    Chain,
    SplitRing,
    TableUse,
)
from virtflash.engine.virtio cimport (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    DESCRIPTOR_BYTES,
)

cdef enum:
    CHAIN_IOV_LIMIT = IOV_LIMIT + 2  # the data, and a piece each for header and status
    INDIRECT_LIMIT = IOV_LIMIT + 2  # Linux makes indirect tables longer than a small ring; seg_max still bounds them

cdef extern from *:
    """
    #define NOWHERE UINT64_MAX /* no region of guest memory reaches it */
    """
    const uint64_t NOWHERE

cdef struct Descriptor:
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next


cdef inline void add_pieces(TableUse *use, Chain *chain, const Descriptor *descriptor) noexcept nogil:
    """Append one buffer, in as many pieces as it has regions."""
    cdef uint64_t address = descriptor.address
    cdef uint64_t left = descriptor.length
    cdef uint64_t piece
    cdef iovec *iov
    while left and not chain.fault:
        piece = left
        iov = &chain.iov[chain.count]
        if chain.count == CHAIN_IOV_LIMIT:
            chain.fault = FAULT_CHAIN_LENGTH
            return
        iov.iov_base = translate(use, address, &piece)
        if iov.iov_base == NULL:
            chain.fault = FAULT_ADDRESS
            return
        iov.iov_len = piece
        chain.count += 1
        address += piece
        left -= piece


cdef inline void add_buffer(TableUse *use, Chain *chain, const Descriptor *descriptor) noexcept nogil:
    """Account for one buffer. What is wrong with it is noted, and the walk goes on to find where the status goes."""
    if descriptor.length == 0:
        return  # says nothing, in whatever place and direction
    if descriptor.flags & DESC_F_WRITE:
        chain.last_writable = descriptor.address + descriptor.length - 1
        if chain.last_writable < descriptor.address:
            chain.last_writable = NOWHERE  # it wraps
        chain.writable_bytes += descriptor.length
        add_pieces(use, chain, descriptor)
        return
    if chain.writable_bytes:
        chain.fault = FAULT_DIRECTION  # §2.7.4.2: all device-readable buffers come first
    chain.readable_bytes += descriptor.length
    add_pieces(use, chain, descriptor)
    chain.readable = chain.count


cdef inline int walk_indirect(TableUse *use, Chain *chain, const Descriptor *outer) noexcept nogil:
    """Walk the table that an indirect descriptor points to (§2.7.5.3)."""
    cdef Descriptor descriptor
    cdef uint64_t address
    cdef uint32_t entries = outer.length // DESCRIPTOR_BYTES
    cdef uint32_t entry = 0
    cdef uint32_t _walked
    if outer.length % DESCRIPTOR_BYTES or entries == 0 or entries > INDIRECT_LIMIT:
        return FAULT_INDIRECT_LENGTH
    for _walked in range(entries):
        address = outer.address + <uint64_t>entry * DESCRIPTOR_BYTES
        if not read_guest(use, address, <char *>&descriptor, DESCRIPTOR_BYTES):
            return FAULT_ADDRESS
        if descriptor.flags & DESC_F_INDIRECT:
            return FAULT_INDIRECT_NESTED
        add_buffer(use, chain, &descriptor)
        if not descriptor.flags & DESC_F_NEXT:
            return FAULT_NONE
        entry = descriptor.next
        if entry >= entries:
            return FAULT_DESCRIPTOR_RANGE
    return FAULT_CHAIN_LOOP


cdef inline int walk_chain(SplitRing *ring, TableUse *use, uint16_t head, bint indirect, Chain *chain) noexcept nogil:
    """Collect the buffers of the chain that begins at `head` (already checked).

    Returns a Fault when the chain itself makes no sense and cannot be answered; `chain.fault` when only its request is
    to be refused.
    """
    cdef Descriptor descriptor
    cdef uint16_t entry = head
    cdef uint32_t _walked
    chain.count = chain.readable = 0
    chain.readable_bytes = chain.writable_bytes = 0
    chain.fault = FAULT_NONE
    for _walked in range(ring.size):
        copy_once(&descriptor, ring.descriptors + DESCRIPTOR_BYTES * entry, DESCRIPTOR_BYTES)
        if descriptor.flags & DESC_F_INDIRECT:
            if not indirect:
                return FAULT_INDIRECT_REFUSED
            if descriptor.flags & DESC_F_NEXT:
                return FAULT_INDIRECT_NEXT  # §2.7.5.3.1
            return walk_indirect(use, chain, &descriptor)
        add_buffer(use, chain, &descriptor)
        if not descriptor.flags & DESC_F_NEXT:
            return FAULT_NONE
        entry = descriptor.next
        if entry >= ring.size:
            return FAULT_DESCRIPTOR_RANGE
    return FAULT_CHAIN_LOOP
