"""What NAND does: pages programmed in ascending order, once between two erases, whole, with their spare bytes."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from virtflash.flash.chip cimport (
    FLASH_ERASE,
    FLASH_ERASED,
    FLASH_MISUSE,
    FLASH_OK,
    FLASH_PROGRAM,
    FLASH_SLC,
    FlashOperation,
)
from virtflash.flash.device cimport Device, block_pages, compiler_barrier, page_bytes, page_data, page_record
from virtflash.flash.image cimport (
    BLOCK_BAD,
    BLOCK_ERASE_CUT,
    BLOCK_NOT_WIPED,
    BLOCK_SLC,
    BLOCK_WEAK,
    PAGE_BLANK,
    PAGE_HEADER_BYTES,
    PAGE_PROGRAMMED,
    BlockRecord,
    PageRecord,
)
from virtflash.flash.pieces cimport fill, gather, scatter


cdef inline bint is_programmed(const BlockRecord *block, const PageRecord *page) noexcept nogil:
    return page.state != PAGE_BLANK and page.generation == block.generation


cdef inline int read_blank(Device *device, FlashOperation *operation) noexcept nogil:
    fill(operation, 0xff)
    if operation.spare != NULL:
        memset(operation.spare, 0xff, device.geometry.spare_bytes)
    return FLASH_ERASED


cdef inline int nand_read(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef uint32_t size = page_bytes(device, block)
    if operation.page >= block_pages(device, block) or operation.length > size:
        return FLASH_MISUSE
    if operation.offset > size - operation.length:
        return FLASH_MISUSE
    block.reads += 1
    if operation.page >= block.next_page:
        return read_blank(device, operation)
    page = page_record(device, operation.block, operation.page)
    if not is_programmed(block, page):
        return read_blank(device, operation)
    scatter(operation, page_data(device, operation.block, operation.page) + operation.offset)
    if operation.spare != NULL:
        memcpy(operation.spare, <char *>page + PAGE_HEADER_BYTES, device.geometry.spare_bytes)
    return FLASH_OK


cdef inline int nand_program(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef char *data
    cdef uint32_t size = page_bytes(device, block)
    if block.flags & (BLOCK_BAD | BLOCK_ERASE_CUT) or operation.page >= block_pages(device, block):
        return FLASH_MISUSE
    if operation.page < block.next_page or operation.length > size:
        return FLASH_MISUSE
    page = page_record(device, operation.block, operation.page)
    data = page_data(device, operation.block, operation.page)
    gather(data, operation)
    memset(data + operation.length, 0xff, size - operation.length)
    if operation.spare != NULL:
        memcpy(<char *>page + PAGE_HEADER_BYTES, operation.spare, device.geometry.spare_bytes)
    else:
        memset(<char *>page + PAGE_HEADER_BYTES, 0xff, device.geometry.spare_bytes)
    page.generation = block.generation
    page.hours = device.state.effective_hours
    page.state = PAGE_PROGRAMMED
    compiler_barrier()
    block.next_page = operation.page + 1
    return FLASH_OK


cdef inline int nand_erase(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef bint slc = operation.flags & FLASH_SLC
    if block.flags & BLOCK_BAD or (slc and device.geometry.slc_page_bytes == 0):
        return FLASH_MISUSE
    if block.next_page:
        block.flags |= BLOCK_NOT_WIPED
    block.generation += 1
    block.next_page = 0
    block.reads = 0
    block.flags &= ~(BLOCK_SLC | BLOCK_ERASE_CUT | BLOCK_WEAK)
    if slc:
        block.flags |= BLOCK_SLC
        block.slc_cycles += 1
    else:
        block.cycles += 1
    block.erased_hours = device.state.effective_hours
    return FLASH_OK
