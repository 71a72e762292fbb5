"""Free blocks: which one is taken next, how it is erased, and what becomes of one that is worn or broken.

Dynamic wear levelling: what changes often goes to the block that was erased least, what stays to the one erased most.
What is refreshed fades soonest where wear is most: if that is far ahead of the others, it is left to rest.
A block is erased when it is taken, never earlier: after a power cut nobody could tell whether an erase had completed.
"""

from libc.errno cimport EIO, EROFS
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtflash.flash.chip cimport (
    FLASH_ERASE,
    FLASH_FAILED,
    FLASH_MARK_BAD,
    FLASH_OK,
    FLASH_PHYSICAL,
    FLASH_POWER_LOST,
    FLASH_SLC,
)
from virtflash.ftl.frame cimport layout_of, simple_operation
from virtflash.ftl.safety cimport check_spares, is_erasable, pad_exposed, safe_sequence
from virtflash.ftl.state cimport (
    BLOCK_BAD,
    BLOCK_CLOSED,
    BLOCK_FREE,
    BLOCK_OPEN,
    FLAG_ASIDE,
    FLAG_BLANK,
    FLAG_META,
    FLAG_RETIRE,
    FLAG_SLC,
    FLAG_SPANS,
    FLAG_TAINTED,
    MOVE_REFRESH,
    NO_BLOCK,
    STREAM_COLD,
    STREAM_COUNT,
    STREAM_META,
    STREAM_SMALL,
    Ftl,
    Stream,
)
from virtflash.ftl.wear_levelling cimport is_overworn

cdef enum:
    RESERVED_BLOCKS = 8  # free ones that collection, trims, a checkpoint, and recoveries that are cut, may need before
    # anything is freed again
    ERASABLE_LEAST = 3  # of the free ones; with fewer that are safe to erase, something is done about it
    ALLOCATE_SYNC = 0x10001  # as FTL_SYNC


cdef inline void retire(Ftl *ftl, uint32_t block) noexcept nogil:
    """Nothing in it is needed any more, and it is not to be used again. What it held is erased if it still can be."""
    simple_operation(ftl, FLASH_ERASE, block, FLASH_PHYSICAL, NULL)
    simple_operation(ftl, FLASH_MARK_BAD, block, 0, NULL)
    if ftl.flags[block] & FLAG_RETIRE:
        ftl.doomed_blocks -= 1
    ftl.use[block] = BLOCK_BAD
    ftl.flags[block] = 0
    ftl.valid[block] = 0
    ftl.bad_blocks += 1
    ftl.generation += 1
    check_spares(ftl)


cdef inline void release_block(Ftl *ftl, uint32_t block) noexcept nogil:
    """Nothing in a block is needed any more."""
    if ftl.flags[block] & FLAG_RETIRE:
        ftl.use[block] = BLOCK_CLOSED  # until it is safe to lose; see `retire_dead`
        return
    ftl.use[block] = BLOCK_FREE
    # What its old frames are like, that they have to go, and that a mount may have to look at them.
    ftl.flags[block] &= FLAG_SLC | FLAG_TAINTED | FLAG_ASIDE | FLAG_SPANS
    ftl.free_blocks += 1
    ftl.generation += 1


cdef inline uint32_t pick_free(const Ftl *ftl, bint most_worn, uint64_t safe) noexcept nogil:
    """The erasable block that was erased least, or most; NO_BLOCK: there is none."""
    cdef uint32_t best = NO_BLOCK
    cdef uint32_t block
    for block in range(ftl.blocks):
        if not is_erasable(ftl, block, safe):
            continue
        if best == NO_BLOCK or (ftl.erases[block] > ftl.erases[best]) == most_worn:
            best = block
    return best


cdef inline uint32_t count_erasable(Ftl *ftl) noexcept nogil:
    cdef uint64_t safe = safe_sequence(ftl)
    cdef uint32_t count = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        count += is_erasable(ftl, block, safe)
    return count


cdef inline int erase_block(Ftl *ftl, uint32_t block, uint8_t flags) noexcept nogil:
    """Erase a free block. -EIO: without power. FLASH_FAILED: it has been retired instead."""
    cdef int status
    ftl.counters.erases += 1
    ftl.counters.slc_erases += (flags & FLASH_SLC) != 0
    ftl.erases[block] += 1
    status = simple_operation(ftl, FLASH_ERASE, block, flags, NULL)
    if status == FLASH_POWER_LOST:
        return -EIO
    if status != FLASH_OK:
        ftl.counters.failed_erases += 1
        ftl.free_blocks -= 1
        retire(ftl, block)
        return FLASH_FAILED
    return 0


cdef inline int find_erasable(Ftl *ftl, bint most_worn, uint32_t *found) noexcept nogil:
    """0 and a block; -EROFS: there is none; ALLOCATE_SYNC: there will be after a sync of the image."""
    found[0] = pick_free(ftl, most_worn, safe_sequence(ftl))
    if found[0] == NO_BLOCK and ftl.partner != NULL:
        if pad_exposed(ftl) != FLASH_OK:
            return -EIO
        found[0] = pick_free(ftl, most_worn, safe_sequence(ftl))
    if found[0] != NO_BLOCK:
        return 0
    return ALLOCATE_SYNC if ftl.free_blocks and ftl.settings.host_sync and ftl.synced < ftl.sequence else -EROFS


cdef inline uint8_t mode_of(const Ftl *ftl, uint32_t kind) noexcept nogil:
    """Metadata and small writes go to SLC pages where there are any."""
    if (kind == STREAM_META or kind == STREAM_SMALL) and ftl.layouts[1].frames:
        return FLASH_SLC
    return 0


cdef inline void open_block(Ftl *ftl, uint32_t stream, uint32_t block, bint slc) noexcept nogil:
    ftl.use[block] = BLOCK_OPEN
    ftl.flags[block] = (FLAG_SLC if slc else 0) | (FLAG_META if stream == STREAM_META else 0)
    ftl.owner[block] = ftl.streams[stream].owner
    ftl.valid[block] = 0
    ftl.written[block] = 0
    ftl.reads[block] = 0
    ftl.hours[block] = <uint32_t>ftl.chip.hours(ftl.chip)
    ftl.free_blocks -= 1
    ftl.generation += 1
    ftl.streams[stream].block = block
    ftl.streams[stream].frame = 0


cdef inline int find_block(Ftl *ftl, uint32_t stream, uint32_t *found) noexcept nogil:
    """The free block that suits a stream. As `find_erasable`."""
    cdef bint cold = ftl.streams[stream].kind == STREAM_COLD and ftl.settings.levelling
    cdef int result = find_erasable(ftl, cold, found)
    if result == 0 and cold and ftl.move.why == MOVE_REFRESH and is_overworn(ftl, found[0]):
        return find_erasable(ftl, False, found)
    return result


cdef inline int allocate_block(Ftl *ftl, uint32_t stream) noexcept nogil:
    """Take a free block, erase it, and open it for a stream. 0, -EIO, -EROFS or ALLOCATE_SYNC."""
    cdef uint8_t mode = mode_of(ftl, ftl.streams[stream].kind)
    cdef uint32_t block
    cdef int result
    while True:
        result = find_block(ftl, stream, &block)
        if result:
            return result
        if not (ftl.flags[block] & FLAG_BLANK and not mode):
            result = erase_block(ftl, block, mode)
        if result == 0:
            open_block(ftl, stream, block, mode)
            return 0
        if result == -EIO:
            return result


cdef inline void close_stream(Ftl *ftl, Stream *stream) noexcept nogil:
    """No more is programmed in its block: what is in it is no longer exposed."""
    cdef uint32_t block = stream.block
    if block == NO_BLOCK:
        return
    stream.block = NO_BLOCK
    ftl.use[block] = BLOCK_CLOSED
    if ftl.valid[block] == 0 and not ftl.flags[block] & FLAG_META:
        release_block(ftl, block)


cdef inline void close_lanes(Ftl *ftl) noexcept nogil:
    """All but the streams that an END names."""
    cdef uint32_t i
    for i in range(STREAM_COUNT, ftl.stream_count):
        close_stream(ftl, &ftl.streams[i])


cdef inline bint is_at_end(Ftl *ftl, const Stream *stream) noexcept nogil:
    return stream.block == NO_BLOCK or stream.frame == layout_of(ftl, stream.block).frames


cdef inline uint32_t reserved_blocks(Ftl *ftl) noexcept nogil:
    """Free blocks below which nothing but collection takes any. Where owners are kept apart, emptying a block may open
    one for each of them before it is free itself."""
    cdef uint32_t count = RESERVED_BLOCKS
    cdef uint32_t i
    for i in range(STREAM_COUNT, ftl.stream_count):
        if ftl.streams[i].kind == STREAM_COLD and ftl.present[ftl.streams[i].owner]:
            count += is_at_end(ftl, &ftl.streams[i])
    return count


cdef inline int need_block(Ftl *ftl, uint32_t which) noexcept nogil:
    """Make sure that a stream has a block with room for a frame. 0, -EIO, -EROFS or ALLOCATE_SYNC."""
    cdef Stream *stream = &ftl.streams[which]
    if stream.block != NO_BLOCK and stream.frame == layout_of(ftl, stream.block).frames:
        close_stream(ftl, stream)
    if stream.block != NO_BLOCK:
        return 0
    return allocate_block(ftl, which)
