"""The reactor's loop: one thread that drains rings, submits, collects, publishes, and sleeps when there is nothing.

A turn of the loop is a batch: up to BATCH heads of each queue, one system call to submit, whatever has completed, one
publication and at most one interrupt for each queue.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t

from virtflash.engine.allowed_requests cimport is_closed, obey_new_limits, release_held
from virtflash.engine.adaptive_polling cimport keep_polling, learn_from_sleep, poll_paid
from virtflash.engine.atomics cimport count_u64, load_relaxed_u32, store_release_u32
from virtflash.engine.bell cimport bell_ring, bell_set
from virtflash.engine.completion cimport finish_io, publish_all, raise_event
from virtflash.engine.delayed_slots cimport take_delayed
from virtflash.engine.drain cimport break_queue, drain_one, drain_queue, look_at_foreign
from virtflash.engine.mailbox cimport mailbox_done, mailbox_take
from virtflash.engine.memory_table cimport table_lost
from virtflash.engine.registered_files cimport register_queue_files, release_queue_files
from virtflash.engine.sigbus_guard cimport guard_loss_count
from virtflash.engine.split_ring cimport ring_allow_kicks, ring_begin, ring_forbid_kicks
from virtflash.engine.state cimport (
    COMMAND_CALL,
    COMMAND_ERROR,
    COMMAND_EXIT,
    COMMAND_MEMORY,
    COMMAND_ROUND,
    COMMAND_RUN,
    COMMAND_START,
    COMMAND_STOP,
    EVENT_MEMORY_LOST,
    FAULT_MEMORY_LOST,
    IO_THREADS,
    QUEUES_PER_REACTOR,
    Command,
    QueueState,
    ReactorState,
    Slot,
)
from virtflash.engine.submission cimport issue_backlog
from virtflash.engine.system cimport monotonic_ns, pollfd
from virtflash.engine.target_requests cimport continue_part, continue_parts, finish_sync, resume_ready
from virtflash.engine.target_work cimport next_deadline, wait_briefly, want_work, work_slice
from virtflash.engine.uring cimport (
    io_uring_cq_advance,
    io_uring_cqe,
    io_uring_peek_batch_cqe,
    io_uring_sq_ready,
    io_uring_submit,
    io_uring_submit_and_wait,
    io_uring_submit_and_wait_timeout,
    kernel_timespec,
)
from virtflash.engine.wake_sources cimport (
    SECOND_NS,
    TAG_CANCEL,
    TAG_KICK,
    TAG_MAILBOX,
    TAG_MASK,
    TAG_POOL,
    TAG_SLOT,
    arm_all,
    cancel_kick,
    kick_completed,
    poll_all,
)
from virtflash.engine.worker_pool cimport pool_collect

cdef enum:
    CQE_BATCH = 64
    HELD_BACK_MAX = 8


cdef inline void break_if_lost(QueueState *queue) noexcept nogil:
    """Stop a queue whose guest memory was truncated by its owner. It may have met zeroes there and stopped already."""
    if not table_lost(queue.use.table):
        return
    if queue.broken:
        raise_event(queue.binding, EVENT_MEMORY_LOST, queue.index, FAULT_MEMORY_LOST)
    else:
        break_queue(queue, EVENT_MEMORY_LOST, FAULT_MEMORY_LOST)


cdef inline void adopt_memory(Command *command) noexcept nogil:
    """Use the new table from now on. Requests in flight keep the one that they were parsed with."""
    cdef QueueState *queue = command.queue
    queue.use.retired = True
    if queue.use.in_flight == 0:
        store_release_u32(&queue.use.finished, 1)
    queue.use = command.use
    queue.ring.descriptors = command.descriptors
    queue.ring.available = command.available
    queue.ring.used = command.used
    break_if_lost(queue)


cdef inline void set_call(QueueState *queue, int fd) noexcept nogil:
    """Interrupt through this descriptor from now on, and once at once."""
    queue.call_fd = fd
    bell_set(&queue.call_bell, queue.ringer, fd, True)
    bell_ring(&queue.call_bell, queue.ringer, fd)


cdef inline void set_error(QueueState *queue, int fd) noexcept nogil:
    queue.error_fd = fd
    bell_set(&queue.error_bell, queue.ringer, fd, False)


cdef inline void start_queue(ReactorState *reactor, QueueState *queue) noexcept nogil:
    register_queue_files(reactor, queue)
    queue.kick_armed = queue.kick_lost = queue.kick_by_poll = queue.kick_cancelled = False
    reactor.queues[reactor.queue_count] = queue
    reactor.queue_count += 1
    reactor.critical_count += queue.binding.critical
    look_at_foreign(queue, 0)
    queue.ringer = &reactor.ringer
    queue.binding.wants_work = queue.binding.target != NULL
    set_error(queue, queue.error_fd)
    ring_begin(&queue.ring)
    break_if_lost(queue)
    set_call(queue, queue.call_fd)  # something may have been used before this front end could be told


cdef inline void obey(ReactorState *reactor, Command *command) noexcept nogil:
    """Do what the control plane asks. A stop is only noted: it is done when nothing is in flight."""
    if command.kind == COMMAND_STOP:
        command.queue.stop_command = command
        reactor.stopping_count += 1
        release_held(reactor, command.queue)
        return
    if command.kind == COMMAND_START:
        start_queue(reactor, command.queue)
    elif command.kind == COMMAND_MEMORY:
        adopt_memory(command)
    elif command.kind == COMMAND_CALL:
        set_call(command.queue, command.fd)  # a completion may have gone to the old one
    elif command.kind == COMMAND_ERROR:
        set_error(command.queue, command.fd)
    elif command.kind == COMMAND_RUN:
        command.call.function(command.call.argument)
        want_work(reactor)
        obey_new_limits(reactor)
    elif command.kind == COMMAND_EXIT:
        reactor.exiting = True
    mailbox_done(command)


cdef inline void read_mailbox(ReactorState *reactor) noexcept nogil:
    cdef Command *command = mailbox_take(&reactor.mailbox)
    cdef Command *following
    while command != NULL:
        following = command.next
        obey(reactor, command)
        command = following


cdef inline void remove_queue(ReactorState *reactor, uint32_t position) noexcept nogil:
    cdef QueueState *queue = reactor.queues[position]
    cdef Command *command = queue.stop_command
    reactor.queue_count -= 1
    reactor.critical_count -= queue.binding.critical
    reactor.queues[position] = reactor.queues[reactor.queue_count]
    release_queue_files(reactor, queue)
    bell_set(&queue.call_bell, queue.ringer, -1, False)
    ring_allow_kicks(&queue.ring)  # who serves it next may wait for one
    queue.stop_command = NULL
    reactor.stopping_count -= 1
    mailbox_done(command)


cdef inline void finish_stops(ReactorState *reactor) noexcept nogil:
    """Let go of the queues that are to stop and of which nothing is in flight any more, a waiting kick included."""
    cdef uint32_t i = 0
    cdef QueueState *queue
    while i < reactor.queue_count:
        queue = reactor.queues[i]
        if queue.stop_command != NULL and queue.in_flight == 0:
            cancel_kick(reactor, queue)
            if not queue.kick_armed:
                remove_queue(reactor, i)
                continue
        i += 1


cdef inline void look_for_lost_memory(ReactorState *reactor) noexcept nogil:
    cdef uint32_t losses = guard_loss_count()
    cdef uint32_t i
    if losses == reactor.losses_seen:
        return
    reactor.losses_seen = losses
    for i in range(reactor.queue_count):
        break_if_lost(reactor.queues[i])


cdef inline uint32_t serve_queue(ReactorState *reactor, QueueState *queue) noexcept nogil:
    cdef uint32_t taken = 0
    if queue.parts_first != NULL:
        taken += continue_parts(reactor, queue)
    if not queue.broken and queue.stop_command == NULL:
        taken += drain_queue(reactor, queue)
    return taken


cdef inline uint32_t serve_critical(ReactorState *reactor) noexcept nogil:
    cdef uint32_t taken = 0
    cdef uint32_t i
    for i in range(reactor.queue_count):
        if reactor.queues[i].binding.critical:
            taken += serve_queue(reactor, reactor.queues[i])
    return taken


cdef inline uint32_t drain_by_priority(ReactorState *reactor) noexcept nogil:
    """Critical volumes, and between any two calls for the others the critical ones again."""
    cdef uint32_t taken = serve_critical(reactor)
    cdef uint32_t i
    cdef QueueState *queue
    for i in range(reactor.queue_count):
        queue = reactor.queues[i]
        if queue.binding.critical:
            continue
        if continue_part(reactor, queue):
            taken += 1 + serve_critical(reactor)
        if not queue.broken and queue.stop_command == NULL and drain_one(reactor, queue):
            taken += 1 + serve_critical(reactor)
    return taken


cdef inline uint32_t drain_all(ReactorState *reactor) noexcept nogil:
    cdef uint32_t taken = 0
    cdef uint32_t i
    if reactor.critical_count:
        return drain_by_priority(reactor)
    for i in range(reactor.queue_count):
        taken += serve_queue(reactor, reactor.queues[i])
    return taken


cdef inline void finish(ReactorState *reactor, Slot *slot, int32_t result) noexcept nogil:
    """Of a target, only syncs of its file are done elsewhere than in its own calls."""
    if slot.queue.binding.target == NULL:
        finish_io(reactor, slot, result)
    else:
        finish_sync(reactor, slot, result)


cdef inline void on_completion(ReactorState *reactor, uint64_t data, int32_t result) noexcept nogil:
    cdef uint64_t tag = data & TAG_MASK
    if tag == TAG_SLOT:
        finish(reactor, <Slot *>data, result)
    elif tag == TAG_KICK:
        kick_completed(<QueueState *><uintptr_t>(data & ~<uint64_t>TAG_MASK), result)
    elif tag == TAG_MAILBOX:
        reactor.mailbox_armed = False
    elif tag == TAG_POOL:
        reactor.pool_armed = False


cdef inline uint32_t collect_ring(ReactorState *reactor) noexcept nogil:
    """Take what io_uring has completed; returns how many."""
    cdef io_uring_cqe *entries[CQE_BATCH]
    cdef uint64_t data[CQE_BATCH]
    cdef int32_t results[CQE_BATCH]
    cdef uint32_t count = io_uring_peek_batch_cqe(&reactor.ring, entries, CQE_BATCH)
    cdef uint32_t i
    for i in range(count):
        data[i] = entries[i].user_data
        results[i] = entries[i].res
    io_uring_cq_advance(&reactor.ring, count)  # before anything is issued again: there must be room for its completion
    if count:
        reactor.now_ns = monotonic_ns()
    for i in range(count):
        on_completion(reactor, data[i], results[i])
    return count


cdef inline uint32_t collect_list(ReactorState *reactor, Slot *slot) noexcept nogil:
    cdef uint32_t count = 0
    cdef Slot *following
    while slot != NULL:
        following = slot.next
        finish(reactor, slot, slot.result)
        slot = following
        count += 1
    return count


cdef inline uint32_t collect_all(ReactorState *reactor) noexcept nogil:
    """Take everything that has completed, wherever it was done."""
    cdef uint32_t count = 0
    cdef Slot *finished
    if reactor.io_path != IO_THREADS:
        count = collect_ring(reactor)
    if load_relaxed_u32(&reactor.pool.done_pending):
        reactor.now_ns = monotonic_ns()
        count += collect_list(reactor, pool_collect(&reactor.pool))
    finished = reactor.finished
    reactor.finished = NULL  # before they are looked at: one that goes on may be finished again
    return count + collect_list(reactor, finished)


cdef inline void submit_all(ReactorState *reactor) noexcept nogil:
    """Give the kernel what has gathered. For storage that makes us sleep, a few entries wait for the next turn, which
    most often ends in that sleep, and its system call takes them along."""
    cdef uint32_t ready
    if reactor.io_path == IO_THREADS:
        return
    ready = io_uring_sq_ready(&reactor.ring)
    if ready and ready < HELD_BACK_MAX and reactor.slow_storage and not reactor.held_back:
        reactor.held_back = True
        return
    reactor.held_back = False
    if ready:
        io_uring_submit(&reactor.ring)


cdef inline bint allow_all_kicks(ReactorState *reactor) noexcept nogil:
    """Ask every driver to kick from now on. True: one made something available meanwhile."""
    cdef bint found = False
    cdef uint32_t i
    cdef QueueState *queue
    for i in range(reactor.queue_count):
        queue = reactor.queues[i]
        if queue.broken or queue.stop_command != NULL or is_closed(reactor, queue):
            continue  # a kick would tell nothing that anybody acted on
        if ring_allow_kicks(&queue.ring):
            found = True
    return found


cdef inline void forbid_all_kicks(ReactorState *reactor) noexcept nogil:
    cdef uint32_t i
    for i in range(reactor.queue_count):
        if not reactor.queues[i].broken:
            ring_forbid_kicks(&reactor.queues[i].ring)


cdef inline bint has_news(const ReactorState *reactor) noexcept nogil:
    """A command, or memory that was found lost in this very turn: neither can wait for the next kick."""
    return load_relaxed_u32(&reactor.mailbox.pending) or guard_loss_count() != reactor.losses_seen


cdef inline void wait_in_ring(ReactorState *reactor, uint64_t limit_ns) noexcept nogil:
    """Submit, and sleep until something completes, `limit_ns` at most; 0: without a limit."""
    cdef kernel_timespec limit
    cdef io_uring_cqe *entry
    if limit_ns == 0:
        io_uring_submit_and_wait(&reactor.ring, arm_all(reactor))
        return
    limit.tv_sec, limit.tv_nsec = limit_ns // SECOND_NS, limit_ns % SECOND_NS
    io_uring_submit_and_wait_timeout(&reactor.ring, &entry, arm_all(reactor), &limit, NULL)


cdef inline void sleep(ReactorState *reactor, pollfd *fds) noexcept nogil:
    """Wait in the kernel for a kick, a completion, a command, a worker, or the time of what is delayed."""
    cdef uint64_t began_ns = monotonic_ns()
    cdef uint64_t deadline_ns = next_deadline(reactor)
    cdef uint64_t limit_ns = 0
    if deadline_ns and deadline_ns <= began_ns:
        return
    if deadline_ns:
        limit_ns = deadline_ns - began_ns
    if not allow_all_kicks(reactor) and not has_news(reactor):
        if reactor.io_path == IO_THREADS:
            poll_all(reactor, fds, limit_ns)
        else:
            wait_in_ring(reactor, limit_ns)
        count_u64(&reactor.wakeups, 1)
    learn_from_sleep(reactor, monotonic_ns() - began_ns)
    forbid_all_kicks(reactor)


cdef inline uint32_t release_delayed(ReactorState *reactor) noexcept nogil:
    """Go on with those whose time has come; returns how many."""
    cdef uint32_t count = 0
    while reactor.delayed != NULL and reactor.delayed.ready_ns <= reactor.now_ns:
        resume_ready(reactor, take_delayed(reactor))
        count += 1
    return count


cdef inline bint turn(ReactorState *reactor) noexcept nogil:
    """One batch. True: something was done."""
    cdef uint32_t done
    if load_relaxed_u32(&reactor.mailbox.pending):
        read_mailbox(reactor)
    look_for_lost_memory(reactor)
    reactor.now_ns = monotonic_ns()
    if reactor.backlog != NULL:
        issue_backlog(reactor)
    done = release_delayed(reactor)
    done += drain_all(reactor)
    submit_all(reactor)
    done += collect_all(reactor)
    publish_all(reactor)
    if reactor.stopping_count:
        finish_stops(reactor)
    return done != 0


cdef inline void serve(ReactorState *reactor) noexcept nogil:
    """The loop, until the control plane asks to exit; its queues are stopped by then."""
    cdef pollfd fds[QUEUES_PER_REACTOR + 2]
    while not reactor.exiting:
        if turn(reactor):
            poll_paid(reactor)
        elif work_slice(reactor) or wait_briefly(reactor):
            continue
        elif not reactor.exiting and not reactor.finished and not keep_polling(reactor):
            sleep(reactor, fds)
