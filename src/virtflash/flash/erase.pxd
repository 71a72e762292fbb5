"""An erase, which is the same on NAND and NOR."""

from libc.stdint cimport uint32_t

from virtflash.flash.block_record cimport count_cycle, erase_fails, renew_block
from virtflash.flash.chip cimport (
    FLASH_ERASE,
    FLASH_FAILED,
    FLASH_MISUSE,
    FLASH_OK,
    FLASH_PHYSICAL,
    FLASH_SLC,
    FlashOperation,
)
from virtflash.flash.device cimport Device
from virtflash.flash.image cimport BLOCK_BAD, BlockRecord
from virtflash.flash.power_cut cimport begin_operation, end_operation
from virtflash.flash.space cimport wipe_block


cdef inline int erase_block(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef bint slc = operation.flags & FLASH_SLC
    cdef int status = FLASH_OK
    if block.flags & BLOCK_BAD or (slc and device.geometry.slc_page_bytes == 0):
        return FLASH_MISUSE
    begin_operation(device, FLASH_ERASE, operation.block, operation.flags)
    device.state.erases[slc] += 1
    if erase_fails(device, block):
        count_cycle(block, slc)
        status = FLASH_FAILED
    else:
        renew_block(device, operation.block, slc)
    status = end_operation(device, status)
    # Not while it is in flight: a cut erase may leave the pages as they were.
    if status == FLASH_OK and operation.flags & FLASH_PHYSICAL:
        wipe_block(device, operation.block)
    return status
