"""What targets do for their own sake (collection, refresh), in slices, while no request waits."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.backing.target cimport Target
from virtflash.engine.state cimport BindingState, ReactorState


cdef inline void want_work(ReactorState *reactor) noexcept nogil:
    """Something was done that no queue knows of: every target is asked once."""
    cdef uint32_t i
    for i in range(reactor.queue_count):
        reactor.queues[i].binding.wants_work = reactor.queues[i].binding.target != NULL


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
        if binding.wants_work and target.ready_ns(target.self) <= reactor.now_ns:
            target.now_ns = reactor.now_ns
            binding.wants_work = target.work(target.self)
            return True
    return False


cdef inline uint64_t next_deadline(const ReactorState *reactor) noexcept nogil:
    """When something has to be done although nobody calls, on the monotonic clock; 0: never."""
    cdef uint64_t deadline_ns = reactor.delayed.ready_ns if reactor.delayed != NULL else 0
    cdef uint64_t ready_ns
    cdef BindingState *binding
    cdef uint32_t i
    for i in range(reactor.queue_count):
        binding = reactor.queues[i].binding
        if binding.wants_work:
            ready_ns = binding.target.ready_ns(binding.target.self)
            if deadline_ns == 0 or ready_ns < deadline_ns:
                deadline_ns = ready_ns
    return deadline_ns
