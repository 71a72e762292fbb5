"""Room in the image file: reserved before it is touched, given back where nothing is needed.

A hole that is touched while the host's disk is full is a SIGBUS; so is, on tmpfs, a hole that is only read.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.engine.system cimport FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate
from virtflash.flash.device cimport Device, block_pages, page_bytes, page_record
from virtflash.flash.image cimport BLOCK_BAD, BLOCK_NOT_WIPED, HOST_PAGE_BYTES, BlockRecord, PageRecord
from virtflash.flash.page_record cimport is_programmed


cdef inline bint allocate(Device *device, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    while fallocate(device.fd, mode, offset, length):
        if errno != EINTR:
            return False
    return True


cdef inline bint reserve(Device *device, uint32_t block) noexcept nogil:
    """Room for a block's data and the records of its pages. False: the host has none."""
    cdef uint64_t records = device.record_pages * device.record_bytes
    cdef uint64_t begin
    if device.reserved[block]:
        return True
    begin = device.page_records - device.base + block * records
    if not allocate(device, 0, begin, records):
        return False
    if not allocate(device, 0, device.data - device.base + block * device.block_bytes, device.block_bytes):
        return False
    device.reserved[block] = True
    return True


cdef inline void wipe(Device *device, uint32_t block, uint64_t begin, uint64_t end) noexcept nogil:
    """Bytes of a block's data that nobody needs: a hole where the file system makes one, else zeroes."""
    cdef uint64_t offset = block * device.block_bytes + begin
    if begin == end:
        return
    device.reserved[block] = False
    if not allocate(
        device, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, device.data - device.base + offset, end - begin
    ):
        memset(device.data + offset, 0, end - begin)


cdef inline void forget_record(Device *device, PageRecord *page) noexcept nogil:
    memset(page, 0, device.record_bytes)


cdef inline void wipe_block(Device *device, uint32_t number) noexcept nogil:
    """Leave nothing in the file of what was erased in this block; of a bad block, nothing at all."""
    cdef BlockRecord *block = &device.blocks[number]
    cdef bint needed = not block.flags & BLOCK_BAD
    cdef uint64_t size = page_bytes(device, block)
    cdef uint64_t begin = 0
    cdef uint32_t page
    for page in range(device.record_pages):
        if needed and page < block_pages(device, block) and is_programmed(block, page_record(device, number, page)):
            wipe(device, number, begin, page * size)
            begin = (page + 1) * size
        else:
            forget_record(device, page_record(device, number, page))
    wipe(device, number, begin, device.block_bytes)
    block.flags &= ~BLOCK_NOT_WIPED
    if not needed:
        block.next_page = 0


cdef inline bint is_unwiped(const BlockRecord *block) noexcept nogil:
    return block.flags & BLOCK_NOT_WIPED or (block.flags & BLOCK_BAD and block.next_page)


cdef inline void wipe_blocks(Device *device, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t block
    for block in range(first, min(first + count, device.geometry.blocks)):
        if is_unwiped(&device.blocks[block]):
            wipe_block(device, block)


cdef inline uint32_t give_back(Device *device, uint32_t first, uint32_t count) noexcept nogil:
    """Room of blocks that were erased and not used again, to the host: how many blocks' there was."""
    cdef uint32_t given = 0
    cdef uint32_t block
    for block in range(first, min(first + count, device.geometry.blocks)):
        if device.blocks[block].flags & BLOCK_NOT_WIPED and device.blocks[block].next_page == 0:
            wipe_block(device, block)
            given += 1
    return given
