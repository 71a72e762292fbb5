"""Moving what is valid out of a block, so that the block is free: for space, for refresh, for level wear, for good.

One block is emptied at a time, a few frames with each frame that the host writes, so that nobody waits for a whole one.
Nothing is kept in memory between two steps but the place where the last one ended.
"""

from libc.errno cimport EIO, EROFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtflash.flash.chip cimport FLASH_OK, FLASH_POWER_LOST
from virtflash.ftl.allocation cimport (
    ERASABLE_LEAST,
    count_erasable,
    is_at_end,
    pick_free,
    reserved_blocks,
    retire,
)
from virtflash.ftl.append cimport append_units
from virtflash.ftl.frame cimport FRAME_DATA, FrameLayout, FrameRecord, kind_of, layout_of, read_record, read_slot
from virtflash.ftl.owners cimport cause_of_move, owner_of, stream_of
from virtflash.ftl.refresh cimport block_to_refresh
from virtflash.ftl.safety cimport safe_sequence
from virtflash.ftl.state cimport (
    ANYBODY,
    BLOCK_CLOSED,
    FLAG_ASIDE,
    FLAG_META,
    FLAG_RETIRE,
    FLAG_SLC,
    FRAME_UNITS_MAX,
    MOVE_COLLECT,
    MOVE_LEVEL,
    MOVE_NONE,
    MOVE_PURGE,
    MOVE_REFRESH,
    MOVE_RETIRE,
    NO_BLOCK,
    OWNER_MIXED,
    STREAM_COLD,
    STREAM_HOST,
    UNIT_UNMAPPED,
    Advised,
    Ftl,
)
from virtflash.ftl.trim_log cimport lose_unit, program_trims
from virtflash.ftl.wear_levelling cimport block_to_level

cdef enum:
    LOW_MARGIN = 2  # with so few free ones beyond the reserved, each frame of the host pays for some collection
    WORTH_MOST = 8  # of a block of the owner who writes, one part in so many is free: else all blocks are looked at
    READ_ATTEMPTS = 3
    COLLECT_MORE = 0x10000  # as FTL_MORE


cdef inline uint32_t slc_data_blocks(const Ftl *ftl) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        count += ftl.use[block] == BLOCK_CLOSED and (ftl.flags[block] & (FLAG_SLC | FLAG_META)) == FLAG_SLC
    return count


cdef inline uint32_t slc_limit(const Ftl *ftl) noexcept nogil:
    """Blocks in SLC mode hold less; so many of them are in the device's sizing."""
    cdef uint32_t share = ftl.blocks // 64
    return share if share > 2 else 2


cdef inline uint32_t low_blocks(Ftl *ftl) noexcept nogil:
    return reserved_blocks(ftl) + LOW_MARGIN


cdef inline bint may_be_of(const Ftl *ftl, uint32_t block, uint32_t owner) noexcept nogil:
    return owner == <uint32_t>ANYBODY or ftl.owner[block] == owner or ftl.owner[block] == OWNER_MIXED


cdef inline bint may_be_collected(const Ftl *ftl, uint32_t block, bint only_slc, uint32_t owner) noexcept nogil:
    if ftl.use[block] != BLOCK_CLOSED or ftl.flags[block] & (FLAG_META | FLAG_ASIDE):
        return False
    if (only_slc and not ftl.flags[block] & FLAG_SLC) or not may_be_of(ftl, block, owner):
        return False
    return ftl.valid[block] or not ftl.flags[block] & FLAG_RETIRE


cdef inline double collection_gain(const Ftl *ftl, uint32_t block) noexcept nogil:
    """What collecting a block is worth: greedily, the units that it frees; by age, benefit over cost (Rosenblum and
    Ousterhout, 1992), since what has been free for long will hardly get any freer."""
    cdef double units = ftl.layouts[0].units * ftl.layouts[0].frames
    cdef double valid = ftl.valid[block]
    cdef double age = 1
    if ftl.settings.by_age and ftl.sequence > ftl.dead_since[block]:
        age = <double>(ftl.sequence - ftl.dead_since[block])
        return age * (units - valid) / (units + valid)
    return units - valid


cdef inline uint32_t most_worth_collecting(const Ftl *ftl, bint only_slc, uint32_t owner) noexcept nogil:
    cdef uint32_t best = NO_BLOCK
    cdef double most = 0
    cdef double gain
    cdef uint32_t block
    for block in range(ftl.blocks):
        if not may_be_collected(ftl, block, only_slc, owner):
            continue
        gain = collection_gain(ftl, block)
        if best == NO_BLOCK or gain > most:
            best = block
            most = gain
    return best


cdef inline uint32_t block_to_collect(const Ftl *ftl, uint32_t owner) noexcept nogil:
    """The closed block of an owner that is worth most; of those in SLC mode, where they are many and not all held
    aside."""
    cdef uint32_t best = NO_BLOCK
    if slc_data_blocks(ftl) >= slc_limit(ftl):
        best = most_worth_collecting(ftl, True, owner)
    return best if best != NO_BLOCK else most_worth_collecting(ftl, False, owner)


cdef inline uint32_t block_to_retire(const Ftl *ftl) noexcept nogil:
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.use[block] == BLOCK_CLOSED and ftl.flags[block] & FLAG_RETIRE and ftl.valid[block]:
            return block
    return NO_BLOCK


cdef inline void retire_dead(Ftl *ftl) noexcept nogil:
    """Mark bad what failed and holds nothing any more."""
    cdef uint64_t safe = safe_sequence(ftl)
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.use[block] != BLOCK_CLOSED or not ftl.flags[block] & FLAG_RETIRE or ftl.flags[block] & FLAG_META:
            continue
        if ftl.valid[block] == 0 and ftl.dead_since[block] <= safe:
            retire(ftl, block)


cdef inline uint32_t slots_written(Ftl *ftl, uint32_t block) noexcept nogil:
    return ftl.written[block] * layout_of(ftl, block).units


cdef inline void units_from_map(Ftl *ftl, uint32_t block) noexcept nogil:
    """Which units lie in a block, found the long way: not all of its records can be read, or one of them lies."""
    cdef uint32_t base = block * ftl.block_units
    cdef uint32_t slots = slots_written(ftl, block)
    cdef uint32_t slot
    cdef uint32_t unit
    for slot in range(slots):
        ftl.move.units[slot] = <uint32_t>UNIT_UNMAPPED
    for unit in range(ftl.units):
        if ftl.map[unit] - base < slots:  # below `base` it wraps
            ftl.move.units[ftl.map[unit] - base] = unit


cdef inline void list_units(Ftl *ftl, uint32_t block) noexcept nogil:
    """Which unit each slot of a block was written for, as its records say."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef FrameRecord record
    cdef bint is_data
    cdef uint32_t frame
    cdef uint32_t i
    for frame in range(ftl.written[block]):
        is_data = read_record(ftl, block, frame, &record) == FLASH_OK and kind_of(&record) == FRAME_DATA
        for i in range(layout.units):
            ftl.move.units[frame * layout.units + i] = record.words[i] if is_data else <uint32_t>UNIT_UNMAPPED


cdef inline bint is_valid(const Ftl *ftl, uint32_t slot) noexcept nogil:
    cdef uint32_t unit = ftl.move.units[slot]
    return unit < ftl.units and ftl.map[unit] == ftl.move.block * ftl.block_units + slot


cdef inline uint32_t count_listed(Ftl *ftl, uint32_t block) noexcept nogil:
    """Units that are listed and still lie there."""
    cdef uint32_t count = 0
    cdef uint32_t slot
    for slot in range(slots_written(ftl, block)):
        count += is_valid(ftl, slot)
    return count


cdef inline void start_move(Ftl *ftl, uint8_t why, uint32_t block) noexcept nogil:
    ftl.move.why = why
    ftl.move.block = block
    ftl.move.caller = ftl.caller
    ftl.move.cursor = 0
    list_units(ftl, block)
    # A unit that is not listed would stay, and the block be begun again for ever.
    if count_listed(ftl, block) != ftl.valid[block]:
        units_from_map(ftl, block)


cdef inline void end_move(Ftl *ftl) noexcept nogil:
    if ftl.move.why == MOVE_REFRESH:
        ftl.counters.refreshed_blocks += 1
    elif ftl.move.why == MOVE_LEVEL:
        ftl.counters.levelled_blocks += 1
    ftl.move.why = MOVE_NONE
    ftl.move.block = NO_BLOCK


cdef inline int read_to_move(Ftl *ftl, uint32_t slot, char *into) noexcept nogil:
    """Read a unit that has to move: several times, since bits may be unstable. FLASH_OK, or what went wrong."""
    cdef int _attempt
    cdef int status = FLASH_OK
    for _attempt in range(READ_ATTEMPTS):
        status = read_slot(ftl, ftl.move.block, slot, 0, ftl.unit_bytes, into, NULL)
        if status == FLASH_OK or status == FLASH_POWER_LOST:
            break
    return status


cdef inline bint may_join(const Ftl *ftl, uint32_t unit, uint32_t other) noexcept nogil:
    return not ftl.isolated or owner_of(ftl, unit) == owner_of(ftl, other)


cdef inline int gather(Ftl *ftl, uint32_t limit, uint32_t *units, char **data, uint32_t *count) noexcept nogil:
    """Read the next valid units of the block, up to a frame; where owners are kept apart, those of one. The cursor
    stays: they have not moved yet."""
    cdef uint32_t slots = slots_written(ftl, ftl.move.block)
    cdef uint32_t slot = ftl.move.cursor
    cdef int status
    count[0] = 0
    while slot < slots and count[0] < limit:
        if is_valid(ftl, slot) and (count[0] == 0 or may_join(ftl, ftl.move.units[slot], units[0])):
            data[count[0]] = ftl.frame_buffer + count[0] * ftl.unit_bytes
            units[count[0]] = ftl.move.units[slot]
            status = read_to_move(ftl, slot, data[count[0]])
            if status == FLASH_POWER_LOST:
                return -EIO
            if status == FLASH_OK:
                count[0] += 1
            else:
                status = lose_unit(ftl, ftl.move.units[slot])
                if status:
                    return status
                # Noting the loss may have used the buffer: begin this frame again.
                count[0] = 0
                slot = ftl.move.cursor
                continue
        slot += 1
    return 0


cdef inline uint32_t move_stream(const Ftl *ftl, uint32_t unit) noexcept nogil:
    return stream_of(ftl, STREAM_COLD if ftl.settings.separate else <uint32_t>STREAM_HOST, owner_of(ftl, unit))


cdef inline uint32_t next_to_move(const Ftl *ftl) noexcept nogil:
    """The unit at the cursor, which is valid unless it was written or trimmed since."""
    return ftl.move.units[ftl.move.cursor]


cdef inline int keep_erasable(Ftl *ftl) noexcept nogil:
    """Trims that wait let nothing be erased that died after them: before a move takes one of the last blocks that can
    be, the flash is told of them, which may take a block too."""
    if ftl.trims.count == 0 or not is_at_end(ftl, &ftl.streams[move_stream(ftl, next_to_move(ftl))]):
        return 0
    return program_trims(ftl) if count_erasable(ftl) < ERASABLE_LEAST else 0


cdef inline void skip_moved(Ftl *ftl) noexcept nogil:
    cdef uint32_t slots = slots_written(ftl, ftl.move.block)
    while ftl.move.cursor < slots and not is_valid(ftl, ftl.move.cursor):
        ftl.move.cursor += 1


cdef inline void count_moved(Ftl *ftl, uint32_t count, const uint32_t *units) noexcept nogil:
    cdef uint32_t i
    ftl.counters.moved_units[ftl.move.why] += count
    for i in range(count):
        ftl.programmed.moved_units[ftl.move.why][owner_of(ftl, units[i])] += 1


cdef inline int move_one_frame(Ftl *ftl) noexcept nogil:
    cdef uint32_t units[FRAME_UNITS_MAX]
    cdef char *data[FRAME_UNITS_MAX]
    cdef uint32_t count
    cdef int result = 0
    skip_moved(ftl)
    if ftl.move.cursor < slots_written(ftl, ftl.move.block):
        result = keep_erasable(ftl)
    if result == 0:
        result = gather(ftl, ftl.layouts[0].units, units, data, &count)
    if result or count == 0:
        if not result:
            end_move(ftl)
        return result
    result = append_units(ftl, move_stream(ftl, units[0]), count, units, data)
    if result:
        return result
    count_moved(ftl, count, units)
    skip_moved(ftl)
    if ftl.move.cursor >= slots_written(ftl, ftl.move.block):
        end_move(ftl)
    return 0


cdef inline int move_frame(Ftl *ftl) noexcept nogil:
    """Move up to one frame of the block that is being emptied. 0, or why not."""
    cdef uint32_t caller = ftl.caller
    cdef uint32_t cause = ftl.cause
    cdef int result
    ftl.cause = cause_of_move(ftl)
    if ftl.move.why == MOVE_PURGE:
        ftl.caller = ftl.move.caller  # who happens to go on with it, does not pay for it
    result = move_one_frame(ftl)
    ftl.caller, ftl.cause = caller, cause
    return result


cdef inline bint may_gain(const Ftl *ftl, uint32_t block) noexcept nogil:
    """Would emptying it free anything?"""
    return block != NO_BLOCK and ftl.valid[block] < ftl.layouts[0].units * ftl.layouts[0].frames


cdef inline bint is_as_advised(const Ftl *ftl, const Advised *advised) noexcept nogil:
    """Since the snapshot a block may have been collected, erased, written anew; that it holds less now is no harm."""
    return (
        ftl.use[advised.block] == BLOCK_CLOSED
        and not ftl.flags[advised.block] & (FLAG_META | FLAG_ASIDE)
        and ftl.erases[advised.block] == advised.erases
        and ftl.valid[advised.block] <= advised.valid
    )


cdef inline uint32_t block_advised(Ftl *ftl) noexcept nogil:
    """The next block that judgement wants collected; NO_BLOCK: it has nothing to say. Stale advice is dropped."""
    cdef Advised *advised
    while ftl.advised_next < ftl.advised_count:
        advised = &ftl.advised[ftl.advised_next]
        ftl.advised_next += 1
        if is_as_advised(ftl, advised):
            ftl.counters.advice_taken += 1
            return advised.block
        ftl.counters.advice_stale += 1
    return NO_BLOCK


cdef inline bint is_worth_little(const Ftl *ftl, uint32_t block) noexcept nogil:
    cdef uint32_t all_units = ftl.layouts[0].units * ftl.layouts[0].frames
    return block == NO_BLOCK or ftl.valid[block] > all_units - all_units // WORTH_MOST


cdef inline uint32_t block_of_owner(Ftl *ftl, uint32_t owner) noexcept nogil:
    """Who writes makes room among its own, unless there is hardly any to be made."""
    cdef uint32_t block = block_to_collect(ftl, owner)
    return block_to_collect(ftl, ANYBODY) if is_worth_little(ftl, block) else block


cdef inline uint32_t block_of_all(Ftl *ftl) noexcept nogil:
    cdef uint32_t block = NO_BLOCK
    if slc_data_blocks(ftl) < slc_limit(ftl):
        block = block_advised(ftl)
    return block_to_collect(ftl, ANYBODY) if block == NO_BLOCK else block


cdef inline void choose_collection(Ftl *ftl, uint32_t owner) noexcept nogil:
    """`owner`: for whose writes there has to be room; ANYBODY."""
    cdef bint own = ftl.isolated and owner != <uint32_t>ANYBODY
    cdef uint32_t block = block_of_owner(ftl, owner) if own else block_of_all(ftl)
    if may_gain(ftl, block):
        start_move(ftl, MOVE_COLLECT, block)


cdef inline void choose_levelling(Ftl *ftl) noexcept nogil:
    cdef uint32_t block
    if not ftl.settings.levelling:
        return
    block = block_to_level(ftl, pick_free(ftl, True, safe_sequence(ftl)))
    if block != NO_BLOCK:
        start_move(ftl, MOVE_LEVEL, block)


cdef inline void choose_care(Ftl *ftl) noexcept nogil:
    """Something that can wait, but should not for ever."""
    cdef uint32_t block
    retire_dead(ftl)
    block = block_to_retire(ftl)
    if block != NO_BLOCK:
        start_move(ftl, MOVE_RETIRE, block)
        return
    block = block_to_refresh(ftl)
    if block != NO_BLOCK:
        start_move(ftl, MOVE_REFRESH, block)
        return
    choose_levelling(ftl)


cdef inline uint32_t collection_pace(const Ftl *ftl) noexcept nogil:
    """Frames to move for each frame of the host, so that the block is empty before the host has filled another."""
    cdef uint32_t all_units = ftl.layouts[0].units * ftl.layouts[0].frames
    cdef uint32_t valid = ftl.valid[ftl.move.block]
    if valid >= all_units:
        return 8
    return valid // (all_units - valid) + 1


cdef inline int move_paced(Ftl *ftl) noexcept nogil:
    """A few frames of whatever is being moved."""
    cdef uint32_t pace = collection_pace(ftl) if ftl.move.why == MOVE_COLLECT else 1
    cdef int result = 0
    if ftl.step_limit and pace > ftl.step_limit:
        pace = ftl.step_limit
    while ftl.move.why != MOVE_NONE and pace and not result:
        result = move_frame(ftl)
        pace -= 1
    return result


cdef inline int collect_now(Ftl *ftl, uint32_t owner) noexcept nogil:
    """Free blocks are at their least: collect until that is over. 0; -EROFS: there is nothing to gain anywhere;
    COLLECT_MORE: so many frames were moved as one call may."""
    cdef uint32_t steps = 0
    cdef int result
    while ftl.free_blocks <= reserved_blocks(ftl):
        if ftl.step_limit and steps == ftl.step_limit:
            return COLLECT_MORE
        steps += 1
        if ftl.move.why == MOVE_NONE:
            choose_collection(ftl, owner)
        if ftl.move.why == MOVE_NONE:
            return -EROFS
        result = move_frame(ftl)
        if result:
            return result
    return 0


cdef inline int collect_ahead(Ftl *ftl, uint32_t owner) noexcept nogil:
    """Called with each frame of the host."""
    if ftl.move.why == MOVE_NONE and ftl.free_blocks <= low_blocks(ftl):
        choose_collection(ftl, owner)
    if ftl.move.why == MOVE_NONE:
        return 0
    return move_paced(ftl)
