"""From finished I/O to the driver: the status byte, the used element, and at most one interrupt for each batch."""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from virtflash.engine.atomics cimport (
    add_relaxed_u64,
    count_u32,
    count_u64,
    exchange_u32,
    load_relaxed_u32,
    store_relaxed_u32,
    store_release_u32,
)
from virtflash.engine.bell cimport bell_ring
from virtflash.engine.block_request cimport iov_advance, iov_fill, writes_data
from virtflash.engine.bounce cimport bounce_return, bounce_scatter
from virtflash.engine.gate cimport must_be_stable
from virtflash.engine.split_ring cimport ring_give, ring_publish, ring_wants_interrupt
from virtflash.engine.state cimport (
    EVENT_IO_ERROR,
    EVENT_SYNC_FAILED,
    OP_FLUSH,
    OP_LIFETIME,
    OP_READ,
    OP_WRITE,
    STAGE_DATA,
    STAGE_FLUSH,
    STAGE_IDLE,
    STAGE_SYNC,
    BindingState,
    QueueState,
    ReactorState,
    Slot,
    TableUse,
)
from virtflash.engine.sigbus_guard cimport touch
from virtflash.engine.statistics cimport account
from virtflash.engine.submission cimport issue
from virtflash.engine.system cimport EAGAIN, EFAULT, EINTR, EINVAL, EIO, ENODATA, ENOSPC, EOPNOTSUPP, EROFS, write
from virtflash.engine.virtio cimport BLK_S_IOERR, BLK_S_OK, BLK_S_UNSUPP, LIFETIME_BYTES

cdef enum:
    RETRY_LIMIT = 100  # times that the kernel may say "try again" to one request
    USED_LENGTH_MAX = 0xffffffff


cdef inline void raise_event(BindingState *binding, int kind, uint32_t queue, uint32_t detail) noexcept nogil:
    """Count something for the operator. Any thread; the control plane is woken once for all that it finds."""
    cdef uint64_t one = 1
    store_relaxed_u32(&binding.events[kind].queue, queue)
    store_relaxed_u32(&binding.events[kind].detail, detail)
    add_relaxed_u64(&binding.events[kind].count, 1)
    if exchange_u32(&binding.events_pending, 1) == 0:
        write(binding.event_fd, &one, sizeof(one))


cdef inline void release_table(TableUse *use) noexcept nogil:
    use.in_flight -= 1
    if use.retired and use.in_flight == 0:
        store_release_u32(&use.finished, 1)


cdef inline void mark_dirty(ReactorState *reactor, QueueState *queue) noexcept nogil:
    if not queue.dirty:
        queue.dirty = True
        reactor.dirty[reactor.dirty_count] = queue
        reactor.dirty_count += 1


cdef inline void complete(ReactorState *reactor, Slot *slot, uint32_t status, uint64_t written) noexcept nogil:
    """End a request. `written`: bytes of data put in its writable buffers, from the front.

    The length told to the driver covers the status byte only when everything before it was written too: a device may
    claim no byte that it has not written (virtio 1.4 §2.7.8.2).
    """
    cdef QueueState *queue = slot.queue
    cdef uint64_t length = written + (written == slot.data_capacity)
    slot.status[0] = status
    ring_give(&queue.ring, slot.head, <uint32_t>length if length <= USED_LENGTH_MAX else USED_LENGTH_MAX)
    account(&queue.statistics, slot, status, reactor.now_ns)
    bounce_return(reactor, slot)
    release_table(slot.use)
    slot.stage = STAGE_IDLE
    count_u32(&queue.in_flight, -1)
    mark_dirty(reactor, queue)


cdef inline void latch_sync_failure(Slot *slot, int error) noexcept nogil:
    """What a guest believes written may be lost, and the kernel reports it only once: no FLUSH may succeed any more."""
    if exchange_u32(&slot.queue.binding.sync_failed, 1) == 0:
        raise_event(slot.queue.binding, EVENT_SYNC_FAILED, slot.queue.index, error)


cdef inline bint may_lose_data(const Slot *slot, int error) noexcept nogil:
    """Is this a failure of the storage, of something that a guest may believe written? Not so when the kernel refused
    the call itself: guest memory that went away (EFAULT) must not stop the flushes of the next front end. Nor when a
    target refused a write, for want of room, at the end of its life, or since the rest of what it is a part of cannot
    be read: what it accepted before is where it was."""
    if error == EFAULT or error == EINVAL or error == EOPNOTSUPP:
        return False
    if slot.stage == STAGE_FLUSH and error == ENOSPC:
        return False  # the host has no room for it now: the target keeps it, and a later flush may find some
    if slot.stage != STAGE_DATA:
        return True  # a flush or a sync, of whatever request
    if slot.queue.binding.target != NULL and (error == ENOSPC or error == EROFS or error == ENODATA):
        return False
    return writes_data(slot.operation)


cdef inline void look_at_buffers(Slot *slot) noexcept nogil:
    """The kernel could not copy from or to guest memory. If that is lost, let the guard find out: a file's end is what
    is cut off, so the last byte of a piece tells."""
    cdef uint32_t i
    for i in range(slot.iov_count):
        touch(<char *>slot.iov[i].iov_base + slot.iov[i].iov_len - 1)


cdef inline void complete_with_error(ReactorState *reactor, Slot *slot, int error) noexcept nogil:
    if error == EFAULT:
        look_at_buffers(slot)
    if may_lose_data(slot, error):
        latch_sync_failure(slot, error)
    raise_event(slot.queue.binding, EVENT_IO_ERROR, slot.queue.index, error)
    complete(reactor, slot, BLK_S_UNSUPP if error == EOPNOTSUPP else BLK_S_IOERR, 0)


cdef inline void refuse(ReactorState *reactor, Slot *slot) noexcept nogil:
    """The platform does not allow it now: an error to this guest, and no failure of the storage."""
    count_u64(&slot.queue.statistics.refused, 1)
    complete(reactor, slot, BLK_S_IOERR, 0)


cdef inline bint must_sync_now(Slot *slot) noexcept nogil:
    """Was this written while the cache was write-back, and is it write-through now? Then it may not complete volatile:
    the driver sends no more flushes (virtio 1.4 §5.2.6.2). A write to a target is never stable by itself."""
    if slot.stage != STAGE_DATA or not writes_data(slot.operation):
        return False
    if slot.stable:
        return slot.queue.binding.target != NULL
    return must_be_stable(slot.queue.binding)


cdef inline bint is_flush_too_late(Slot *slot) noexcept nogil:
    """The kernel reports a failed sync once, to whoever asks first: a flush that comes second succeeds for nothing."""
    return slot.operation == OP_FLUSH and load_relaxed_u32(&slot.queue.binding.sync_failed)


cdef inline void complete_well(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Everything asked for is done, and as stable as it must be."""
    cdef uint64_t written = slot.length if slot.operation == OP_READ else 0
    if is_flush_too_late(slot):
        complete(reactor, slot, BLK_S_IOERR, 0)
        return
    if slot.operation == OP_LIFETIME:
        written = iov_fill(&slot.iov, &slot.iov_count, <char *>slot.segments, LIFETIME_BYTES)
    complete(reactor, slot, BLK_S_OK, written)


cdef inline void complete_data(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Everything asked for is done."""
    if must_sync_now(slot):
        slot.stage = STAGE_SYNC
        issue(reactor, slot)
    else:
        complete_well(reactor, slot)


cdef inline void advance_transfer(ReactorState *reactor, Slot *slot, uint64_t done) noexcept nogil:
    """Some bytes of a transfer are done; a short one goes on."""
    if done > slot.remaining:
        done = slot.remaining
    if slot.bounce != NULL and slot.operation == OP_READ:
        bounce_scatter(slot, done)
    else:
        iov_advance(&slot.iov, &slot.iov_count, done)
    slot.offset += done
    slot.remaining -= done
    if slot.remaining:
        issue(reactor, slot)
    else:
        complete_data(reactor, slot)


cdef inline void finish_io(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """The kernel or a worker is done with a slot. `result`: bytes of a transfer, 0 of anything else, or -errno."""
    if (result == -EAGAIN or result == -EINTR) and slot.retries < RETRY_LIMIT:
        slot.retries += 1
        issue(reactor, slot)
    elif result < 0:
        complete_with_error(reactor, slot, -result)
    elif slot.stage == STAGE_SYNC or (slot.operation != OP_READ and slot.operation != OP_WRITE):
        complete_data(reactor, slot)
    elif result == 0:
        complete_with_error(reactor, slot, EIO)  # the end of a file that shrank below the volume
    else:
        advance_transfer(reactor, slot, result)


cdef inline void publish_queue(QueueState *queue) noexcept nogil:
    cdef uint16_t fresh = ring_publish(&queue.ring)
    queue.dirty = False
    if ring_wants_interrupt(&queue.ring, fresh) and queue.call_fd >= 0:
        count_u64(&queue.statistics.interrupts, 1)
        bell_ring(&queue.call_bell, queue.ringer, queue.call_fd)
        fresh -= 1
    count_u64(&queue.statistics.interrupts_suppressed, fresh)


cdef inline void publish_all(ReactorState *reactor) noexcept nogil:
    cdef uint32_t i
    for i in range(reactor.dirty_count):
        publish_queue(reactor.dirty[i])
    reactor.dirty_count = 0
