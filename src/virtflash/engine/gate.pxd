"""The gate: may this request pass now, and must what it writes be stable before it completes?

Called on every request, without Python. The health policy moves it, from the control plane; what each state of the
platform lets pass stands in health/platform_state.py.
"""

from libc.stdint cimport uint32_t

from virtflash.engine.atomics cimport load_relaxed_u32
from virtflash.engine.block_request cimport changes_medium
from virtflash.engine.state cimport OP_FLUSH, STAGE_FLUSH, BindingState, Gate, Slot


cdef inline bint gate_refuses(const Gate *gate, uint32_t operation) noexcept nogil:
    return (load_relaxed_u32(&gate.refused) >> operation) & 1


cdef inline bint must_be_stable(BindingState *binding) noexcept nogil:
    """May a write that completes now not be volatile? The gate only ever makes the negotiated mode stronger."""
    return load_relaxed_u32(&binding.write_through) != 0 or load_relaxed_u32(&binding.gate.durable) != 0


cdef inline bint is_frozen(const Slot *slot) noexcept nogil:
    """Of a request that was let pass: may what is left of it not be done any more?"""
    if not load_relaxed_u32(&slot.queue.binding.gate.frozen):
        return False
    return slot.stage == STAGE_FLUSH or changes_medium(slot.operation)


cdef inline bint has_nothing_to_flush(const Slot *slot) noexcept nogil:
    """While the volume is frozen a flush passes only where nothing is unstable: there is nothing to be done then."""
    return slot.operation == OP_FLUSH and load_relaxed_u32(&slot.queue.binding.gate.frozen)
