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


cdef inline uint32_t block_to_level(const Ftl *ftl) noexcept nogil:
    """A block whose data should move to a more worn one; NO_BLOCK: wear is even enough."""
    cdef uint32_t best = least_worn_closed(ftl)
    cdef uint64_t total = 0
    cdef uint32_t most = 0
    cdef uint32_t good = 0
    cdef uint32_t allowed
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.use[block] != BLOCK_BAD:
            total += ftl.erases[block]
            good += 1
            most = ftl.erases[block] if ftl.erases[block] > most else most
    if best == NO_BLOCK or good == 0:
        return NO_BLOCK
    allowed = <uint32_t>(total // good // GAP_SHARE)
    allowed = allowed if allowed > GAP_LEAST else GAP_LEAST
    return best if most - ftl.erases[best] > allowed else <uint32_t>NO_BLOCK
