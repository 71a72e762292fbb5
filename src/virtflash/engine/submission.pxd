"""Handing a slot's I/O to the kernel: io_uring where it is to be had, else the worker pool.

Entries gather in the submission queue and go with one system call for each batch drained from the rings.
"""

from libc.stdint cimport int32_t, uint32_t

from virtflash.engine.atomics cimport load_relaxed_u32
from virtflash.engine.blocking_io cimport transfer
from virtflash.engine.bounce cimport bounce_make, bounce_prepare, bounce_take
from virtflash.engine.state cimport (
    IO_THREADS,
    OP_FLUSH,
    OP_READ,
    STAGE_DATA,
    BindingState,
    ReactorState,
    Slot,
)
from virtflash.engine.system cimport EAGAIN, ENOMEM, RWF_DSYNC
from virtflash.engine.transfer_target cimport descriptor_for, is_sync, is_transfer, is_unaligned, needs_bounce
from virtflash.engine.uring cimport (
    IORING_FSYNC_DATASYNC,
    IOSQE_FIXED_FILE,
    io_uring_get_sqe,
    io_uring_prep_fsync,
    io_uring_prep_read,
    io_uring_prep_readv,
    io_uring_prep_write,
    io_uring_prep_writev,
    io_uring_sqe,
    io_uring_sqe_set_data,
    io_uring_sqe_set_flags,
    io_uring_submit,
)
from virtflash.engine.worker_pool cimport pool_submit

cdef enum:
    COPY_BYTES = 32768


cdef inline void finish_later(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """Complete in this round: bytes, or -errno as if the I/O had failed."""
    slot.result = result
    slot.next = reactor.finished
    reactor.finished = slot


cdef inline bint is_copy(const Slot *slot) noexcept nogil:
    """Is this transfer cheaper done here and now? io_uring hands reads of tmpfs to threads, which costs two wake-ups;
    large ones are worth it, since the threads copy side by side."""
    return slot.queue.binding.in_memory and is_transfer(slot) and slot.remaining <= COPY_BYTES


cdef inline void put_back(ReactorState *reactor, Slot *slot) noexcept nogil:
    """To the end of those that wait for room."""
    slot.next = NULL
    if reactor.backlog == NULL:
        reactor.backlog = slot
    else:
        reactor.backlog_last.next = slot
    reactor.backlog_last = slot


cdef inline io_uring_sqe *next_entry(ReactorState *reactor) noexcept nogil:
    """A submission entry, making room if need be; NULL only while the kernel takes no more."""
    cdef io_uring_sqe *entry = io_uring_get_sqe(&reactor.ring)
    if entry == NULL:
        io_uring_submit(&reactor.ring)
        entry = io_uring_get_sqe(&reactor.ring)
    return entry


cdef inline void prepare_read(io_uring_sqe *entry, const Slot *slot, int fd) noexcept nogil:
    if slot.bounce != NULL:
        io_uring_prep_read(entry, fd, slot.bounce, slot.bounce_bytes, slot.offset)
    elif slot.iov_count == 1:
        io_uring_prep_read(entry, fd, slot.iov.iov_base, <unsigned>slot.iov.iov_len, slot.offset)
    else:
        io_uring_prep_readv(entry, fd, slot.iov, slot.iov_count, slot.offset)


cdef inline void prepare_write(io_uring_sqe *entry, const Slot *slot, int fd) noexcept nogil:
    if slot.bounce != NULL:
        io_uring_prep_write(entry, fd, slot.bounce, slot.bounce_bytes, slot.offset)
    elif slot.iov_count == 1:
        io_uring_prep_write(entry, fd, slot.iov.iov_base, <unsigned>slot.iov.iov_len, slot.offset)
    else:
        io_uring_prep_writev(entry, fd, slot.iov, slot.iov_count, slot.offset)
    if slot.stable:
        entry.rw_flags = RWF_DSYNC


cdef inline void prepare_entry(io_uring_sqe *entry, Slot *slot) noexcept nogil:
    cdef int index = slot.queue.file_unaligned_index if is_unaligned(slot) else slot.queue.file_index
    cdef int fd = index if index >= 0 else descriptor_for(slot)
    if is_sync(slot):
        io_uring_prep_fsync(entry, fd, IORING_FSYNC_DATASYNC)
    elif slot.operation == OP_READ:
        prepare_read(entry, slot, fd)
    else:
        prepare_write(entry, slot, fd)
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE if index >= 0 else 0)
    io_uring_sqe_set_data(entry, slot)


cdef inline bint submit_to_ring(ReactorState *reactor, Slot *slot) noexcept nogil:
    cdef io_uring_sqe *entry = next_entry(reactor)
    if entry != NULL:
        prepare_entry(entry, slot)
    return entry != NULL


cdef inline uint32_t injected_error(const Slot *slot) noexcept nogil:
    """The errno that stands in for this I/O, when a fault was ordered (`Binding.inject_fault`)."""
    cdef BindingState *binding = slot.queue.binding
    cdef uint32_t of_sync = load_relaxed_u32(&binding.injected[OP_FLUSH])
    if slot.stage != STAGE_DATA:
        return of_sync
    if slot.stable and of_sync and binding.target == NULL:
        return of_sync
    return load_relaxed_u32(&binding.injected[slot.operation])


cdef inline bint begin_io(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Start, or continue, the I/O of a slot. False: there is no room for it now."""
    cdef uint32_t injected = injected_error(slot)
    if injected:
        finish_later(reactor, slot, -<int32_t>injected)
        return True
    if is_copy(slot):
        finish_later(reactor, slot, transfer(slot, descriptor_for(slot)))
        return True
    # A short transfer goes on with the buffer that it has, also where its rest takes the other descriptor.
    if slot.bounce != NULL or needs_bounce(slot):
        if not bounce_make(reactor):
            finish_later(reactor, slot, -ENOMEM)
            return True
        if not bounce_take(reactor, slot):
            return False
        bounce_prepare(slot)
    if reactor.io_path != IO_THREADS and (is_transfer(slot) or is_sync(slot)):
        return submit_to_ring(reactor, slot)
    if not pool_submit(&reactor.pool, slot):
        finish_later(reactor, slot, -EAGAIN)
    return True


cdef inline void issue(ReactorState *reactor, Slot *slot) noexcept nogil:
    if not begin_io(reactor, slot):
        put_back(reactor, slot)


cdef inline void issue_backlog(ReactorState *reactor) noexcept nogil:
    """Start what waits for room, in the order in which it came and before anything new: none waits for ever."""
    cdef Slot *slot = reactor.backlog
    cdef Slot *following
    while slot != NULL:
        following = slot.next
        if not begin_io(reactor, slot):
            slot.next = following
            break
        slot = following
    reactor.backlog = slot
