"""The record of a page: when it counts, its checksums, and what a crash of the host has made of it."""

from libc.stdint cimport uint32_t

from virtflash.flash.crc32c cimport crc32c
from virtflash.flash.device cimport Device, block_pages, page_bytes, page_data, page_record
from virtflash.flash.image cimport PAGE_BLANK, PAGE_SEALED, PAGE_TORN, BlockRecord, PageRecord


cdef inline bint is_programmed(const BlockRecord *block, const PageRecord *page) noexcept nogil:
    return page.state != PAGE_BLANK and page.generation == block.generation


cdef inline uint32_t record_checksum(const Device *device, const PageRecord *page) noexcept nogil:
    return crc32c(<const char *>page + sizeof(uint32_t), device.record_bytes - sizeof(uint32_t))


cdef inline void seal_record(Device *device, PageRecord *page) noexcept nogil:
    """After any change of the record."""
    if page.flags & PAGE_SEALED:
        page.record_crc = record_checksum(device, page)


cdef inline void seal_page(Device *device, PageRecord *page, const char *data, uint32_t size) noexcept nogil:
    """After the data has changed."""
    page.flags = PAGE_SEALED if device.seals else 0
    page.epoch = device.state.epoch
    if device.seals:
        page.data_crc = crc32c(data, size)
        page.record_crc = record_checksum(device, page)


cdef inline bint is_whole(Device *device, uint32_t block, uint32_t number, PageRecord *page) noexcept nogil:
    """Are record and data of one moment? Without checksums nobody knows."""
    if not page.flags & PAGE_SEALED:
        return True
    if page.record_crc != record_checksum(device, page):
        return False
    return page.data_crc == crc32c(page_data(device, block, number), page_bytes(device, &device.blocks[block]))


cdef inline void settle_page(Device *device, PageRecord *page, bint whole) noexcept nogil:
    """Write down what a look at a page after a crash of the host has shown, so that nobody looks again."""
    if not whole:
        page.state = PAGE_TORN
        page.flags |= PAGE_SEALED
    page.epoch = device.state.epoch
    seal_record(device, page)


cdef inline bint is_stale(const Device *device, const BlockRecord *block) noexcept nogil:
    """Was the block erased before a crash of the host? Then its record may be older than those of its pages."""
    return block.generation >> 32 != device.state.epoch


cdef inline void settle_block(Device *device, uint32_t number) noexcept nogil:
    """Before a stale block is programmed: find the last page that was."""
    cdef BlockRecord *block = &device.blocks[number]
    cdef uint32_t page = block_pages(device, block)
    while page > block.next_page and not is_programmed(block, page_record(device, number, page - 1)):
        page -= 1
    block.next_page = page
