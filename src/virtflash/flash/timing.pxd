"""When the real part would be done: each die does one thing after the other. What changes, changes at once."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.system cimport monotonic_ns
from virtflash.flash.chip cimport FLASH_PROGRAM, FLASH_READ, FlashOperation
from virtflash.flash.device cimport Device, is_slc


cdef inline uint64_t duration(const Device *device, const FlashOperation *operation, bint slc) noexcept nogil:
    cdef uint64_t transfer = device.timing.transfer_ns_per_kib * operation.length // 1024
    if operation.kind == FLASH_READ:
        return device.timing.read_ns[slc] + transfer
    if operation.kind == FLASH_PROGRAM:
        return device.timing.program_ns[slc] + transfer
    return device.timing.erase_ns[slc]


cdef inline void take_time(Device *device, FlashOperation *operation) noexcept nogil:
    """Of a read, program or erase that was begun."""
    cdef uint64_t now = device.now_ns if device.now_ns else monotonic_ns()
    cdef uint64_t *free = &device.timing.free_ns[operation.block % device.geometry.dies]
    free[0] = max(now, free[0]) + duration(device, operation, is_slc(&device.blocks[operation.block]))
    operation.ready_ns = free[0]
