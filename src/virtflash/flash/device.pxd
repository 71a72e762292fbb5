"""An emulated chip while it is open: the mapped image, and what is kept beside it in anonymous memory."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from virtflash.flash.chip cimport FLASH_NOWHERE, FlashOperation, Geometry
from virtflash.flash.image cimport BLOCK_SLC, BlockRecord, PageRecord, State

cdef extern from *:
    """
    static inline void compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }
    """
    void compiler_barrier() nogil

cdef struct Device:
    Geometry *geometry
    char *base
    uint64_t mapped_bytes
    State *state
    BlockRecord *blocks
    char *page_records
    uint32_t record_bytes
    uint32_t record_pages  # of a block: the most that one of its modes has
    char *data
    uint64_t block_bytes
    int fd
    bint lost_power
    uint64_t operations  # programs and erases begun


cdef inline bint is_slc(const BlockRecord *block) noexcept nogil:
    return block.flags & BLOCK_SLC


cdef inline uint32_t page_bytes(const Device *device, const BlockRecord *block) noexcept nogil:
    return device.geometry.slc_page_bytes if is_slc(block) else device.geometry.page_bytes


cdef inline uint32_t block_pages(const Device *device, const BlockRecord *block) noexcept nogil:
    return device.geometry.slc_pages_per_block if is_slc(block) else device.geometry.pages_per_block


cdef inline PageRecord *page_record(const Device *device, uint32_t block, uint32_t page) noexcept nogil:
    cdef uint64_t number = <uint64_t>block * device.record_pages + page
    return <PageRecord *>(device.page_records + number * device.record_bytes)


cdef inline char *page_data(const Device *device, uint32_t block, uint32_t page) noexcept nogil:
    return device.data + block * device.block_bytes + <uint64_t>page * page_bytes(device, &device.blocks[block])
