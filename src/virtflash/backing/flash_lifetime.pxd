"""How much of its life a flash has behind it, as an eMMC's EXT_CSD codes it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtflash.flash.chip cimport Geometry
from virtflash.ftl.state cimport Ftl

# PRE_EOL_INFO: use of the spare blocks
cdef enum:
    PRE_EOL_NORMAL = 1
    PRE_EOL_WARNING = 2  # from 80 % on
    PRE_EOL_URGENT = 3  # from 90 % on, or it takes no more writes
    LIFE_EXCEEDED = 11


cdef inline uint8_t pre_eol_info(const Ftl *ftl) noexcept nogil:
    cdef uint64_t used = ftl.bad_blocks - ftl.first_bad + ftl.doomed_blocks
    if ftl.read_only or used * 10 >= <uint64_t>ftl.reserve_blocks * 9:
        return PRE_EOL_URGENT
    return PRE_EOL_WARNING if used * 10 >= <uint64_t>ftl.reserve_blocks * 8 else PRE_EOL_NORMAL


cdef inline uint8_t life_estimate(double erases, double rated) noexcept nogil:
    """n: from (n - 1) x 10 % to n x 10 % of the rated erases are used."""
    if rated <= 0:
        return 0
    if erases >= rated:
        return LIFE_EXCEEDED
    return 1 + <uint8_t>(erases * 10 / rated)


cdef inline double total_erases(const Ftl *ftl) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        total += ftl.erases[block]
    return <double>total


cdef inline double cycles_used(const Ftl *ftl) noexcept nogil:
    """Rated cycles of blocks that are behind all of them together. One in SLC mode wears the cells less."""
    cdef double slc = <double>ftl.counters.slc_erases
    cdef double normal = max(total_erases(ftl) - slc, 0)
    if ftl.chip.geometry.slc_endurance:
        slc *= <double>ftl.chip.geometry.endurance / ftl.chip.geometry.slc_endurance
    return normal + slc


cdef inline void lifetime_of(const Ftl *ftl, double slc_share, uint8_t *three) noexcept nogil:
    """PRE_EOL_INFO; estimate A: what erases into SLC mode have used of the share of blocks that is meant for them;
    estimate B: of all blocks. Blocks change between the modes, so both are of the same cells."""
    cdef const Geometry *geometry = &ftl.chip.geometry
    three[0] = pre_eol_info(ftl)
    three[1] = three[2] = life_estimate(cycles_used(ftl), <double>ftl.blocks * geometry.endurance)
    if geometry.slc_endurance and slc_share > 0:
        three[1] = life_estimate(
            <double>ftl.counters.slc_erases, slc_share * ftl.blocks * geometry.slc_endurance
        )
