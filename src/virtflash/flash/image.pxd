"""The parts of an image file that change while it is mapped, as they lie in it; docs/image-format.md explains them.

Numbers are little-endian, as on every machine this runs on. The superblock, which never changes, is `image.py`'s.
"""

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    HOST_PAGE_BYTES = 4096  # what the host writes back at once; no record straddles such a border
    HOST_SECTOR_BYTES = 512  # what its disk writes at once; nor such a one
    STATE_OFFSET = 4096
    PAGE_HEADER_BYTES = 32  # of a page record; the spare bytes follow
    NOR_PAGE_BYTES_MAX = 2048  # the state has room for one page as it was

# Flags of a block record.
cdef enum:
    BLOCK_SLC = 1  # in SLC mode since the last erase
    BLOCK_FACTORY_BAD = 2
    BLOCK_MARKED_BAD = 4
    BLOCK_BROKEN = 8  # a program or erase failed: every later one fails too
    BLOCK_ERASE_CUT = 16  # power went during its erase: nothing but another erase helps
    BLOCK_WEAK = 32  # so too, and it looks erased: what is programmed into it does not hold
    BLOCK_NOT_WIPED = 64  # bytes of erased pages may still be in the file
    BLOCK_BAD = BLOCK_FACTORY_BAD | BLOCK_MARKED_BAD

cdef struct BlockRecord:
    uint64_t generation  # of its contents, another one after each erase; the upper half is `State.epoch` then
    uint32_t next_page  # no page from here on is programmed; NOR: 0 or all
    uint32_t flags
    uint32_t cycles  # erases into the normal mode
    uint32_t slc_cycles  # erases into SLC mode
    uint64_t reads  # since the last erase
    float factor  # of its raw bit errors, by nature
    uint32_t failures  # programs and erases of it that failed
    double erased_hours  # effective, at the last erase
    uint8_t reserved[16]

# States of a page, valid while the generation of its record is the block's. Any other value is taken for PAGE_TORN.
cdef enum:
    PAGE_BLANK = 0
    PAGE_PROGRAMMED = 1
    PAGE_TORN = 2  # uncorrectable for good
    PAGE_UNSTABLE = 3  # reads as asked for or not at all, each time anew
    PAGE_BARELY = 4  # reads as never programmed or not at all, each time anew

cdef enum:
    PAGE_SEALED = 1  # the checksums are there

cdef struct PageRecord:
    uint32_t record_crc  # CRC32C of the rest of the record; with PAGE_SEALED
    uint32_t data_crc  # CRC32C of the page's data; with PAGE_SEALED
    uint64_t generation  # the block's when it was programmed
    double hours  # effective, when it was programmed
    uint8_t state  # PAGE_*
    uint8_t flags  # PAGE_SEALED
    int16_t decicelsius  # tenths of a degree, when it was programmed
    uint32_t epoch  # it was written, or found whole, after so many crashes of the host

# Behind the header of a page record on NOR, where there are no spare bytes.
cdef struct NorTail:
    uint32_t unstable_offset  # bytes of the page that a cut program left unstable; PAGE_UNSTABLE
    uint32_t unstable_length

# How the process that had the image before let go of it.
cdef enum:
    LEFT_OPEN = 0  # it did not: it was killed, or has it still
    LEFT_CLOSED = 1  # in order; the disk may lack what it wrote
    LEFT_SYNCED = 2  # in order, all on the disk

cdef struct State:
    # The operation in flight: told before anything of it is done, taken back when all of it is.
    uint32_t in_flight  # FLASH_PROGRAM, FLASH_ERASE, or 0
    uint32_t flight_block
    uint32_t flight_page  # of an erase: its flags
    uint32_t left  # LEFT_*
    uint64_t random
    double hours  # of its life
    double effective_hours  # each weighted with its temperature
    double celsius
    uint32_t epoch  # crashes of the host that it went through
    uint32_t host_sync  # pages are sealed by who has it open, or had it last
    uint64_t corrected_bits
    # 64: operations since it was made, by SLC mode
    uint64_t reads[2]
    uint64_t programs[2]
    uint64_t erases[2]
    uint64_t uncorrectable  # pages read
    uint64_t power_cuts
    # 128
    uint64_t failed_programs
    uint64_t failed_erases
    uint8_t boot_id[16]  # of the host that it was opened on last
    uint8_t reserved[32]
    # 192
    BlockRecord before  # of the block that the operation in flight is about
    # 256
    uint8_t reserved_too[1792]
    # 2048
    uint8_t page_before[NOR_PAGE_BYTES_MAX]  # NOR: the data of that page
