"""How much a flash has to do for its own sake, as an eMMC's BKOPS_STATUS codes it."""

from libc.stdint cimport uint32_t

from virtflash.ftl.allocation cimport reserved_blocks
from virtflash.ftl.collection cimport block_to_refresh, block_to_retire, low_blocks
from virtflash.ftl.state cimport MOVE_NONE, NO_BLOCK, Ftl

cdef enum:
    BACKGROUND_NONE
    BACKGROUND_OUTSTANDING  # not critical
    BACKGROUND_SLOWS  # writes pay for it
    BACKGROUND_CRITICAL


cdef inline int background_level(Ftl *ftl) noexcept nogil:
    if ftl.free_blocks <= reserved_blocks(ftl):
        return BACKGROUND_CRITICAL
    if ftl.free_blocks <= low_blocks(ftl):
        return BACKGROUND_SLOWS
    if ftl.move.why != MOVE_NONE or block_to_refresh(ftl) != NO_BLOCK or block_to_retire(ftl) != NO_BLOCK:
        return BACKGROUND_OUTSTANDING
    return BACKGROUND_NONE
