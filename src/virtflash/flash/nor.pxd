"""What NOR does: a program clears bits, any bytes of a page, as often as wanted; no spare bytes."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from virtflash.flash.bit_errors cimport garble, sample_errors
from virtflash.flash.block_record cimport program_fails
from virtflash.flash.chip cimport (
    FLASH_FAILED,
    FLASH_MISUSE,
    FLASH_NO_ROOM,
    FLASH_OK,
    FLASH_PROGRAM,
    FlashOperation,
)
from virtflash.flash.device cimport Device, block_pages, compiler_barrier, page_data, page_record
from virtflash.flash.image cimport (
    BLOCK_BAD,
    BLOCK_ERASE_CUT,
    BLOCK_WEAK,
    PAGE_PROGRAMMED,
    PAGE_TORN,
    PAGE_UNSTABLE,
    BlockRecord,
    PageRecord,
)
from virtflash.flash.nand cimport read_blank
from virtflash.flash.page_record cimport is_programmed, is_stale, seal_page
from virtflash.flash.page_state cimport state_of
from virtflash.flash.physics cimport draw
from virtflash.flash.pieces cimport clear_bits, scatter, set_bit
from virtflash.flash.power_cut cimport begin_operation, end_operation, nor_tail
from virtflash.flash.space cimport reserve_page


cdef inline void read_unstable(Device *device, FlashOperation *operation, PageRecord *page) noexcept nogil:
    """One in eight bits of the stretch that a cut program left reads as not cleared, another one each time."""
    cdef uint32_t begin = max(nor_tail(page).unstable_offset, operation.offset)
    cdef uint32_t end = min(
        nor_tail(page).unstable_offset + nor_tail(page).unstable_length, operation.offset + operation.length
    )
    cdef uint32_t byte
    for byte in range(begin, end):
        set_bit(operation, byte - operation.offset, draw(&device.state.random) & 7)


cdef inline int nor_read(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef int status
    cdef uint32_t state
    cdef uint32_t size = device.geometry.page_bytes
    if operation.page >= device.geometry.pages_per_block or operation.length > size:
        return FLASH_MISUSE
    if operation.offset > size - operation.length:
        return FLASH_MISUSE
    block.reads += 1
    device.state.reads[0] += 1
    if block.next_page == 0 and not is_stale(device, block):
        return read_blank(device, operation)
    page = page_record(device, operation.block, operation.page)
    if not is_programmed(block, page):
        return read_blank(device, operation)
    state = state_of(device, operation.block, operation.page, page)
    scatter(operation, page_data(device, operation.block, operation.page) + operation.offset)
    if state == PAGE_UNSTABLE:
        read_unstable(device, operation, page)
    status = garble(device, operation, page) if state == PAGE_TORN else sample_errors(device, operation, page)
    if status < 0:
        device.state.uncorrectable += 1
    return status


cdef inline void open_page(Device *device, FlashOperation *operation, PageRecord *page) noexcept nogil:
    """Give a page that is erased the bytes of one, and keep what is there in case that power goes."""
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef char *data = page_data(device, operation.block, operation.page)
    cdef uint32_t size = device.geometry.page_bytes
    if not is_programmed(block, page):
        memset(data, 0xff, size)
        memset(nor_tail(page), 0, device.record_bytes - sizeof(PageRecord))
    memcpy(device.state.page_before, data, size)


cdef inline void write_bits(
    Device *device, FlashOperation *operation, BlockRecord *block, PageRecord *page
) noexcept nogil:
    cdef char *data = page_data(device, operation.block, operation.page)
    if not is_programmed(block, page):
        page.generation = block.generation
        page.hours = device.state.effective_hours
        page.decicelsius = <short>(device.state.celsius * 10)
        compiler_barrier()
        page.state = PAGE_PROGRAMMED
    clear_bits(data + operation.offset, operation)
    seal_page(device, page, data, device.geometry.page_bytes)
    compiler_barrier()
    block.next_page = block_pages(device, block)


cdef inline int nor_program(Device *device, FlashOperation *operation) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[operation.block]
    cdef PageRecord *page
    cdef int status = FLASH_OK
    cdef uint32_t size = device.geometry.page_bytes
    if block.flags & (BLOCK_BAD | BLOCK_ERASE_CUT) or operation.page >= device.geometry.pages_per_block:
        return FLASH_MISUSE
    if operation.length > size or operation.offset > size - operation.length:
        return FLASH_MISUSE
    if not reserve_page(device, operation.block, operation.page):
        return FLASH_NO_ROOM
    page = page_record(device, operation.block, operation.page)
    if is_programmed(block, page):
        state_of(device, operation.block, operation.page, page)  # what is torn stays so
    open_page(device, operation, page)
    begin_operation(device, FLASH_PROGRAM, operation.block, operation.page)
    device.state.programs[0] += 1
    if program_fails(device, block):
        status = FLASH_FAILED
    write_bits(device, operation, block, page)
    if status == FLASH_FAILED or block.flags & BLOCK_WEAK:
        page.state = PAGE_UNSTABLE
        nor_tail(page).unstable_offset = operation.offset
        nor_tail(page).unstable_length = operation.length
        seal_page(device, page, page_data(device, operation.block, operation.page), size)
    return end_operation(device, status)
