"""From a chain of buffers to a checked block request (virtio 1.4 §5.2.6).

`parse_request` fills the slot, or says how the request ends at once. Nothing of the request is read from guest memory
again after it was checked here, but for the data of a write, which has no meaning to us.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from virtflash.engine.atomics cimport copy_once, load_relaxed_u32, load_relaxed_u64
from virtflash.engine.memory_table cimport translate
from virtflash.engine.state cimport (
    FAULT_ADDRESS,
    FAULT_NO_STATUS,
    FAULT_NONE,
    IOV_INLINE,
    IOV_LIMIT,
    OP_DISCARD,
    OP_FLUSH,
    OP_GET_ID,
    OP_LIFETIME,
    OP_READ,
    OP_SECURE_ERASE,
    OP_UNKNOWN,
    OP_WRITE,
    OP_WRITE_ZEROES,
    SEGMENT_LIMIT,
    BindingState,
    Chain,
    QueueState,
    Segment,
    Slot,
)
from virtflash.engine.virtio cimport (
    BLK_S_IOERR,
    BLK_S_OK,
    BLK_S_UNSUPP,
    BLK_T_DISCARD,
    BLK_T_FLUSH,
    BLK_T_GET_ID,
    BLK_T_GET_LIFETIME,
    BLK_T_IN,
    BLK_T_OUT,
    BLK_T_SECURE_ERASE,
    BLK_T_WRITE_ZEROES,
    LIFETIME_BYTES,
    RANGE_FLAG_UNMAP,
    RANGE_SEGMENT_BYTES,
    REQUEST_HEADER_BYTES,
    SECTOR_BYTES,
)

cdef enum:
    PENDING = 256  # no status yet: the request needs I/O

cdef struct Header:
    uint32_t type
    uint32_t reserved
    uint64_t sector


cdef inline uint32_t operation_of(uint32_t request_type) noexcept nogil:
    if request_type == BLK_T_IN:
        return OP_READ
    if request_type == BLK_T_OUT:
        return OP_WRITE
    if request_type == BLK_T_FLUSH:
        return OP_FLUSH
    if request_type == BLK_T_DISCARD:
        return OP_DISCARD
    if request_type == BLK_T_WRITE_ZEROES:
        return OP_WRITE_ZEROES
    if request_type == BLK_T_SECURE_ERASE:
        return OP_SECURE_ERASE
    if request_type == BLK_T_GET_ID:
        return OP_GET_ID
    return OP_LIFETIME if request_type == BLK_T_GET_LIFETIME else OP_UNKNOWN


cdef inline bint writes_data(uint32_t operation) noexcept nogil:
    """Is this a write, which is volatile or stable (§5.2.6.2)? What a discard leaves behind, nobody may rely on."""
    return operation == OP_WRITE or operation == OP_WRITE_ZEROES


cdef inline bint changes_medium(uint32_t operation) noexcept nogil:
    return writes_data(operation) or operation == OP_DISCARD or operation == OP_SECURE_ERASE


cdef inline bint in_bounds(const BindingState *binding, uint64_t sector, uint64_t sectors) noexcept nogil:
    """Both in sectors of 512 bytes: neither a shift nor an addition, so nothing can wrap."""
    cdef uint64_t capacity = load_relaxed_u64(&binding.capacity)
    return sectors <= capacity and sector <= capacity - sectors


cdef inline void iov_advance(iovec **iov, uint32_t *count, uint64_t length) noexcept nogil:
    """Remove `length` bytes from the front of a buffer list."""
    while length and count[0]:
        if length < iov[0].iov_len:
            iov[0].iov_base = <char *>iov[0].iov_base + length
            iov[0].iov_len -= length
            return
        length -= iov[0].iov_len
        iov[0] += 1
        count[0] -= 1


cdef inline uint64_t iov_take(iovec **iov, uint32_t *count, char *into, uint64_t length) noexcept nogil:
    """Copy once and remove up to `length` bytes from the front of a buffer list; returns how many there were."""
    cdef uint64_t taken = 0
    cdef uint64_t piece
    while taken < length and count[0]:
        piece = iov[0].iov_len
        if piece > length - taken:
            piece = length - taken
        copy_once(into + taken, iov[0].iov_base, piece)
        taken += piece
        iov_advance(iov, count, piece)
    return taken


cdef inline uint64_t iov_fill(iovec **iov, uint32_t *count, const char *source, uint64_t length) noexcept nogil:
    """Copy up to `length` bytes to the front of a buffer list and remove that part; returns how many fitted."""
    cdef uint64_t filled = 0
    cdef uint64_t piece
    while filled < length and count[0]:
        piece = iov[0].iov_len
        if piece > length - filled:
            piece = length - filled
        memcpy(iov[0].iov_base, source + filled, piece)
        filled += piece
        iov_advance(iov, count, piece)
    return filled


cdef inline int take_status(QueueState *queue, Slot *slot, Chain *chain) noexcept nogil:
    """The status is the very last device-writable byte, wherever descriptors end (§5.2.6, §2.7.4.1)."""
    cdef uint64_t one = 1
    cdef iovec *last
    if chain.writable_bytes == 0:
        return FAULT_NO_STATUS
    slot.status = <uint8_t *>translate(queue.use, chain.last_writable, &one)
    if slot.status == NULL:
        return FAULT_ADDRESS
    chain.writable_bytes -= 1
    slot.data_capacity = chain.writable_bytes
    if not chain.fault:
        last = &chain.iov[chain.count - 1]
        last.iov_len -= 1
        if last.iov_len == 0:
            chain.count -= 1
    return FAULT_NONE


cdef inline bint keep_buffers(QueueState *queue, Slot *slot, iovec *iov, uint32_t count) noexcept nogil:
    """Copy the buffer list out of the reactor's scratch into the slot. False: more pieces than one I/O can take."""
    if count > IOV_LIMIT:
        return False
    slot.iov = &slot.iov_inline[0]
    if count > IOV_INLINE:
        slot.iov = queue.iov_pool + <uint64_t>slot.head * IOV_LIMIT
    slot.iov_count = count
    memcpy(slot.iov, iov, count * sizeof(iovec))
    return True


cdef inline uint32_t parse_transfer(
    QueueState *queue, Slot *slot, const Header *header, iovec *iov, uint32_t count, uint64_t length, uint64_t astray
) noexcept nogil:
    """A read or a write. `astray`: bytes of data in the direction that this request does not have."""
    if astray or length % SECTOR_BYTES or not in_bounds(queue.binding, header.sector, length // SECTOR_BYTES):
        return BLK_S_IOERR
    if slot.operation == OP_WRITE and queue.binding.read_only:
        return BLK_S_IOERR  # §5.2.6.2: also when the driver has not acknowledged RO
    if not keep_buffers(queue, slot, iov, count):
        return BLK_S_IOERR
    slot.offset = header.sector * SECTOR_BYTES
    slot.length = slot.remaining = length
    return PENDING if length else BLK_S_OK


cdef inline uint32_t check_segment(
    const BindingState *binding, uint32_t operation, const Segment *segment
) noexcept nogil:
    if segment.count > binding.max_sectors[operation] or not in_bounds(binding, segment.sector, segment.count):
        return BLK_S_IOERR
    if operation == OP_SECURE_ERASE and (segment.sector | segment.count) % binding.secure_erase_alignment:
        return BLK_S_IOERR
    return BLK_S_OK


cdef inline uint32_t parse_segments(
    QueueState *queue, Slot *slot, iovec *iov, uint32_t count, uint64_t length
) noexcept nogil:
    """The ranges of a discard, write zeroes or secure erase: copied together, flags first, then bounds."""
    cdef BindingState *binding = queue.binding
    cdef uint32_t allowed_flags = RANGE_FLAG_UNMAP if slot.operation == OP_WRITE_ZEROES else 0
    cdef uint32_t i
    if binding.read_only:
        return BLK_S_IOERR
    if length == 0 or length % RANGE_SEGMENT_BYTES:
        return BLK_S_IOERR
    if length > <uint64_t>binding.max_segments * RANGE_SEGMENT_BYTES:
        return BLK_S_UNSUPP
    iov_take(&iov, &count, <char *>slot.segments, length)
    slot.segment_count = <uint32_t>(length // RANGE_SEGMENT_BYTES)
    slot.progress.done = slot.progress.stage = slot.progress.passed = 0
    for i in range(slot.segment_count):
        if slot.segments[i].flags & ~allowed_flags:
            return BLK_S_UNSUPP  # §5.2.6.2
    for i in range(slot.segment_count):
        if check_segment(binding, slot.operation, &slot.segments[i]) != BLK_S_OK:
            return BLK_S_IOERR
    return PENDING


cdef inline uint32_t parse_operation(
    QueueState *queue, Slot *slot, const Header *header, Chain *chain, iovec *readable, uint32_t readable_count
) noexcept nogil:
    """What the header asks for, given the data buffers that are left in each direction. Returns a status or PENDING."""
    cdef iovec *writable = chain.iov + chain.readable
    cdef uint32_t writable_count = chain.count - chain.readable
    if slot.operation == OP_READ:
        return parse_transfer(queue, slot, header, writable, writable_count, chain.writable_bytes, chain.readable_bytes)
    if slot.operation == OP_WRITE:
        return parse_transfer(queue, slot, header, readable, readable_count, chain.readable_bytes, chain.writable_bytes)
    if slot.operation == OP_FLUSH:
        return PENDING
    if not (load_relaxed_u32(&queue.binding.operations) >> slot.operation) & 1:
        return BLK_S_UNSUPP  # unknown, or a feature that was not negotiated
    if slot.operation == OP_GET_ID or slot.operation == OP_LIFETIME:
        if slot.operation == OP_LIFETIME and chain.writable_bytes < LIFETIME_BYTES:
            return BLK_S_IOERR
        return PENDING if keep_buffers(queue, slot, writable, writable_count) else BLK_S_IOERR
    if slot.operation == OP_SECURE_ERASE and chain.readable_bytes == 0:
        # Linux, from 6.1 on, takes the lowest bit of a type for the direction of its data; 14 has none, so the ranges
        # come in buffers that we may write. §2.7.5.1 advises against reading those; else no Linux could erase securely.
        return parse_segments(queue, slot, writable, writable_count, chain.writable_bytes)
    return parse_segments(queue, slot, readable, readable_count, chain.readable_bytes)


cdef inline uint32_t parse_request(QueueState *queue, Slot *slot, Chain *chain, int *fault) noexcept nogil:
    """Check a walked chain and fill the slot. Returns a status, or PENDING; or sets `fault`: no status can be given."""
    cdef Header header
    cdef iovec *readable = chain.iov
    cdef uint32_t readable_count = chain.readable
    slot.operation = OP_UNKNOWN
    slot.segment_count = slot.segments_done = 0
    slot.sectors_done = 0
    slot.iov_count = 0
    slot.offset = slot.length = slot.remaining = 0
    fault[0] = take_status(queue, slot, chain)
    if fault[0] or chain.fault:
        return BLK_S_IOERR
    if chain.readable_bytes < REQUEST_HEADER_BYTES:
        return BLK_S_IOERR
    iov_take(&readable, &readable_count, <char *>&header, REQUEST_HEADER_BYTES)
    chain.readable_bytes -= REQUEST_HEADER_BYTES
    slot.operation = operation_of(header.type)
    return parse_operation(queue, slot, &header, chain, readable, readable_count)
