"""The contract of raw flash: what a translation layer may ask of a chip, and what it must be ready for.

A chip is blocks of pages. A page is what is programmed at once, a block what is erased at once.

* NAND: the pages of a block are programmed in ascending order, each once between two erases, with their spare bytes.
  A block may be run in SLC mode for one cycle, from an erase with FLASH_SLC to the next erase: then it has
  `slc_pages_per_block` pages of `slc_page_bytes`, each safe and durable by itself.
* NOR: no spare bytes. A program only clears bits, any range inside a page, as often as wanted.
* A page of a multi-level part shares its cells with an earlier one (`endangers`): while it is being programmed a power
  cut may destroy that earlier page, although it was programmed long ago. A page is *exposed* until every page that
  endangers it is programmed, or the block will be programmed no more.
* After a power cut, whatever was in flight may read as before, as asked for, as neither, or differently each time; so
  may a page that it endangered. A block whose erase was cut looks like anything and has to be erased again.

Operations are submitted and completed: `submit` may return before the operation is done, `wait` returns when it is.
An emulated chip is done when `submit` returns. The memory that an operation points to stays in place until then.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef enum:
    FLASH_NAND
    FLASH_NOR

cdef enum:
    FLASH_READ
    FLASH_PROGRAM
    FLASH_ERASE
    FLASH_MARK_BAD  # persistently; it is never erased or programmed again
    FLASH_IS_BAD  # `worst_share` becomes 1 or 0
    FLASH_PURGE  # leave nothing in the medium of what was erased before, of `length` blocks from `block` on; with 0, of
    # all of them, bad ones too; erased cells of real parts hold nothing

# Flags of an operation.
cdef enum:
    FLASH_SLC = 1  # of an erase: run the block in SLC mode until the next erase
    FLASH_PHYSICAL = 2  # of an erase: nothing of the data may be left in the medium when it is done

# How an operation ended.
cdef enum:
    FLASH_OK = 0
    FLASH_ERASED = 1  # of a read: OK, and every byte asked for is 0xff because the page was not programmed
    FLASH_UNCORRECTABLE = -1  # of a read: the bytes are there, with errors in them
    FLASH_FAILED = -2  # of a program or erase: the block is worn or broken; programmed pages of it can still be read
    FLASH_POWER_LOST = -3  # nothing works until power returns
    FLASH_NO_ROOM = -4  # of a program: the host's disk is full (emulated flash only); nothing was changed
    FLASH_MISUSE = -5  # out of order, out of range, a second program, a marked block: the caller's mistake

cdef enum:
    FLASH_NOWHERE = 0xffff

cdef struct Geometry:
    uint8_t kind
    uint8_t bits_per_cell
    uint32_t page_bytes
    uint32_t spare_bytes  # of a page that the user of the chip may fill; 0 on NOR
    uint32_t pages_per_block
    uint32_t blocks
    uint32_t slc_page_bytes  # 0: there is no SLC mode
    uint32_t slc_pages_per_block
    uint32_t endurance  # rated cycles
    uint32_t slc_endurance  # rated cycles in SLC mode
    uint32_t dies  # block b lies on die b % dies; for timing
    uint32_t pair_distance  # no page endangers one further back than so many pages; 0: none does
    const uint16_t *endangers  # by page: the earlier page of the block that shares its cells, or FLASH_NOWHERE

cdef struct FlashOperation:
    uint8_t kind
    uint8_t flags
    bint done
    int status
    uint32_t block
    uint32_t page
    uint32_t offset  # read, and program on NOR: bytes into the page
    uint32_t length  # bytes of data; 0: spare only
    iovec *iov  # data pieces, `length` bytes together
    uint32_t iov_count
    char *spare  # `spare_bytes` of it; NULL: not wanted
    uint32_t corrected_bits  # of a read: in all codewords touched
    uint32_t worst_share  # of a read: corrected bits of the worst codeword, in percent of the ECC's strength
    uint64_t ready_ns  # when the real part would be done, on the monotonic clock; 0: timing is not modelled

cdef struct Chip:
    Geometry geometry
    void *device  # the implementation's
    void (*submit)(Chip *chip, FlashOperation *operation) noexcept nogil
    void (*wait)(Chip *chip, FlashOperation *operation) noexcept nogil
    uint64_t (*hours)(Chip *chip) noexcept nogil  # of retention that data on it has aged since it was made, at the
    # reference temperature of its profile: device time accelerated by heat. 0 where nobody knows.


cdef inline int chip_do(Chip *chip, FlashOperation *operation) noexcept nogil:
    """Submit, wait, and return the status."""
    operation.done = False
    chip.submit(chip, operation)
    if not operation.done:
        chip.wait(chip, operation)
    return operation.status
