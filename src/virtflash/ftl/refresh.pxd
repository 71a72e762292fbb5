"""Data refresh: what begins to fade is written anew, before the error correction is at its end.

A block is marked by the corrected bits of a read, by the reads since it was erased, by its age at temperature, or by
somebody who knows better; `collection` moves what is valid in it. The patrol reads what nobody else reads.
"""

from libc.stdint cimport uint32_t

from virtflash.ftl.frame cimport FrameLayout, layout_of, read_slot
from virtflash.ftl.safety cimport doom_block
from virtflash.ftl.state cimport BLOCK_CLOSED, FLAG_META, FLAG_REFRESH, NO_BLOCK, Ftl


cdef inline void mark_for_refresh(Ftl *ftl, uint32_t block) noexcept nogil:
    if ftl.use[block] == BLOCK_CLOSED and not ftl.flags[block] & (FLAG_META | FLAG_REFRESH):
        ftl.flags[block] |= FLAG_REFRESH


cdef inline void note_read(Ftl *ftl, uint32_t block, uint32_t share) noexcept nogil:
    """What a read told about its block."""
    ftl.reads[block] += 1
    ftl.worst_share = max(ftl.worst_share, share)
    if share >= ftl.settings.refresh_share or ftl.reads[block] >= ftl.settings.refresh_reads:
        mark_for_refresh(ftl, block)


cdef inline bint is_old(Ftl *ftl, uint32_t block) noexcept nogil:
    cdef uint32_t now
    if ftl.settings.refresh_hours == 0 or ftl.use[block] != BLOCK_CLOSED:
        return False
    now = <uint32_t>ftl.chip.hours(ftl.chip)
    return now > ftl.hours[block] and now - ftl.hours[block] >= ftl.settings.refresh_hours


cdef inline uint32_t block_to_refresh(const Ftl *ftl) noexcept nogil:
    cdef uint32_t block
    for block in range(ftl.blocks):
        # One that failed and is empty waits until it is safe to lose: there is nothing to do about it.
        if ftl.use[block] == BLOCK_CLOSED and ftl.flags[block] & FLAG_REFRESH and ftl.valid[block]:
            return block
    return NO_BLOCK


cdef inline uint32_t share_used(Ftl *ftl, uint32_t block, uint32_t frame) noexcept nogil:
    """Read all of a frame into `frame_buffer`, for what the correction has to say: percent of its strength."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef uint32_t share = 0
    cdef uint32_t i
    for i in range(layout.units):
        if read_slot(ftl, block, frame * layout.units + i, 0, ftl.unit_bytes, ftl.frame_buffer, &share) < 0:
            share = 100
    return share


cdef inline void look_at_new(Ftl *ftl, uint32_t block) noexcept nogil:
    """A block has just been filled. If even new data takes so much of the correction that too little is left for time
    and heat, it is worn out: refreshing would go to and fro, and wear more each time, until nothing can be corrected.
    Two frames have to say so: where few bits can be corrected, a single one may by chance."""
    cdef uint32_t share = ftl.settings.worn_share
    if share_used(ftl, block, layout_of(ftl, block).frames - 1) >= share and share_used(ftl, block, 0) >= share:
        if not ftl.lost_power:
            doom_block(ftl, block)


cdef inline bint patrol_step(Ftl *ftl) noexcept nogil:
    """Look at the next frame that holds data. True: the round over the device has come to its end."""
    cdef uint32_t block = ftl.patrol_block
    if block >= ftl.blocks:
        ftl.patrol_block = ftl.patrol_frame = 0
        return True
    if ftl.use[block] != BLOCK_CLOSED or ftl.flags[block] & FLAG_META or ftl.patrol_frame >= ftl.written[block]:
        ftl.patrol_block += 1
        ftl.patrol_frame = 0
        return False
    if ftl.patrol_frame == 0 and is_old(ftl, block):
        mark_for_refresh(ftl, block)
    note_read(ftl, block, share_used(ftl, block, ftl.patrol_frame))
    ftl.patrol_frame += 1
    return False
