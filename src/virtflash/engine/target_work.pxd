"""What is to be done while no request calls: what targets do for their own sake (collection, refresh), in slices, and
those requests that wait for a time."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.backing.target cimport Target
from virtflash.engine.admission cimport NEVER_NS, closed_until
from virtflash.engine.state cimport BindingState, ReactorState
from virtflash.engine.system cimport cpu_relax

cdef enum:
    WAKING_NS = 20000  # what a sleep of a given length takes longer, about


cdef inline void want_work(ReactorState *reactor) noexcept nogil:
    """Something was done that no queue knows of: every target is asked once."""
    cdef uint32_t i
    for i in range(reactor.queue_count):
        reactor.queues[i].binding.wants_work = reactor.queues[i].binding.target != NULL


cdef inline uint64_t free_at(const ReactorState *reactor, Target *target) noexcept nogil:
    """When work for the device's own sake may begin: beside a critical volume, only on a flash that does nothing."""
    if reactor.critical_count and target.busy_ns != NULL:
        return target.busy_ns(target.self)
    return target.ready_ns(target.self)


cdef inline bint work_slice(ReactorState *reactor) noexcept nogil:
    """One slice, of the next target in turn that wants it. False: none does now."""
    cdef BindingState *binding
    cdef Target *target
    cdef uint32_t _looked
    for _looked in range(reactor.queue_count):
        reactor.work_next += 1
        if reactor.work_next >= reactor.queue_count:
            reactor.work_next = 0
        binding = reactor.queues[reactor.work_next].binding
        target = binding.target
        if binding.wants_work and free_at(reactor, target) <= reactor.now_ns:
            target.now_ns = reactor.now_ns
            binding.wants_work = target.work(target.self)
            return True
    return False


cdef inline bint wait_briefly(const ReactorState *reactor) noexcept nogil:
    """Is the time of a request so near that a sleep would miss it? Then the rings are looked at until it has come."""
    if reactor.delayed == NULL or reactor.delayed.ready_ns > reactor.now_ns + WAKING_NS:
        return False
    cpu_relax()
    return True


cdef inline uint64_t earlier(uint64_t deadline_ns, uint64_t other_ns) noexcept nogil:
    """0: no deadline yet."""
    return other_ns if deadline_ns == 0 or other_ns < deadline_ns else deadline_ns


cdef inline uint64_t next_deadline(const ReactorState *reactor) noexcept nogil:
    """Until when to sleep although nobody calls, on the monotonic clock; 0: for ever."""
    cdef uint64_t deadline_ns = reactor.delayed.ready_ns - WAKING_NS if reactor.delayed != NULL else 0
    cdef uint64_t ready_ns
    cdef BindingState *binding
    cdef uint32_t i
    for i in range(reactor.queue_count):
        binding = reactor.queues[i].binding
        if binding.wants_work:
            deadline_ns = earlier(deadline_ns, free_at(reactor, binding.target))
        if binding.allowance != NULL:
            ready_ns = closed_until(binding.allowance)
            if reactor.now_ns < ready_ns < NEVER_NS:
                deadline_ns = earlier(deadline_ns, ready_ns)
    return deadline_ns
