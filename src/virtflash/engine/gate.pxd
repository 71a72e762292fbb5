"""The gate: may this request pass now, and must what it writes be stable before it completes?

Called on every request, without Python. The control plane moves it; today it stands open, the health policy closes it.
"""

from libc.stdint cimport uint32_t

from virtflash.engine.atomics cimport load_relaxed_u32
from virtflash.engine.state cimport Gate


cdef inline bint gate_refuses(Gate *gate, uint32_t operation) noexcept nogil:
    return (load_relaxed_u32(&gate.refused) >> operation) & 1


cdef inline bint gate_demands_stable(Gate *gate) noexcept nogil:
    return load_relaxed_u32(&gate.durable) != 0
