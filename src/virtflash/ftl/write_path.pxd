"""A write of the host: room is made, trims that it would overtake are programmed, and it is appended."""

from libc.errno cimport EINVAL, EIO, EROFS
from libc.stdint cimport uint32_t

from virtflash.ftl.allocation cimport ERASABLE_LEAST, count_erasable, is_at_end, reserved_blocks
from virtflash.ftl.append cimport append_units
from virtflash.ftl.checkpoint cimport checkpoint_ahead, checkpoint_now, meta_blocks, meta_limit
from virtflash.ftl.collection cimport choose_care, collect_ahead, collect_now, retire_dead, slc_data_blocks, slc_limit
from virtflash.ftl.owners cimport owner_of, stream_of
from virtflash.ftl.state cimport (
    CAUSE_OVERHEAD,
    CAUSE_UNITS,
    MOVE_NONE,
    NO_BLOCK,
    STREAM_COUNT,
    STREAM_HOST,
    STREAM_SMALL,
    UNIT_LOST,
    UNIT_UNMAPPED,
    Ftl,
    Stream,
)
from virtflash.ftl.trim_log cimport program_trims

cdef enum:
    WRITE_SYNC = 0x10001  # as FTL_SYNC


cdef inline int ensure_erasable(Ftl *ftl) noexcept nogil:
    """Before a block is needed: what is free has to be safe to erase."""
    cdef int result
    if count_erasable(ftl) >= ERASABLE_LEAST:
        return 0
    result = program_trims(ftl)
    if result:
        return result
    if ftl.settings.host_sync and ftl.synced < ftl.sequence and count_erasable(ftl) < ERASABLE_LEAST:
        return WRITE_SYNC
    return 0


cdef inline int limit_metadata(Ftl *ftl) noexcept nogil:
    """Trims fill blocks of metadata, which only a checkpoint frees."""
    if meta_blocks(ftl) <= meta_limit(ftl):
        return 0
    return checkpoint_now(ftl, False)


cdef inline int when_block_ends(Ftl *ftl) noexcept nogil:
    """What is looked at once for each block that the host fills."""
    cdef int result = ensure_erasable(ftl)
    if result == 0:
        result = limit_metadata(ftl)
    if result:
        return result
    retire_dead(ftl)
    if ftl.move.why == MOVE_NONE and ftl.free_blocks > reserved_blocks(ftl):
        choose_care(ftl)
    return 0


cdef inline int only_fatal(int result) noexcept nogil:
    """Work ahead of need that cannot be done now is done later; without power nothing can be."""
    return result if result == -EIO else 0


cdef inline int checkpoint_for_all(Ftl *ftl) noexcept nogil:
    """Ahead of need: it is due whoever writes."""
    cdef uint32_t cause = ftl.cause
    cdef int result
    ftl.cause = CAUSE_OVERHEAD
    result = checkpoint_ahead(ftl)
    ftl.cause = cause
    return result


cdef inline int make_room(Ftl *ftl, uint32_t which, uint32_t owner) noexcept nogil:
    """0: a frame can be appended to the stream."""
    cdef int result = 0
    if ftl.lost_power:
        return -EIO
    if is_at_end(ftl, &ftl.streams[which]):
        result = when_block_ends(ftl)
    if result == 0:
        result = only_fatal(collect_ahead(ftl, owner))
    if result == 0:
        result = only_fatal(checkpoint_for_all(ftl))
    if result == 0 and ftl.free_blocks <= reserved_blocks(ftl):
        result = collect_now(ftl, owner)
        if result == -EROFS:
            ftl.exhausted = ftl.read_only = True
    return result


cdef inline bint overtakes_trim(const Ftl *ftl, uint32_t count, const uint32_t *units) noexcept nogil:
    """Is one of these units trimmed, or lost, and the flash does not know yet? Replayed later that would undo the
    write."""
    cdef uint32_t i
    if ftl.trims.count == 0:
        return False
    for i in range(count):
        if ftl.map[units[i]] >= <uint32_t>UNIT_LOST and ftl.map[units[i]] != <uint32_t>UNIT_UNMAPPED:
            return True
    return False


cdef inline uint32_t open_small_lanes(const Ftl *ftl) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t i
    for i in range(STREAM_COUNT, ftl.stream_count):
        count += ftl.streams[i].kind == STREAM_SMALL and ftl.streams[i].block != NO_BLOCK
    return count


cdef inline bint may_open_small(Ftl *ftl, uint32_t which) noexcept nogil:
    """Blocks in SLC mode hold little, and a lane that is open takes one from all: there are not too many of either."""
    if slc_data_blocks(ftl) >= slc_limit(ftl):
        return False
    if which < STREAM_COUNT or ftl.streams[which].block != NO_BLOCK:
        return True
    return open_small_lanes(ftl) < ftl.small_lanes


cdef inline uint32_t stream_for(Ftl *ftl, uint32_t owner, uint32_t count, bint small) noexcept nogil:
    """A few units go to SLC pages where there are any, and not too many of them in use."""
    cdef uint32_t which = stream_of(ftl, STREAM_SMALL, owner)
    if not small or not ftl.layouts[1].frames or count > ftl.layouts[1].units:
        return stream_of(ftl, STREAM_HOST, owner)
    if is_at_end(ftl, &ftl.streams[which]) and not may_open_small(ftl, which):
        return stream_of(ftl, STREAM_HOST, owner)
    return which


cdef inline bint are_of_one_owner(const Ftl *ftl, uint32_t count, const uint32_t *units) noexcept nogil:
    cdef uint32_t i
    for i in range(1, count):
        if owner_of(ftl, units[i]) != owner_of(ftl, units[0]):
            return False
    return True


cdef inline int append_of_host(
    Ftl *ftl, uint32_t which, uint32_t count, const uint32_t *units, char **data
) noexcept nogil:
    cdef uint32_t cause = ftl.cause
    cdef int result
    ftl.cause = CAUSE_UNITS
    result = append_units(ftl, which, count, units, data)
    ftl.cause = cause
    return result


cdef inline int write_units(Ftl *ftl, uint32_t count, const uint32_t *units, char **data, bint small) noexcept nogil:
    cdef uint32_t owner = owner_of(ftl, units[0])
    cdef uint32_t which = stream_for(ftl, owner, count, small)
    cdef int result
    if ftl.isolated and not are_of_one_owner(ftl, count, units):
        return -EINVAL
    if ftl.exhausted:
        return -EROFS
    ftl.writer = owner
    result = make_room(ftl, which, owner)  # which may find that one of these units is lost
    if result == 0 and overtakes_trim(ftl, count, units):
        result = program_trims(ftl)
    if result == 0:
        result = append_of_host(ftl, which, count, units, data)
    if result == 0:
        ftl.counters.host_units += count
    return result
