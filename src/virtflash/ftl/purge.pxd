"""Secure erase and sanitise: no copy of the data is left anywhere in the medium, stale ones included.

Which blocks hold a copy is found by their frames' records. Each of those is emptied of what is still valid and erased
at once. A block that has been retired cannot be erased any more: where the chip cannot wipe it either, all other copies
go, and the answer is an error.

A caller keeps `step`: the phase in its upper half, a block in its lower; the highest bit: a copy is left.
"""

from libc.errno cimport EIO
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.flash.chip cimport FLASH_OK, FLASH_PHYSICAL, FLASH_PURGE, FLASH_UNCORRECTABLE, FlashOperation
from virtflash.ftl.allocation cimport close_stream, erase_block, retire
from virtflash.ftl.collection cimport end_move, move_frame, start_move
from virtflash.ftl.frame cimport FRAME_DATA, FrameLayout, FrameRecord, kind_of, layout_of, perform, read_record
from virtflash.ftl.safety cimport pad_exposed, safe_sequence
from virtflash.ftl.state cimport (
    BLOCK_BAD,
    BLOCK_CLOSED,
    BLOCK_FREE,
    FLAG_BLANK,
    FLAG_META,
    FLAG_TAINTED,
    MOVE_PURGE,
    Ftl,
)
from virtflash.ftl.trim_log cimport program_trims

cdef enum:
    PURGE_MARK
    PURGE_EMPTY
    PURGE_WIPE
    PURGE_DONE
    PURGE_MORE = 0x10000  # as FTL_MORE
    PURGE_SYNC = 0x10001  # as FTL_SYNC
    PURGE_LEFT = 0x10002  # this block is bad, and holds a copy
    PHASE_MASK = 0x7fffffff
    EVERYTHING = 0xffffffff  # as a count: whatever is stale, of any unit


cdef inline bint names_any(const FrameRecord *record, uint32_t units, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t i
    if kind_of(record) != FRAME_DATA:
        return False
    for i in range(units):
        if record.words[i] >= first and record.words[i] - first < count:
            return True
    return False


cdef inline bint holds_any(Ftl *ftl, uint32_t block, uint32_t first, uint32_t count) noexcept nogil:
    """Was any frame of this block written for one of these units? A frame whose record cannot be read may have been.

    Of a bad block nobody knows the mode: it may have fewer pages than are asked for.
    """
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef FrameRecord record
    cdef uint32_t frame
    cdef int status
    for frame in range(layout.frames):
        status = read_record(ftl, block, frame, &record)
        if status == FLASH_UNCORRECTABLE or (status == FLASH_OK and names_any(&record, layout.units, first, count)):
            return True
    return False


cdef inline bint is_tainted(Ftl *ftl, uint32_t block, uint32_t first, uint32_t count) noexcept nogil:
    """Does a block hold what has to go: a copy of one of these units, or, with EVERYTHING, anything stale?"""
    if ftl.flags[block] & (FLAG_META | FLAG_BLANK):
        return False
    if count == EVERYTHING and ftl.use[block] != BLOCK_BAD:
        return ftl.use[block] == BLOCK_FREE or ftl.valid[block] < ftl.written[block] * layout_of(ftl, block).units
    return holds_any(ftl, block, first, count)


cdef inline void close_if_open(Ftl *ftl, uint32_t block) noexcept nogil:
    cdef uint32_t i
    for i in range(ftl.stream_count):
        if ftl.streams[i].block == block:
            close_stream(ftl, &ftl.streams[i])


cdef inline int purge_medium(Ftl *ftl, uint32_t block) noexcept nogil:
    """Where erased cells still hold something in the medium, one block's. One by one: a chip has many."""
    cdef FlashOperation operation
    memset(&operation, 0, sizeof(operation))
    operation.kind, operation.block, operation.length = FLASH_PURGE, block, 1
    return 0 if perform(ftl, &operation) == FLASH_OK else -EIO


cdef inline int wipe_bad(Ftl *ftl, uint32_t block, uint32_t first, uint32_t count) noexcept nogil:
    """Emulated chips can wipe what no erase reaches any more."""
    purge_medium(ftl, block)
    return PURGE_LEFT if holds_any(ftl, block, first, count) else 0


cdef inline int mark_block(Ftl *ftl, uint32_t block, uint32_t first, uint32_t count) noexcept nogil:
    if not is_tainted(ftl, block, first, count):
        return -EIO if ftl.lost_power else 0
    if ftl.use[block] == BLOCK_BAD:
        return wipe_bad(ftl, block, first, count)
    close_if_open(ftl, block)
    ftl.flags[block] |= FLAG_TAINTED
    return 0


cdef inline int wipe_free(Ftl *ftl, uint32_t block) noexcept nogil:
    """Erase a free block, physically."""
    cdef int result = erase_block(ftl, block, FLASH_PHYSICAL)
    if result == -EIO:
        return result
    if result == 0:
        ftl.flags[block] = FLAG_BLANK
    return 0


cdef inline int empty_block(Ftl *ftl, uint32_t block) noexcept nogil:
    """One step towards an erased block. 0: it is; PURGE_MORE; or why not."""
    cdef int result
    if ftl.use[block] == BLOCK_CLOSED and ftl.valid[block]:
        if ftl.move.block != block:
            end_move(ftl)  # of another block, which is begun again later
            start_move(ftl, MOVE_PURGE, block)
        result = move_frame(ftl)
        return result if result else <int>PURGE_MORE
    if ftl.dead_since[block] > safe_sequence(ftl):
        result = program_trims(ftl)
        if result:
            return result
        if pad_exposed(ftl) != FLASH_OK:
            return -EIO
        if ftl.dead_since[block] > safe_sequence(ftl):
            return PURGE_SYNC
    if ftl.use[block] == BLOCK_FREE:
        return wipe_free(ftl, block)
    retire(ftl, block)  # closed and empty: a program had failed in it
    return 0


cdef inline int purge_block(Ftl *ftl, uint32_t phase, uint32_t block, uint32_t first, uint32_t count) noexcept nogil:
    if phase == PURGE_MARK:
        return mark_block(ftl, block, first, count)
    if phase == PURGE_WIPE:
        return purge_medium(ftl, block)
    return empty_block(ftl, block) if ftl.flags[block] & FLAG_TAINTED else 0


cdef inline int purge(Ftl *ftl, uint32_t first, uint32_t count, uint64_t *step) noexcept nogil:
    """Units `first` to `first + count` are unmapped already. One part of the work; 0 when it is done."""
    cdef uint64_t left = step[0] >> 63
    cdef uint32_t phase = <uint32_t>(step[0] >> 32) & PHASE_MASK
    cdef uint32_t block = <uint32_t>step[0]
    cdef int result
    if phase == PURGE_DONE:
        ftl.counters.purges += 1
        return -EIO if left else 0
    if phase == PURGE_WIPE and block == 0:
        result = program_trims(ftl)
        if result:
            return result
    result = purge_block(ftl, phase, block, first, count)
    if result == PURGE_LEFT:
        left = 1
    elif result:
        return result
    block += 1
    if block == ftl.blocks:
        phase += 1
        block = 0
    step[0] = left << 63 | <uint64_t>phase << 32 | block
    return PURGE_MORE
