"""An emulated chip while it is open: the mapped image, and what is kept beside it in anonymous memory."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from virtflash.flash.chip cimport Geometry
from virtflash.flash.image cimport BLOCK_SLC, BlockRecord, PageRecord, State
from virtflash.flash.physics cimport Physics

cdef extern from *:
    """
    /* A killed process leaves in the page cache what it had stored, in the order of the instructions: that order is the
     * compiler's to keep. */
    static inline void compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }
    """
    void compiler_barrier() nogil
    void __builtin_prefetch(const void *place) nogil

cdef enum:
    DIES_MAX = 64

# The raw bit error rate of a block as last computed; good while age and reads are near.
cdef struct ErrorEstimate:
    float rate  # below 0: none
    float hours  # age of the data
    uint64_t reads

# Probabilities of what a cut leaves; the outcomes that are not named share what is left to 1.
cdef struct CutChances:
    double program_untouched
    double program_torn
    double program_unstable
    double pair_lost
    double erase_untouched
    double erase_half
    double erase_weak

cdef struct Timing:
    bint real
    uint64_t read_ns[2]  # by SLC mode
    uint64_t program_ns[2]
    uint64_t erase_ns[2]
    uint64_t transfer_ns_per_kib
    uint64_t free_ns[DIES_MAX]  # when each die has done what it was told

cdef struct Device:
    Geometry *geometry
    State *state
    BlockRecord *blocks
    char *page_records
    uint32_t record_bytes
    uint32_t record_pages  # of a block: the most that one of its modes has
    char *data
    uint64_t block_bytes
    bint lost_power
    bint read_only
    bint seals  # pages of NAND get checksums, in case the host crashes; NOR has nobody who would look at them
    uint8_t *reserved  # by window of the image: the file has room for all of it
    uint32_t window_shift
    uint64_t full_until_ns  # the host had no room; not asked again before
    ErrorEstimate *estimates  # by block
    float *page_factors  # by page, of raw bit errors; NULL: all alike
    Physics physics
    double slc_cycle_wear  # normal cycles that one in SLC mode is worth
    CutChances chances
    Timing timing
    uint64_t now_ns  # the owner's clock; 0: we look ourselves
    uint64_t operations  # programs and erases begun since it was opened
    int64_t cut_after  # so many programs and erases from now power goes; 0: it stays
    int32_t cut_how  # see power_cut.pxd
    bint hollow  # for measurements: data of pages that are not in SLC mode is not kept, and reads as a hole does
    uint32_t fail_programs_after  # so many programs from now one fails; 0: none
    uint32_t fail_erases_after
    char *base
    uint64_t mapped_bytes
    int fd


cdef inline bint is_slc(const BlockRecord *block) noexcept nogil:
    return block.flags & BLOCK_SLC


cdef inline bint is_hollow(const Device *device, const BlockRecord *block) noexcept nogil:
    return device.hollow and not is_slc(block)


cdef inline uint32_t page_bytes(const Device *device, const BlockRecord *block) noexcept nogil:
    return device.geometry.slc_page_bytes if is_slc(block) else device.geometry.page_bytes


cdef inline uint32_t block_pages(const Device *device, const BlockRecord *block) noexcept nogil:
    return device.geometry.slc_pages_per_block if is_slc(block) else device.geometry.pages_per_block


cdef inline PageRecord *page_record(const Device *device, uint32_t block, uint32_t page) noexcept nogil:
    cdef uint64_t number = <uint64_t>block * device.record_pages + page
    return <PageRecord *>(device.page_records + number * device.record_bytes)


cdef inline void fetch_ahead(const Device *device, uint32_t block, uint32_t page) noexcept nogil:
    """What a read will look at lies far apart: let the processor bring it at once."""
    if block < device.geometry.blocks and page < device.record_pages:
        __builtin_prefetch(&device.blocks[block])
        __builtin_prefetch(page_record(device, block, page))
        __builtin_prefetch(&device.estimates[block])


cdef inline char *page_data(const Device *device, uint32_t block, uint32_t page) noexcept nogil:
    return device.data + block * device.block_bytes + <uint64_t>page * page_bytes(device, &device.blocks[block])


cdef inline double wear(const Device *device, const BlockRecord *block) noexcept nogil:
    """Cycles of the block's present mode that all its cycles are worth."""
    if is_slc(block):
        return block.slc_cycles + (block.cycles / device.slc_cycle_wear if device.slc_cycle_wear > 0 else 0)
    return block.cycles + block.slc_cycles * device.slc_cycle_wear
