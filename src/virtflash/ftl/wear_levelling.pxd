"""Static wear levelling: data that never changes keeps its blocks from wearing, so now and then it has to move.

The gap between the least and the most erased block is kept within a share of the average, not a fixed number: moving
all that lies still once for each so many cycles then costs the same small share of all writes over the whole life.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.ftl.state cimport BLOCK_BAD, BLOCK_CLOSED, FLAG_META, NO_BLOCK, Ftl

cdef enum:
    GAP_LEAST = 4  # cycles
    GAP_SHARE = 25  # one part in so many of the average


cdef inline uint32_t least_worn_closed(const Ftl *ftl) noexcept nogil:
    """Of the blocks that hold data, the one erased least: what lies in it has lain still longest."""
    cdef uint32_t best = NO_BLOCK
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.use[block] == BLOCK_CLOSED and not ftl.flags[block] & FLAG_META:
            if best == NO_BLOCK or ftl.erases[block] < ftl.erases[best]:
                best = block
    return best


cdef inline uint32_t mean_erases(const Ftl *ftl) noexcept nogil:
    """Of the blocks that are not bad."""
    cdef uint64_t total = 0
    cdef uint32_t good = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.use[block] != BLOCK_BAD:
            total += ftl.erases[block]
            good += 1
    return <uint32_t>(total // good) if good else 0


cdef inline uint32_t gap_allowed(uint32_t mean) noexcept nogil:
    return mean // GAP_SHARE if mean // GAP_SHARE > GAP_LEAST else <uint32_t>GAP_LEAST


cdef inline uint32_t block_to_level(const Ftl *ftl, uint32_t target) noexcept nogil:
    """A block whose data should move to `target`, the most worn one that is free, and let it rest. NO_BLOCK: wear is
    even enough."""
    cdef uint32_t best = least_worn_closed(ftl)
    if best == NO_BLOCK or target == NO_BLOCK or ftl.erases[target] <= ftl.erases[best]:
        return NO_BLOCK
    if ftl.erases[target] - ftl.erases[best] <= gap_allowed(mean_erases(ftl)):
        return NO_BLOCK
    return best


cdef inline bint is_overworn(const Ftl *ftl, uint32_t block) noexcept nogil:
    """Is a block ahead of the others by so much that it should rest?"""
    cdef uint32_t mean = mean_erases(ftl)
    return ftl.erases[block] > mean + gap_allowed(mean) // 2
