"""The parts of an image file that change while it is mapped, as they lie in it (docs/image-format.md); host byte order.

The superblock, which never changes, is `image.py`'s.
"""

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    IMAGE_PAGE_BYTES = 4096  # what the host writes back at once; no record straddles such a border
    STATE_OFFSET = 4096
    PAGE_HEADER_BYTES = 32  # of a page record; the spare bytes follow

# How the process that had the image before let go of it.
cdef enum:
    LEFT_OPEN = 0  # it did not: it was killed, or it is still there
    LEFT_CLOSED = 1  # in order; what it wrote may not have reached the disk
    LEFT_SYNCED = 2  # in order, all on disk

cdef struct State:
    # The operation in flight: set before anything of it is done, cleared after all of it is.
    uint32_t in_flight  # FLASH_PROGRAM or FLASH_ERASE; 0: none
    uint32_t flight_block
    uint32_t flight_page
    uint32_t left  # LEFT_*
    uint64_t random
    double hours  # the device has lived
    double effective_hours  # the same, weighted by Arrhenius's factor to the profile's reference temperature
    double celsius
    uint64_t reads[2]  # operations, by SLC mode
    uint64_t programs[2]
    uint64_t erases[2]
    uint64_t corrected_bits
    uint64_t uncorrectable
    uint64_t failed_programs
    uint64_t failed_erases
    uint64_t power_cuts
    uint32_t epoch  # crashes of the host survived
    uint32_t host_sync  # pages written since it was opened last carry checksums
    uint8_t boot_id[16]  # of the host when it was opened last

# Flags of a block record.
cdef enum:
    BLOCK_SLC = 1  # in SLC mode since the last erase
    BLOCK_FACTORY_BAD = 2
    BLOCK_MARKED_BAD = 4
    BLOCK_BROKEN = 8  # a program or erase failed: every later one fails too
    BLOCK_ERASE_CUT = 16  # power went during its erase: nothing but another erase helps
    BLOCK_WEAK = 32  # it looks erased, but what is programmed into it does not hold
    BLOCK_NOT_WIPED = 64  # bytes of erased pages are still in the file
    BLOCK_BAD = BLOCK_FACTORY_BAD | BLOCK_MARKED_BAD

cdef struct BlockRecord:
    uint64_t generation  # of its contents: another one after each erase; epoch in the upper half
    uint32_t next_page  # to be programmed; NOR: 0 if nothing was programmed since the erase
    uint32_t flags
    uint32_t cycles  # erases into the normal mode
    uint32_t slc_cycles  # erases into SLC mode
    uint64_t reads  # since the last erase
    float factor  # of its raw bit errors, by nature
    uint32_t failures
    double erased_hours  # effective, at the last erase
    uint8_t reserved[16]

cdef enum:
    PAGE_BLANK = 0
    PAGE_PROGRAMMED = 1
    PAGE_TORN = 2  # uncorrectable, for good
    PAGE_UNSTABLE = 3  # reads as asked for, or not at all, by chance
    PAGE_BARELY = 4  # reads as not programmed, or not at all, by chance

cdef enum:
    PAGE_SEALED = 1  # the checksums are there

cdef struct PageRecord:
    uint32_t record_crc  # of the rest of the record; PAGE_SEALED
    uint32_t data_crc  # of all the page's data; PAGE_SEALED
    uint64_t generation  # the block's when it was programmed; it counts only while the two are equal
    double hours  # effective, when programmed
    uint8_t state  # PAGE_*
    uint8_t flags  # PAGE_SEALED
    int16_t decicelsius  # tenths of a degree, when programmed
    uint32_t epoch  # it was written, or found whole, after so many crashes of the host
