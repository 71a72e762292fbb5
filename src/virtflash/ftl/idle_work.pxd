"""What the device does for its own sake while nobody waits: one small step for each call."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.flash.chip cimport FLASH_PHYSICAL
from virtflash.ftl.allocation cimport erase_block
from virtflash.ftl.checkpoint cimport begin_checkpoint, checkpoint_due, checkpoint_step
from virtflash.ftl.collection cimport (
    block_to_collect,
    block_to_refresh,
    block_to_retire,
    choose_care,
    low_blocks,
    move_frame,
    slc_data_blocks,
    slc_limit,
    start_move,
)
from virtflash.ftl.safety cimport is_erasable, safe_sequence
from virtflash.ftl.state cimport (
    ANYBODY,
    CAUSE_OVERHEAD,
    CHECKPOINT_SLICES,
    FLAG_BLANK,
    MOVE_COLLECT,
    MOVE_NONE,
    NO_BLOCK,
    Ftl,
)


cdef inline bint wants_space(Ftl *ftl) noexcept nogil:
    """Some free blocks for the next burst, or fewer in SLC mode; more would be copied for nothing."""
    return ftl.free_blocks < low_blocks(ftl) + ftl.blocks // 64 or 2 * slc_data_blocks(ftl) > slc_limit(ftl)


cdef inline bint is_not_worth_it(const Ftl *ftl, uint32_t block) noexcept nogil:
    """Is there too little to gain for the wear?"""
    return block == NO_BLOCK or 2 * ftl.valid[block] > ftl.layouts[0].units * ftl.layouts[0].frames


cdef inline bint choose_idle_move(Ftl *ftl) noexcept nogil:
    cdef uint32_t block
    if block_to_retire(ftl) != NO_BLOCK or block_to_refresh(ftl) != NO_BLOCK:
        choose_care(ftl)
        return ftl.move.why != MOVE_NONE
    if not wants_space(ftl):
        return False
    block = block_to_collect(ftl, ftl.writer if ftl.isolated else <uint32_t>ANYBODY)
    if is_not_worth_it(ftl, block) and ftl.isolated:
        block = block_to_collect(ftl, ANYBODY)
    if is_not_worth_it(ftl, block):
        return False
    start_move(ftl, MOVE_COLLECT, block)
    return True


cdef inline void erase_ahead(Ftl *ftl, uint32_t first, uint32_t count) noexcept nogil:
    """Erase what is free among some blocks, wholly: a write need not wait for it then, and an image gets smaller. It is
    remembered over a clean stop; after a power cut they are erased again, since nobody could tell."""
    cdef uint64_t safe = safe_sequence(ftl)
    cdef uint32_t block
    for block in range(first, min(first + count, ftl.blocks)):
        if ftl.lost_power or ftl.read_only:
            return
        if is_erasable(ftl, block, safe) and not ftl.flags[block] & FLAG_BLANK:
            if erase_block(ftl, block, FLASH_PHYSICAL) == 0:
                ftl.flags[block] = FLAG_BLANK


cdef inline bint one_step(Ftl *ftl) noexcept nogil:
    if ftl.lost_power or ftl.exhausted:
        return False
    if ftl.move.why == MOVE_NONE and not choose_idle_move(ftl):
        if checkpoint_due(ftl):
            begin_checkpoint(ftl)
        return ftl.checkpoint.state == CHECKPOINT_SLICES and checkpoint_step(ftl) == 0
    return move_frame(ftl) == 0


cdef inline bint work_step(Ftl *ftl) noexcept nogil:
    """True: there is more to do. It is nobody's doing in particular."""
    cdef uint32_t cause = ftl.cause
    cdef bint more
    ftl.cause = CAUSE_OVERHEAD
    more = one_step(ftl)
    ftl.cause = cause
    return more
