"""From the available ring to I/O under way: the first half of a request's path."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from virtflash.engine.atomics cimport count_u32, count_u64, load_relaxed_u32, store_relaxed_u32
from virtflash.engine.bell cimport bell_ring
from virtflash.engine.block_request cimport PENDING, iov_fill, parse_request, writes_data
from virtflash.engine.completion cimport complete, mark_dirty, raise_event, refuse
from virtflash.engine.gate cimport gate_refuses, has_nothing_to_flush, must_be_stable
from virtflash.engine.split_chain cimport walk_chain
from virtflash.engine.split_ring cimport ring_give, ring_pending, ring_take
from virtflash.engine.state cimport (
    EVENT_MALFORMED,
    EVENT_QUEUE_BROKEN,
    FAULT_HEAD_IN_FLIGHT,
    FAULT_HEAD_RANGE,
    FAULT_REQUEST,
    FAULT_RING_JUMP,
    OP_FLUSH,
    OP_GET_ID,
    OP_LIFETIME,
    STAGE_DATA,
    STAGE_IDLE,
    STAGE_SYNC,
    BindingState,
    Chain,
    QueueState,
    ReactorState,
    Slot,
)
from virtflash.engine.submission cimport issue
from virtflash.engine.allowed_requests cimport begin_allowed, is_closed
from virtflash.engine.target_requests cimport EFFORT_LIMIT, begin_flush, begin_target
from virtflash.engine.virtio cimport BLK_S_IOERR, BLK_S_OK, DEVICE_ID_BYTES

cdef enum:
    BATCH = 32  # heads taken from one queue before its I/O is submitted and the next queue has its turn
    COPY_BATCH = 8  # where the reactor copies itself: the driver works on what is done while the rest is being copied


cdef inline void break_queue(QueueState *queue, int kind, int fault) noexcept nogil:
    """Stop taking requests: nothing in this ring can be trusted any more. What is in flight still completes."""
    store_relaxed_u32(&queue.broken, 1)
    raise_event(queue.binding, kind, queue.index, fault)
    bell_ring(&queue.error_bell, queue.ringer, queue.error_fd)


cdef inline void refuse_chain(ReactorState *reactor, QueueState *queue, uint16_t head, int fault) noexcept nogil:
    """A chain that cannot even be answered: its head goes back, and the queue stops."""
    count_u64(&queue.statistics.malformed, 1)
    ring_give(&queue.ring, head, 0)
    mark_dirty(reactor, queue)
    break_queue(queue, EVENT_QUEUE_BROKEN, fault)


cdef inline void begin(ReactorState *reactor, QueueState *queue, Slot *slot) noexcept nogil:
    """From here on the request is in flight, until `complete`."""
    slot.use = queue.use
    slot.use.in_flight += 1
    slot.order = queue.order
    slot.started_ns = reactor.now_ns
    slot.stage = STAGE_DATA
    slot.bounce = NULL
    slot.retries = 0
    slot.ready_ns = 0
    slot.held = False
    queue.order += 1
    count_u32(&queue.in_flight, 1)


cdef inline bint needs_io(const Slot *slot, const BindingState *binding) noexcept nogil:
    """Not the device's own name, nor a flush of what cannot be written, nor anything of the null backing, which keeps
    nothing; unless a fault was ordered instead."""
    if slot.operation == OP_GET_ID:
        return False
    if slot.operation == OP_LIFETIME or load_relaxed_u32(&binding.injected[slot.operation]):
        return True
    return (binding.fd >= 0 or binding.target != NULL) and not (slot.operation == OP_FLUSH and binding.read_only)


cdef inline void answer_without_io(ReactorState *reactor, Slot *slot) noexcept nogil:
    """A read of the null backing leaves the buffers as they are, and claims no byte of them."""
    cdef uint64_t written = 0
    if slot.operation == OP_GET_ID:
        written = iov_fill(&slot.iov, &slot.iov_count, <char *>slot.queue.binding.serial, DEVICE_ID_BYTES)
    complete(reactor, slot, BLK_S_OK, written)


cdef inline void start_io(ReactorState *reactor, QueueState *queue, Slot *slot) noexcept nogil:
    """A checked request that needs more than an answer."""
    cdef BindingState *binding = queue.binding
    if gate_refuses(&binding.gate, slot.operation):
        refuse(reactor, slot)
        return
    slot.stable = writes_data(slot.operation) and must_be_stable(binding)
    if slot.operation == OP_FLUSH:
        if load_relaxed_u32(&binding.sync_failed):
            complete(reactor, slot, BLK_S_IOERR, 0)
            return
        if has_nothing_to_flush(slot):
            complete(reactor, slot, BLK_S_OK, 0)
            return
        if binding.target == NULL:
            slot.stage = STAGE_SYNC
        else:
            begin_flush(slot)
    if not needs_io(slot, binding):
        answer_without_io(reactor, slot)
    elif binding.target == NULL:
        issue(reactor, slot)
    elif binding.allowance == NULL:
        begin_target(reactor, slot)
    else:
        begin_allowed(reactor, slot)


cdef inline void take_request(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """Take one head from the available ring and start what it asks for."""
    cdef uint16_t head = ring_take(&queue.ring)
    cdef uint32_t status
    cdef Slot *slot
    cdef Chain chain
    cdef int fault
    if head >= queue.ring.size:
        break_queue(queue, EVENT_QUEUE_BROKEN, FAULT_HEAD_RANGE)
        return
    slot = &queue.slots[head]
    if slot.stage != STAGE_IDLE:
        break_queue(queue, EVENT_QUEUE_BROKEN, FAULT_HEAD_IN_FLIGHT)
        return
    slot.queue = queue
    slot.head = head
    chain.iov = reactor.scratch
    fault = walk_chain(&queue.ring, queue.use, head, load_relaxed_u32(&queue.binding.indirect), &chain)
    if not fault:
        status = parse_request(queue, slot, &chain, &fault)
    if fault:
        refuse_chain(reactor, queue, head, fault)
        return
    begin(reactor, queue, slot)
    if status == PENDING:
        start_io(reactor, queue, slot)
        return
    if chain.fault:
        count_u64(&queue.statistics.malformed, 1)
    if status != BLK_S_OK:
        raise_event(queue.binding, EVENT_MALFORMED, queue.index, chain.fault if chain.fault else FAULT_REQUEST)
    complete(reactor, slot, status, 0)


cdef inline void look_at_foreign(QueueState *queue, int pending) noexcept nogil:
    """How much others had begun on the flash since a critical volume's ring was looked at last."""
    cdef BindingState *binding = queue.binding
    cdef uint64_t now
    if not binding.critical or binding.target.operations == NULL:
        return
    now = binding.target.operations(binding.target.self)
    if pending > 0 and now - binding.foreign_mark > binding.foreign_most:
        binding.foreign_most = now - binding.foreign_mark
    binding.foreign_mark = now


cdef inline bint drain_one(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """Take one request. False: there is none."""
    cdef int pending = ring_pending(&queue.ring)
    if pending < 0:
        break_queue(queue, EVENT_QUEUE_BROKEN, FAULT_RING_JUMP)
        return False
    if pending == 0 or is_closed(reactor, queue):
        return False
    take_request(reactor, queue)
    count_u64(&queue.statistics.batches, 1)
    return True


cdef inline uint32_t drain_queue(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """Take up to a batch of requests; returns how many there were."""
    cdef int batch = COPY_BATCH if queue.binding.in_memory or queue.binding.target != NULL else BATCH
    cdef int pending = ring_pending(&queue.ring)
    cdef int taken = 0
    if pending < 0:
        break_queue(queue, EVENT_QUEUE_BROKEN, FAULT_RING_JUMP)
        return 0
    look_at_foreign(queue, pending)
    if pending > batch:
        pending = batch
    reactor.effort = 0
    while taken < pending and not queue.broken and reactor.effort < EFFORT_LIMIT and not is_closed(reactor, queue):
        take_request(reactor, queue)
        taken += 1
    if taken:
        count_u64(&queue.statistics.batches, 1)
        look_at_foreign(queue, 0)
    return taken
