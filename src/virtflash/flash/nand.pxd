"""What NAND does: pages programmed in ascending order, once between two erases, whole, with their spare bytes."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from virtflash.flash.bit_errors cimport garble, sample_errors
from virtflash.flash.block_record cimport program_fails
from virtflash.flash.chip cimport (
    FLASH_ERASED,
    FLASH_FAILED,
    FLASH_MISUSE,
    FLASH_NO_ROOM,
    FLASH_OK,
    FLASH_PROGRAM,
    FlashOperation,
)
from virtflash.flash.device cimport (
    Device,
    block_pages,
    compiler_barrier,
    fetch_ahead,
    is_hollow,
    is_slc,
    page_bytes,
    page_data,
    page_record,
)
from virtflash.flash.image cimport (
    BLOCK_BAD,
    BLOCK_ERASE_CUT,
    BLOCK_WEAK,
    PAGE_BARELY,
    PAGE_BLANK,
    PAGE_HEADER_BYTES,
    PAGE_PROGRAMMED,
    PAGE_TORN,
    PAGE_UNSTABLE,
    BlockRecord,
    PageRecord,
)
from virtflash.flash.page_record cimport is_programmed, is_stale, seal_page, settle_block
from virtflash.flash.page_state cimport state_of
from virtflash.flash.physics cimport draw
from virtflash.flash.pieces cimport fill, gather, scatter
from virtflash.flash.power_cut cimport begin_operation, end_operation
from virtflash.flash.space cimport reserve_page


cdef inline int read_blank(Device *device, FlashOperation *operation) noexcept nogil:
    fill(operation, 0xff)
    if operation.spare != NULL:
        memset(operation.spare, 0xff, device.geometry.spare_bytes)
    return FLASH_ERASED


cdef inline int read_damaged(
    Device *device, FlashOperation *operation, PageRecord *page, uint32_t state
) noexcept nogil:
    """The data is in place, as it was to be. Unstable pages toss a coin at each read."""
    cdef bint heads = draw(&device.state.random) >> 63
    if heads and state == PAGE_UNSTABLE:
        return sample_errors(device, operation, page)
    if heads and state == PAGE_BARELY:
        return read_blank(device, operation)
    return garble(device, operation, page)


cdef inline int read_page(
    Device *device, FlashOperation *operation, PageRecord *page, uint32_t state
) noexcept nogil:
    cdef int status
    scatter(operation, page_data(device, operation.block, operation.page) + operation.offset)
    if operation.spare != NULL:
        memcpy(operation.spare, <char *>page + PAGE_HEADER_BYTES, device.geometry.spare_bytes)
    if state == PAGE_PROGRAMMED:
        status = sample_errors(device, operation, page)
    else:
        status = read_damaged(device, operation, page, state)
    if status < 0:
        device.state.uncorrectable += 1
    return status


cdef inline int nand_read(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef uint32_t size
    fetch_ahead(device, operation.block, operation.page)
    size = page_bytes(device, block)
    if operation.page >= block_pages(device, block) or operation.length > size:
        return FLASH_MISUSE
    if operation.offset > size - operation.length:
        return FLASH_MISUSE
    block.reads += 1
    device.state.reads[is_slc(block)] += 1
    if operation.page >= block.next_page and not is_stale(device, block):
        return read_blank(device, operation)
    page = page_record(device, operation.block, operation.page)
    if not is_programmed(block, page):
        return read_blank(device, operation)
    return read_page(device, operation, page, state_of(device, operation.block, operation.page, page))


cdef inline void write_page(
    Device *device, FlashOperation *operation, BlockRecord *block, PageRecord *page, int state
) noexcept nogil:
    cdef char *data = page_data(device, operation.block, operation.page)
    cdef uint32_t size = page_bytes(device, block)
    page.state = PAGE_BLANK
    compiler_barrier()
    if not is_hollow(device, block):
        gather(data, operation)
        memset(data + operation.length, 0xff, size - operation.length)
    if operation.spare != NULL:
        memcpy(<char *>page + PAGE_HEADER_BYTES, operation.spare, device.geometry.spare_bytes)
    else:
        memset(<char *>page + PAGE_HEADER_BYTES, 0xff, device.geometry.spare_bytes)
    page.generation = block.generation
    page.hours = device.state.effective_hours
    page.decicelsius = <short>(device.state.celsius * 10)
    compiler_barrier()
    page.state = state
    seal_page(device, page, data, size)
    compiler_barrier()
    block.next_page = operation.page + 1


cdef inline bint may_be_programmed(Device *device, FlashOperation *operation, BlockRecord *block) noexcept nogil:
    if block.flags & (BLOCK_BAD | BLOCK_ERASE_CUT) or operation.page >= block_pages(device, block):
        return False
    if is_stale(device, block):
        settle_block(device, operation.block)
    return operation.page >= block.next_page and operation.length <= page_bytes(device, block)


cdef inline int nand_program(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef int state = PAGE_UNSTABLE if block.flags & BLOCK_WEAK else PAGE_PROGRAMMED
    cdef int status = FLASH_OK
    if not may_be_programmed(device, operation, block):
        return FLASH_MISUSE
    if not reserve_page(device, operation.block, operation.page):
        return FLASH_NO_ROOM
    page = page_record(device, operation.block, operation.page)
    begin_operation(device, FLASH_PROGRAM, operation.block, operation.page)
    device.state.programs[is_slc(block)] += 1
    if program_fails(device, block):
        state, status = PAGE_TORN, FLASH_FAILED
    write_page(device, operation, block, page, state)
    return end_operation(device, status)
