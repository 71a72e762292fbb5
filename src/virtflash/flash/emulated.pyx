"""Emulated flash: a chip that lives in an image, mapped into memory (docs/image-format.md)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.uio cimport iovec

import os

from virtflash.flash.chip cimport (
    FLASH_ERASE,
    FLASH_ERASED,
    FLASH_FAILED,
    FLASH_IS_BAD,
    FLASH_MARK_BAD,
    FLASH_MISUSE,
    FLASH_NAND,
    FLASH_NO_ROOM,
    FLASH_NOR,
    FLASH_NOWHERE,
    FLASH_OK,
    FLASH_PHYSICAL,
    FLASH_POWER_LOST,
    FLASH_PROGRAM,
    FLASH_PURGE,
    FLASH_READ,
    FLASH_SLC,
    FLASH_UNCORRECTABLE,
    Chip,
    FlashOperation,
    Geometry,
)
from virtflash.flash.device cimport Device
from virtflash.flash.image cimport (
    BLOCK_BAD,
    BLOCK_MARKED_BAD,
    PAGE_HEADER_BYTES,
    STATE_OFFSET,
    BlockRecord,
    State,
)
from virtflash.flash.nand cimport nand_erase, nand_program, nand_read

ERASED = FLASH_ERASED
FAILED = FLASH_FAILED
MISUSE = FLASH_MISUSE
NO_ROOM = FLASH_NO_ROOM
OK = FLASH_OK
POWER_LOST = FLASH_POWER_LOST
UNCORRECTABLE = FLASH_UNCORRECTABLE


cdef int obey(Device *device, FlashOperation *operation) noexcept nogil:
    if operation.block >= device.geometry.blocks:
        return FLASH_MISUSE
    if operation.kind == FLASH_READ:
        return nand_read(device, operation)
    if operation.kind == FLASH_PROGRAM:
        return nand_program(device, operation)
    if operation.kind == FLASH_ERASE:
        return nand_erase(device, operation)
    if operation.kind == FLASH_MARK_BAD:
        device.blocks[operation.block].flags |= BLOCK_MARKED_BAD
        return FLASH_OK
    if operation.kind == FLASH_IS_BAD:
        operation.worst_share = 1 if device.blocks[operation.block].flags & BLOCK_BAD else 0
        return FLASH_OK
    return FLASH_OK if operation.kind == FLASH_PURGE else FLASH_MISUSE


cdef void submit(Chip *chip, FlashOperation *operation) noexcept nogil:
    operation.corrected_bits = operation.worst_share = 0
    operation.ready_ns = 0
    operation.status = obey(<Device *>chip.device, operation)
    operation.done = True


cdef void wait(Chip *chip, FlashOperation *operation) noexcept nogil:
    pass  # it is done already


cdef uint64_t hours(Chip *chip) noexcept nogil:
    return <uint64_t>(<Device *>chip.device).state.effective_hours


cdef class EmulatedFlash:
    def __cinit__(self):
        memset(&self.chip, 0, sizeof(Chip))
        memset(&self.device, 0, sizeof(Device))
        self.device.fd = -1
        self.device.geometry = &self.chip.geometry
        self.chip.device = &self.device
        self.chip.submit = submit
        self.chip.wait = wait
        self.chip.hours = hours

    def __dealloc__(self):
        if self.device.base != NULL:
            munmap(self.device.base, self.device.mapped_bytes)
        free(<void *>self.chip.geometry.endangers)

    @classmethod
    def in_memory(
        cls, *, kind="nand", page_bytes=4096, spare_bytes=64, pages_per_block=64, blocks=64, bits_per_cell=1,
        slc_page_bytes=0, slc_pages_per_block=0, endurance=3000, slc_endurance=30000, dies=1, pair_table=None, seed=0,
    ):
        cdef EmulatedFlash self = cls()
        cdef Geometry *geometry = &self.chip.geometry
        geometry.kind = FLASH_NAND if kind == "nand" else FLASH_NOR
        geometry.bits_per_cell = bits_per_cell
        geometry.page_bytes = page_bytes
        geometry.spare_bytes = spare_bytes
        geometry.pages_per_block = pages_per_block
        geometry.blocks = blocks
        geometry.slc_page_bytes = slc_page_bytes
        geometry.slc_pages_per_block = slc_pages_per_block
        geometry.endurance = endurance
        geometry.slc_endurance = slc_endurance
        geometry.dies = dies
        self.take_pairs(pair_table)
        self.map_image(os.memfd_create("flash"))
        return self

    cdef int take_pairs(self, pair_table) except -1:
        """`pair_table`: by page, the earlier page that it endangers, or None or 65535 for none."""
        cdef uint16_t *table
        cdef uint32_t page
        if pair_table is None:
            return 0
        table = <uint16_t *>calloc(self.chip.geometry.pages_per_block, sizeof(uint16_t))
        if table == NULL:
            raise MemoryError
        self.chip.geometry.endangers = table
        for page in range(self.chip.geometry.pages_per_block):
            table[page] = FLASH_NOWHERE if pair_table[page] is None else pair_table[page]
            if table[page] != FLASH_NOWHERE:
                self.chip.geometry.pair_distance = max(self.chip.geometry.pair_distance, page - table[page])
        return 0

    cdef int map_image(self, int fd) except -1:
        cdef Device *device = &self.device
        cdef Geometry *geometry = &self.chip.geometry
        cdef uint64_t offset
        cdef uint64_t records
        cdef void *base
        device.fd = fd
        device.record_bytes = 64 if PAGE_HEADER_BYTES + geometry.spare_bytes <= 64 else 128
        device.record_pages = max(geometry.pages_per_block, geometry.slc_pages_per_block)
        device.block_bytes = max(
            <uint64_t>geometry.pages_per_block * geometry.page_bytes,
            <uint64_t>geometry.slc_pages_per_block * geometry.slc_page_bytes,
        )
        records = 8192 + (<uint64_t>geometry.blocks * sizeof(BlockRecord) + 4095) // 4096 * 4096
        offset = records + <uint64_t>geometry.blocks * device.record_pages * device.record_bytes
        offset = (offset + (2 << 20) - 1) // (2 << 20) * (2 << 20)
        device.mapped_bytes = offset + geometry.blocks * device.block_bytes
        os.ftruncate(fd, device.mapped_bytes)
        base = mmap(NULL, device.mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if base == MAP_FAILED:
            raise MemoryError
        device.base = <char *>base
        device.state = <State *>(device.base + STATE_OFFSET)
        device.blocks = <BlockRecord *>(device.base + 8192)
        device.page_records = device.base + records
        device.data = device.base + offset
        return 0

    def close(self):
        if self.device.fd >= 0:
            os.close(self.device.fd)
            self.device.fd = -1

    def read(self, uint32_t block, uint32_t page, uint32_t offset=0, length=None):
        cdef FlashOperation operation
        cdef iovec piece
        size = self.page_bytes(block)
        data = bytearray(size - offset if length is None else length)
        spare = bytearray(self.chip.geometry.spare_bytes)
        cdef char[::1] data_view
        cdef char[::1] spare_view
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.page = FLASH_READ, block, page
        operation.offset, operation.length = offset, len(data)
        if data:
            data_view = data
            piece.iov_base, piece.iov_len = &data_view[0], len(data)
            operation.iov, operation.iov_count = &piece, 1
        if spare:
            spare_view = spare
            operation.spare = &spare_view[0]
        submit(&self.chip, &operation)
        return operation.status, bytes(data), bytes(spare)

    def program(self, uint32_t block, uint32_t page, const unsigned char[::1] data not None, spare=None, offset=0):
        cdef FlashOperation operation
        cdef iovec piece
        cdef const unsigned char[::1] spare_view
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.page = FLASH_PROGRAM, block, page
        operation.offset, operation.length = offset, len(data)
        if len(data):
            piece.iov_base, piece.iov_len = <void *>&data[0], len(data)
            operation.iov, operation.iov_count = &piece, 1
        if spare is not None:
            spare_view = bytes(spare).ljust(self.chip.geometry.spare_bytes, b"\xff")
            operation.spare = <char *>&spare_view[0]
        submit(&self.chip, &operation)
        return operation.status

    def _simple(self, kind, block, flags=0):
        cdef FlashOperation operation
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.flags = kind, block, flags
        submit(&self.chip, &operation)
        return operation.worst_share if kind == FLASH_IS_BAD else operation.status

    def erase(self, block, *, slc=False, physical=False):
        return self._simple(FLASH_ERASE, block, (FLASH_SLC if slc else 0) | (FLASH_PHYSICAL if physical else 0))

    def is_bad(self, block):
        return bool(self._simple(FLASH_IS_BAD, block))

    def mark_bad(self, block):
        return self._simple(FLASH_MARK_BAD, block)

    def page_bytes(self, uint32_t block):
        """Of a page of this block, in the mode that it is in."""
        slc = self.device.blocks[block].flags & 1
        return self.chip.geometry.slc_page_bytes if slc else self.chip.geometry.page_bytes
