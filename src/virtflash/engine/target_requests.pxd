"""Requests to a target: calls on the reactor's own thread, which answer in the same turn wherever they can.

What cannot be answered at once waits in one of three places: among the parts of its queue, for its next turn; for a
sync of the file that holds what the target keeps; or, when the real part would still be at work, among the delayed.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from virtflash.backing.target cimport (
    TARGET_DISCARD,
    TARGET_MORE,
    TARGET_ROOM,
    TARGET_SECURE_ERASE,
    TARGET_SYNC,
    TARGET_UNMAP_ZEROES,
    TARGET_WRITE_ZEROES,
    Target,
)
from virtflash.engine.admission cimport begin_charged, take_back
from virtflash.engine.atomics cimport exchange_u32, load_relaxed_u32
from virtflash.engine.block_request cimport iov_advance
from virtflash.engine.blocking_io cimport keep_lifetime
from virtflash.engine.completion cimport RETRY_LIMIT, complete_well, complete_with_error, must_sync_now, refuse
from virtflash.engine.delayed_slots cimport delay
from virtflash.engine.gate cimport gate_refuses, is_frozen
from virtflash.engine.memory_table cimport table_lost
from virtflash.engine.sigbus_guard cimport guard_loss_count
from virtflash.engine.state cimport (
    OP_DISCARD,
    OP_LIFETIME,
    OP_READ,
    OP_SECURE_ERASE,
    OP_WRITE,
    OP_WRITE_ZEROES,
    STAGE_DATA,
    STAGE_FLUSH,
    STAGE_READY,
    STAGE_ROOM,
    STAGE_SYNC,
    BindingState,
    QueueState,
    ReactorState,
    Segment,
    Slot,
)
from virtflash.engine.submission cimport injected_error, issue
from virtflash.engine.system cimport EAGAIN, EFAULT, EINTR, EIO, monotonic_ns
from virtflash.engine.virtio cimport RANGE_FLAG_UNMAP, SECTOR_BYTES

cdef enum:
    TRANSFER_PART_BYTES = 131072  # copied in one go, before others have their turn
    GENTLE_PART_BYTES = 16384  # beside a critical volume: less than a frame of most parts
    READ_LEAD_NS = 500000  # that others' reads may queue up on the flash beside a critical volume
    YIELD_MOST_NS = 20000000  # after which one call of theirs is made, however busy the flash is
    LONG_BYTES = 32768  # a copy of so many is seen in the latency
    EFFORT_LIMIT = 262144  # bytes copied for one queue, after which the next one has its turn
    CALL_EFFORT = 8192  # what a call counts for by itself
    CHANGE_EFFORT = 131072  # what a part of a range does


# Calls


cdef inline int kind_of_change(const Slot *slot, const Segment *segment) noexcept nogil:
    if slot.operation == OP_DISCARD:
        return TARGET_DISCARD
    if slot.operation == OP_SECURE_ERASE:
        return TARGET_SECURE_ERASE
    return TARGET_UNMAP_ZEROES if segment.flags & RANGE_FLAG_UNMAP else TARGET_WRITE_ZEROES


cdef inline int32_t change_target(Target *target, Slot *slot) noexcept nogil:
    """Ranges, until one has more to do or all are done."""
    cdef Segment *segment
    cdef int32_t result = 0
    while slot.segments_done < slot.segment_count:
        segment = &slot.segments[slot.segments_done]
        if segment.count:
            result = target.change(
                target.self, kind_of_change(slot, segment), segment.sector, segment.count, &slot.progress
            )
        if result:
            return result
        slot.segments_done += 1
        slot.progress.done = slot.progress.stage = slot.progress.passed = 0
    return 0


cdef inline int32_t ask_lifetime(Target *target, Slot *slot) noexcept nogil:
    cdef uint8_t three[3]
    cdef int32_t result = target.lifetime(target.self, three)
    if result == 0:
        keep_lifetime(slot, three)
    return result


cdef inline bint is_gentle(const ReactorState *reactor, const Slot *slot) noexcept nogil:
    """Does it share its reactor with a critical volume?"""
    return reactor.critical_count and not slot.queue.binding.critical


cdef inline int32_t transfer(Target *target, Slot *slot, uint64_t bytes) noexcept nogil:
    """From or to guest memory. -EFAULT: that is no longer there, and zeroes were in its place."""
    cdef uint32_t losses = guard_loss_count()
    cdef uint64_t sector = slot.offset // SECTOR_BYTES
    cdef int32_t result
    if slot.operation == OP_READ:
        result = target.read(target.self, sector, slot.iov, slot.iov_count, bytes)
    else:
        result = target.write(target.self, sector, slot.iov, slot.iov_count, bytes)
    return -EFAULT if guard_loss_count() != losses and table_lost(slot.use.table) else result


cdef inline int32_t call_target(Target *target, Slot *slot) noexcept nogil:
    """The next call of a request."""
    cdef uint64_t part = GENTLE_PART_BYTES if target.gentle else TRANSFER_PART_BYTES
    cdef uint64_t bytes = slot.remaining if slot.remaining < part else part
    if slot.stage == STAGE_FLUSH:
        target.flush_mark = &slot.flush_mark
        return target.flush(target.self)
    if slot.operation == OP_READ or slot.operation == OP_WRITE:
        return transfer(target, slot, bytes)
    return ask_lifetime(target, slot) if slot.operation == OP_LIFETIME else change_target(target, slot)


cdef inline uint64_t effort_of(const Slot *slot) noexcept nogil:
    """Of one call, in bytes copied, about."""
    if slot.segment_count:
        return CHANGE_EFFORT
    return CALL_EFFORT + (slot.remaining if slot.remaining < TRANSFER_PART_BYTES else TRANSFER_PART_BYTES)


cdef inline int32_t ordered_fault(const Target *target, const Slot *slot) noexcept nogil:
    """0 or -errno. A fault of syncs is that of the file, where there is one: it comes after the flush of the target."""
    if slot.stage == STAGE_FLUSH and target.sync_fd >= 0:
        return 0
    return -<int32_t>injected_error(slot)


cdef inline int32_t call_or_fail(ReactorState *reactor, Slot *slot) noexcept nogil:
    """The next call, unless a fault was ordered instead; and when its operations would be done."""
    cdef BindingState *binding = slot.queue.binding
    cdef Target *target = binding.target
    cdef int32_t result = ordered_fault(target, slot)
    cdef uint64_t ready_ns
    if result:
        return result
    target.now_ns = reactor.now_ns
    target.gentle = is_gentle(reactor, slot)
    result = call_target(target, slot)
    reactor.effort += effort_of(slot)
    binding.wants_work = True
    ready_ns = target.ready_ns(target.self)
    if ready_ns > slot.ready_ns:
        slot.ready_ns = ready_ns
    return result


# Ends


cdef inline bint is_early(const ReactorState *reactor, const Slot *slot) noexcept nogil:
    """Would the real part still be at work? The clock is only looked at where the last look does not tell."""
    return slot.ready_ns > reactor.now_ns and slot.ready_ns > monotonic_ns()


cdef inline void wait_until_ready(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    slot.result = result
    slot.resume = slot.stage
    slot.stage = STAGE_READY
    delay(reactor, slot)


cdef inline void answer(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    if slot.stage != STAGE_DATA or slot.length >= LONG_BYTES or slot.segment_count:
        reactor.now_ns = monotonic_ns()
    if result < 0:
        complete_with_error(reactor, slot, -result)
    else:
        complete_well(reactor, slot)


cdef inline void end_request(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """0 or -errno: now, or when the real part would be done."""
    if is_early(reactor, slot):
        wait_until_ready(reactor, slot, result)
    else:
        answer(reactor, slot, result)


cdef inline void wait_for_turn(Slot *slot) noexcept nogil:
    """To the end of what its queue has begun."""
    cdef QueueState *queue = slot.queue
    slot.next = NULL
    if queue.parts_first == NULL:
        queue.parts_first = slot
    else:
        queue.parts_last.next = slot
    queue.parts_last = slot


# Syncs of the file: one at a time, for all that wait when it begins


cdef inline void begin_sync(ReactorState *reactor, BindingState *binding) noexcept nogil:
    """Unless one is under way, or nobody waits. A sync that has begun says nothing of what was written since."""
    cdef Slot *leader = binding.sync_waiting
    if binding.sync_leader != NULL or leader == NULL:
        return
    binding.sync_leader = leader
    binding.sync_covered = leader.next
    binding.sync_waiting = NULL
    binding.sync_mark = binding.target.sync_begins(binding.target.self)
    issue(reactor, leader)


cdef inline void wait_for_sync(ReactorState *reactor, Slot *slot) noexcept nogil:
    cdef BindingState *binding = slot.queue.binding
    slot.next = NULL
    if binding.sync_waiting == NULL:
        binding.sync_waiting = slot
    else:
        binding.sync_waiting_last.next = slot
    binding.sync_waiting_last = slot
    begin_sync(reactor, binding)


cdef inline bint make_room(ReactorState *reactor, Slot *slot) noexcept nogil:
    """The target did nothing, for want of a sync. True: call again."""
    cdef Target *target = slot.queue.binding.target
    if slot.retries == RETRY_LIMIT:
        end_request(reactor, slot, -EIO)
        return False
    slot.retries += 1
    if target.sync_fd < 0:
        target.synced(target.self, target.sync_begins(target.self))
        return True
    slot.resume = slot.stage
    slot.stage = STAGE_ROOM
    wait_for_sync(reactor, slot)
    return False


# From a result to the next call


cdef inline void begin_flush(Slot *slot) noexcept nogil:
    slot.stage = STAGE_FLUSH
    slot.flush_mark = 0


cdef inline bint flush_first(ReactorState *reactor, Slot *slot) noexcept nogil:
    """The data is done. True: it has to be made stable now."""
    if must_sync_now(slot):
        begin_flush(slot)
        return True
    end_request(reactor, slot, 0)
    return False


cdef inline bint after_flush(ReactorState *reactor, Slot *slot) noexcept nogil:
    """It would survive a power cut; if there is a file, it is to survive a crash of the host too."""
    if slot.queue.binding.target.sync_fd < 0:
        end_request(reactor, slot, 0)
    else:
        slot.stage = STAGE_SYNC
        wait_for_sync(reactor, slot)
    return False


cdef inline bint after_part(ReactorState *reactor, Slot *slot) noexcept nogil:
    """There is more to do, when the others had their turn and the real part would be done with this."""
    slot.retries = 0
    if is_early(reactor, slot):
        wait_until_ready(reactor, slot, TARGET_MORE)
    else:
        wait_for_turn(slot)
    return False


cdef inline bint after_transfer(ReactorState *reactor, Slot *slot, uint64_t done) noexcept nogil:
    if done == 0:
        end_request(reactor, slot, -EIO)
        return False
    if done >= slot.remaining:
        return flush_first(reactor, slot)
    iov_advance(&slot.iov, &slot.iov_count, done)
    slot.offset += done
    slot.remaining -= done
    return after_part(reactor, slot)


cdef inline bint take_result(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """True: call again, for the stage that it is in now. False: it was answered, or waits."""
    if result == TARGET_SYNC:
        return make_room(reactor, slot)
    if result == TARGET_ROOM:
        return after_part(reactor, slot)
    if (result == -EAGAIN or result == -EINTR) and slot.retries < RETRY_LIMIT:
        slot.retries += 1
        return True
    if result < 0:
        end_request(reactor, slot, result)
        return False
    if result == TARGET_MORE and slot.stage == STAGE_FLUSH:
        return after_part(reactor, slot)
    if slot.stage == STAGE_FLUSH:
        return after_flush(reactor, slot)
    if slot.operation == OP_READ or slot.operation == OP_WRITE:
        return after_transfer(reactor, slot, result)
    if result == TARGET_MORE:
        return after_part(reactor, slot)
    return flush_first(reactor, slot)


cdef inline bint yields(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Beside a critical volume, nothing is begun on a flash that is busy: what a read of that volume would have to wait
    for is one call of somebody else, and never a queue of them. Once in a while one is made all the same."""
    cdef Target *target = slot.queue.binding.target
    cdef uint64_t busy_ns
    if not is_gentle(reactor, slot) or target.busy_ns == NULL:
        return False
    busy_ns = target.busy_ns(target.self)
    if slot.operation == OP_READ and slot.stage == STAGE_DATA:
        busy_ns -= READ_LEAD_NS if busy_ns > READ_LEAD_NS else 0
    if busy_ns <= reactor.now_ns or (reactor.yielded_ns and reactor.now_ns - reactor.yielded_ns > YIELD_MOST_NS):
        reactor.yielded_ns = 0
        return False
    if reactor.yielded_ns == 0:
        reactor.yielded_ns = reactor.now_ns
    slot.ready_ns = busy_ns
    wait_until_ready(reactor, slot, TARGET_MORE)
    return True


cdef inline void run_target(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Call until the request is answered or waits."""
    if is_frozen(slot):
        refuse(reactor, slot)
        return
    while not yields(reactor, slot):
        if not take_result(reactor, slot, call_or_fail(reactor, slot)):
            return


# Where the loop comes in


cdef inline void begin_target(ReactorState *reactor, Slot *slot) noexcept nogil:
    """A checked request. Ranges queue up behind what their queue has begun: each may be long."""
    if slot.segment_count and slot.queue.parts_first != NULL:
        wait_for_turn(slot)
    else:
        run_target(reactor, slot)


cdef inline bint continue_part(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """The first part of what a queue has begun. False: it has begun nothing."""
    cdef Slot *slot = queue.parts_first
    if slot == NULL:
        return False
    queue.parts_first = slot.next
    run_target(reactor, slot)
    return True


cdef inline uint32_t continue_parts(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """One part of each request that a queue has begun, in turn, as far as the effort of this turn goes; returns how
    many."""
    cdef Slot *last = queue.parts_last
    cdef Slot *slot = NULL
    cdef uint32_t count = 0
    reactor.effort = 0
    while slot != last and reactor.effort < EFFORT_LIMIT:
        slot = queue.parts_first
        queue.parts_first = slot.next
        run_target(reactor, slot)
        count += 1
    return count


cdef inline bint end_hold(ReactorState *reactor, Slot *slot) noexcept nogil:
    """Its volume's allowance lets it begin. False: it was refused, since the gate has closed meanwhile."""
    cdef BindingState *binding = slot.queue.binding
    slot.held = False
    if gate_refuses(&binding.gate, slot.operation):
        take_back(binding.allowance, reactor.now_ns, slot.wear)
        refuse(reactor, slot)
        return False
    begin_charged(binding.allowance, slot.length if slot.wear > 0 else 0, slot.wear)
    return True


cdef inline void resume_ready(ReactorState *reactor, Slot *slot) noexcept nogil:
    """The real part would be done by now. The mode of the cache may have changed meanwhile."""
    slot.stage = slot.resume
    if slot.held and not end_hold(reactor, slot):
        return
    if slot.result == TARGET_MORE:
        wait_for_turn(slot)
    elif slot.result < 0 or not must_sync_now(slot):
        answer(reactor, slot, slot.result)
    else:
        begin_flush(slot)
        run_target(reactor, slot)


cdef inline void after_sync(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """Those that had to make room call again in their queue's turn: there may be many."""
    if result or slot.stage == STAGE_SYNC:
        end_request(reactor, slot, result)
        return
    slot.stage = slot.resume
    wait_for_turn(slot)


cdef inline void after_sync_all(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    cdef Slot *following
    while slot != NULL:
        following = slot.next
        after_sync(reactor, slot, result)
        slot = following


cdef inline uint32_t *host_latch(BindingState *binding) noexcept nogil:
    """That a sync of the file failed: all that lies in the same file has to hear of it."""
    return binding.target.host_failed if binding.target.host_failed != NULL else &binding.host_failed


cdef inline int32_t tell_target(BindingState *binding, int32_t result) noexcept nogil:
    """0 or -errno for those that waited. The kernel reports a failure once: after it, a sync that succeeds proves
    nothing, and the target must not give up what it keeps in reserve."""
    if result:
        exchange_u32(host_latch(binding), 1)
    elif load_relaxed_u32(host_latch(binding)):
        result = -EIO
    else:
        binding.target.synced(binding.target.self, binding.sync_mark)
    return result


cdef inline void finish_sync(ReactorState *reactor, Slot *leader, int32_t result) noexcept nogil:
    """The kernel or a worker is done with a sync of the file. After a failure those fail too that came during it: what
    they wrote may have been part of it."""
    cdef BindingState *binding = leader.queue.binding
    cdef Slot *covered = binding.sync_covered
    cdef Slot *waiting = NULL
    if (result == -EAGAIN or result == -EINTR) and leader.retries < RETRY_LIMIT:
        leader.retries += 1
        issue(reactor, leader)
        return
    result = tell_target(binding, result)
    if result:
        waiting = binding.sync_waiting
        binding.sync_waiting = NULL
    binding.sync_leader = binding.sync_covered = NULL
    after_sync(reactor, leader, result)
    after_sync_all(reactor, covered, result)
    after_sync_all(reactor, waiting, result)
    begin_sync(reactor, binding)
