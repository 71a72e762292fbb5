"""Reads and writes of emulated storage: between guest buffers, the write cache and the translation layer.

A result is that of a `Target`'s calls: bytes or 0, -errno, TARGET_MORE, TARGET_SYNC or TARGET_ROOM.
"""

from libc.errno cimport EIO, ENODATA, ENOSPC, EROFS
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.uio cimport iovec

from virtflash.backing.flash_state cimport SECTOR_SHIFT, FlashState
from virtflash.backing.iovec_cursor cimport Cursor, gather, here, left_in_piece, scatter
from virtflash.backing.target cimport TARGET_MORE, TARGET_ROOM, TARGET_SYNC
from virtflash.backing.write_cache cimport (
    CACHE_NOWHERE,
    cache_add,
    cache_data,
    cache_drop,
    cache_find,
    cache_is_full,
    cache_is_of,
    cache_note_writer,
    cache_oldest_order,
)
from virtflash.ftl.owners cimport owner_of
from virtflash.ftl.state cimport FRAME_UNITS_MAX
from virtflash.ftl.translation cimport FTL_MORE, FTL_NO_ROOM, FTL_SYNC, ftl_flush, ftl_read, ftl_write

cdef enum:
    LOOKED_MOST = 256  # units in the cache, for a frame of one owner's
    GENTLE_FRAMES = 4  # moved for room in one call, where somebody else is not to wait
    PART_BYTES = 1048576  # of one call, so that a guest that asks for much does not keep the thread for long


cdef inline int32_t as_result(int status) noexcept nogil:
    if status == FTL_SYNC:
        return TARGET_SYNC
    if status == FTL_MORE:
        return TARGET_MORE
    return -ENOSPC if status == FTL_NO_ROOM else status


cdef inline bint took_bytes(int32_t result) noexcept nogil:
    """Of a read or write: is it a number of bytes?"""
    return result > 0 and result != TARGET_SYNC and result != TARGET_ROOM


cdef inline void begin_call(FlashState *state) noexcept nogil:
    state.ftl.ready_ns = 0
    state.ftl.step_limit = GENTLE_FRAMES if state.target.gentle else 0
    state.evicted = False
    state.ftl.caller = state.target.caller
    state.chip_now_ns[0] = state.target.now_ns


cdef inline void end_call(FlashState *state, uint64_t cached_bytes) noexcept nogil:
    """When the real part would be done: with its cells, and with moving what went to its cache."""
    if state.bus_ns_per_kib and cached_bytes:
        state.bus_free_ns = max(state.bus_free_ns, state.target.now_ns) + cached_bytes * state.bus_ns_per_kib // 1024
        state.ready_ns = max(state.ftl.ready_ns, state.bus_free_ns)
    else:
        state.ready_ns = state.ftl.ready_ns


cdef inline bint may_join(const FlashState *state, uint32_t place, uint32_t unit) noexcept nogil:
    """A frame never holds units of several owners where these are kept apart."""
    return not state.ftl.isolated or owner_of(state.ftl, state.cache.place[place].unit) == owner_of(state.ftl, unit)


cdef inline uint32_t oldest_of(FlashState *state, uint32_t writer, uint32_t *units, char **data) noexcept nogil:
    """The oldest unit that somebody has written (0: anybody), and others that lie not far behind it."""
    cdef uint32_t at = state.cache.oldest
    cdef uint32_t count = 0
    cdef uint32_t looked = 0
    while at != CACHE_NOWHERE and count < state.frame_units and looked < LOOKED_MOST:
        if cache_is_of(&state.cache, at, writer) and (count == 0 or may_join(state, at, units[0])):
            units[count], data[count] = state.cache.place[at].unit, cache_data(&state.cache, at)
            count += 1
        looked += count != 0
        at = state.cache.place[at].newer
    return count


cdef inline int32_t evict(FlashState *state, uint32_t writer) noexcept nogil:
    """Move the oldest frame of the cache to the flash, of what somebody has written. What cannot be moved stays.
    TARGET_ROOM: gently, so did it."""
    cdef uint32_t units[FRAME_UNITS_MAX]
    cdef char *data[FRAME_UNITS_MAX]
    cdef uint32_t count = oldest_of(state, writer, units, data)
    cdef uint32_t i
    cdef int status = ftl_write(state.ftl, count, units, data, count < state.frame_units)
    state.evicted = True
    if status:
        return TARGET_ROOM if status == FTL_MORE else as_result(status)
    for i in range(count):
        cache_drop(&state.cache, units[i])
    state.counters.evicted_units += count
    return 0


cdef inline bint is_to_flush(FlashState *state, uint32_t writer, uint64_t *mark) noexcept nogil:
    """Is there still something in the cache that was accepted before this flush began?"""
    cdef uint64_t oldest = cache_oldest_order(&state.cache, writer)
    if mark == NULL or not state.target.gentle:
        return oldest != 0
    if mark[0] == 0:
        mark[0] = state.cache.added
    return 0 < oldest <= mark[0]


cdef inline int32_t flush_cache(FlashState *state, uint64_t *mark) noexcept nogil:
    """What was accepted becomes safe. That it cannot be, since the flash takes nothing more, is a loss: -EIO.

    What only others have written stays: they would pay for frames that are not full, and the caller wait for them.
    Gently, it is a frame in each call, and `mark` is as `Target.flush_mark`.
    """
    cdef uint32_t writer = state.ftl.caller if state.cache_on else 0
    cdef int32_t result = 0
    while result == 0 and is_to_flush(state, writer, mark):
        result = evict(state, writer)
        if result == 0 and state.target.gentle:
            return TARGET_MORE
    while result == 0:
        result = as_result(ftl_flush(state.ftl))
        if result != TARGET_MORE or state.target.gentle:
            break
        result = 0
    return -EIO if result == -EROFS else result


cdef inline int32_t flush_whole(FlashState *state) noexcept nogil:
    """Without a cache, nothing completes before it is safe: however long that takes, it is one call."""
    cdef int32_t result = flush_cache(state, NULL)
    while result == TARGET_MORE or result == TARGET_ROOM:
        result = flush_cache(state, NULL)
    return result


cdef inline int32_t make_vacant(FlashState *state) noexcept nogil:
    """Room for one more unit in a cache that is full. Gently, it is once in a call."""
    if state.evicted and state.target.gentle:
        return TARGET_ROOM
    return evict(state, 0)


cdef inline int32_t merge(FlashState *state, uint32_t unit, char *data) noexcept nogil:
    """-ENODATA: what is to stay of this unit cannot be read; write all of it, and it is whole again."""
    cdef int status = ftl_read(state.ftl, unit, 0, state.unit_bytes, data)
    state.counters.merged_units += 1
    if status == 0:
        return 0
    cache_drop(&state.cache, unit)
    return -ENODATA if status == -EIO and not state.ftl.lost_power else status


cdef inline int32_t unit_to_write(
    FlashState *state, uint32_t unit, bint whole, char **data
) noexcept nogil:
    """The place in the cache where a unit is written. Not whole: the rest of it is read first."""
    cdef int32_t result
    data[0] = cache_find(&state.cache, unit)
    if data[0] != NULL:
        state.counters.cache_hits += 1
        cache_note_writer(&state.cache, data[0], state.ftl.caller)
        return 0
    if cache_is_full(&state.cache):
        result = make_vacant(state)
        if result:
            return result
    data[0] = cache_add(&state.cache, unit, state.ftl.caller)
    return 0 if whole else merge(state, unit, data[0])


cdef inline int32_t put(FlashState *state, uint64_t start, Cursor *cursor, uint64_t bytes) noexcept nogil:
    """Write from byte `start` on; without a cursor, zeroes. Where the flash stops it: the bytes taken, if any."""
    cdef uint64_t done = 0
    cdef uint32_t offset
    cdef uint32_t length
    cdef char *data
    cdef int32_t result
    while done < bytes:
        offset = <uint32_t>((start + done) % state.unit_bytes)
        length = <uint32_t>min(state.unit_bytes - offset, bytes - done)
        result = unit_to_write(
            state, <uint32_t>((start + done) // state.unit_bytes), length == state.unit_bytes, &data
        )
        if result:
            return <int32_t>done if done else result
        if cursor == NULL:
            memset(data + offset, 0, length)
        else:
            gather(cursor, data + offset, length)
        done += length
    return <int32_t>done


cdef inline int32_t read_unit(
    FlashState *state, Cursor *cursor, uint32_t unit, uint32_t offset, uint32_t length
) noexcept nogil:
    """Straight into the guest's buffer where it lies in one piece."""
    cdef const char *cached = cache_find(&state.cache, unit)
    cdef int status
    if cached != NULL:
        state.counters.cache_hits += 1
        scatter(cursor, cached + offset, length)
        return 0
    if left_in_piece(cursor) >= length:
        status = ftl_read(state.ftl, unit, offset, length, here(cursor))
        cursor.within += length
        return status
    status = ftl_read(state.ftl, unit, offset, length, state.scratch)
    if status == 0:
        scatter(cursor, state.scratch, length)
    return status


cdef inline int32_t get(FlashState *state, uint64_t start, Cursor *cursor, uint64_t bytes) noexcept nogil:
    """Read from byte `start` on; all of it, or the error."""
    cdef uint64_t done = 0
    cdef uint32_t offset
    cdef uint32_t length
    cdef int32_t result
    while done < bytes:
        offset = <uint32_t>((start + done) % state.unit_bytes)
        length = <uint32_t>min(state.unit_bytes - offset, bytes - done)
        result = read_unit(state, cursor, <uint32_t>((start + done) // state.unit_bytes), offset, length)
        if result:
            return result
        done += length
    return <int32_t>done
