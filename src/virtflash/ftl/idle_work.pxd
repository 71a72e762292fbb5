"""What the device does for its own sake while nobody waits: one small step for each call."""

from libc.stdint cimport uint32_t

from virtflash.ftl.checkpoint cimport begin_checkpoint, checkpoint_due, checkpoint_step
from virtflash.ftl.collection cimport (
    LOW_BLOCKS,
    block_to_collect,
    block_to_refresh,
    block_to_retire,
    choose_care,
    move_frame,
    slc_data_blocks,
    slc_limit,
    start_move,
)
from virtflash.ftl.state cimport (
    CHECKPOINT_IDLE,
    CHECKPOINT_SLICES,
    MOVE_COLLECT,
    MOVE_NONE,
    NO_BLOCK,
    Ftl,
)


cdef inline bint wants_space(const Ftl *ftl) noexcept nogil:
    """Some free blocks for the next burst, or fewer in SLC mode; more would be copied for nothing."""
    return ftl.free_blocks < LOW_BLOCKS + ftl.blocks // 64 or 2 * slc_data_blocks(ftl) > slc_limit(ftl)


cdef inline bint choose_idle_move(Ftl *ftl) noexcept nogil:
    cdef uint32_t block
    if block_to_retire(ftl) != NO_BLOCK or block_to_refresh(ftl) != NO_BLOCK:
        choose_care(ftl)
        return ftl.move.why != MOVE_NONE
    if not wants_space(ftl):
        return False
    block = block_to_collect(ftl)
    if block == NO_BLOCK or 2 * ftl.valid[block] > ftl.layouts[0].units * ftl.layouts[0].frames:
        return False  # too little to gain to be worth the wear
    start_move(ftl, MOVE_COLLECT, block)
    return True


cdef inline bint work_step(Ftl *ftl) noexcept nogil:
    """True: there is more to do."""
    if ftl.lost_power or ftl.exhausted:
        return False
    if ftl.move.why == MOVE_NONE and not choose_idle_move(ftl):
        if checkpoint_due(ftl):
            begin_checkpoint(ftl)
        return ftl.checkpoint.state == CHECKPOINT_SLICES and checkpoint_step(ftl) == 0
    return move_frame(ftl) == 0
