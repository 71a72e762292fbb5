"""The gate: may this request pass now, and must what it writes be stable before it completes?

Called on every request, without Python. The control plane moves it; today it stands open, the health policy closes it.
"""

from libc.stdint cimport uint32_t

from virtflash.engine.atomics cimport load_relaxed_u32
from virtflash.engine.state cimport BindingState, Gate


cdef inline bint gate_refuses(Gate *gate, uint32_t operation) noexcept nogil:
    return (load_relaxed_u32(&gate.refused) >> operation) & 1


cdef inline bint must_be_stable(BindingState *binding) noexcept nogil:
    """May a write that completes now not be volatile? The gate only ever makes the negotiated mode stronger."""
    return load_relaxed_u32(&binding.write_through) != 0 or load_relaxed_u32(&binding.gate.durable) != 0
