"""Requests of a volume that has an allowance: they begin at once, or are held until it lets them, or are refused.

A request that is held was taken from the ring. When the ring is to stop, or the limits have changed, it begins at once:
the bucket keeps a part of its burst for that, and no more is taken from the ring than that part allows.
"""

from libc.stdint cimport uint64_t

from virtflash.backing.target cimport TARGET_MORE
from virtflash.engine.admission cimport NEVER_NS, Allowance, admit, begin_charged, closed_until, settle
from virtflash.engine.block_request cimport changes_medium
from virtflash.engine.completion cimport complete, raise_event
from virtflash.engine.delayed_slots cimport delay, take_delayed
from virtflash.engine.state cimport (
    EVENT_BUDGET_RESTORED,
    EVENT_BUDGET_SPENT,
    OP_READ,
    OP_WRITE,
    STAGE_READY,
    BindingState,
    QueueState,
    ReactorState,
    Slot,
)
from virtflash.engine.target_requests cimport begin_target, resume_ready
from virtflash.engine.virtio cimport BLK_S_IOERR


cdef inline bint is_closed(const ReactorState *reactor, const QueueState *queue) noexcept nogil:
    """Is nothing to be taken from its ring now?"""
    return queue.binding.allowance != NULL and closed_until(queue.binding.allowance) > reactor.now_ns


cdef inline void settle_binding(BindingState *binding, uint64_t now_ns) noexcept nogil:
    """Charged becomes programmed, where that is counted."""
    if binding.allowance.wear.ns_per_unit > 0 and binding.target.programmed != NULL:
        settle(binding.allowance, now_ns, binding.target.programmed(binding.target.self, 0))


cdef inline void hold(ReactorState *reactor, Slot *slot, uint64_t ready_ns) noexcept nogil:
    slot.held = True
    slot.ready_ns = ready_ns
    slot.result = TARGET_MORE
    slot.resume = slot.stage
    slot.stage = STAGE_READY
    delay(reactor, slot)


cdef inline uint64_t admit_slot(ReactorState *reactor, Slot *slot) noexcept nogil:
    """When it may begin; NEVER_NS: not at all. That a budget is spent is told when it is found."""
    cdef BindingState *binding = slot.queue.binding
    cdef bint writes = changes_medium(slot.operation)
    cdef bint moves = slot.operation == OP_READ or slot.operation == OP_WRITE
    cdef bint before = binding.allowance.spent
    cdef uint64_t ready_ns
    if writes:
        settle_binding(binding, reactor.now_ns)
    ready_ns = admit(binding.allowance, reactor.now_ns, slot.length if moves else 0, writes, &slot.wear)
    if <bint>binding.allowance.spent != before:
        raise_event(binding, EVENT_BUDGET_RESTORED if before else EVENT_BUDGET_SPENT, slot.queue.index, 0)
    return ready_ns


cdef inline void begin_allowed(ReactorState *reactor, Slot *slot) noexcept nogil:
    """A checked request of a volume that has an allowance."""
    cdef Allowance *allowance = slot.queue.binding.allowance
    cdef uint64_t ready_ns = admit_slot(reactor, slot)
    if ready_ns == NEVER_NS:
        complete(reactor, slot, BLK_S_IOERR, 0)
    elif ready_ns > reactor.now_ns:
        hold(reactor, slot, ready_ns)
    else:
        begin_charged(allowance, slot.length if slot.wear > 0 else 0, slot.wear)
        begin_target(reactor, slot)


cdef inline bint goes_early(const Slot *slot, const QueueState *queue) noexcept nogil:
    """`queue`: the one that stops; NULL: those whose limits have changed."""
    return slot.held and (slot.queue == queue if queue != NULL else slot.queue.binding.allowance.released)


cdef inline void release_held(ReactorState *reactor, const QueueState *queue) noexcept nogil:
    """Let those begin that need not wait any more. The others stay."""
    cdef Slot *kept = NULL
    cdef Slot *slot
    while reactor.delayed != NULL:
        slot = take_delayed(reactor)
        if goes_early(slot, queue):
            slot.ready_ns = 0
            resume_ready(reactor, slot)
        else:
            slot.next = kept
            kept = slot
    while kept != NULL:
        slot = kept
        kept = slot.next
        delay(reactor, slot)


cdef inline void obey_new_limits(ReactorState *reactor) noexcept nogil:
    """After a call of the control plane, which may have changed some."""
    cdef Allowance *allowance
    cdef bint changed = False
    cdef uint64_t i
    for i in range(reactor.queue_count):
        allowance = reactor.queues[i].binding.allowance
        changed = changed or (allowance != NULL and allowance.released)
    if not changed:
        return
    release_held(reactor, NULL)
    for i in range(reactor.queue_count):
        if reactor.queues[i].binding.allowance != NULL:
            reactor.queues[i].binding.allowance.released = False
