"""Checkpoints: the map and the block table, written in slices among everything else.

A checkpoint begins at a sequence number, its `start`; slices may be newer than that. At mount the records from `start`
on are replayed over the slices in their order, which ends in the same state whatever a slice had seen already. It
counts once its END is on the flash, which is programmed when all that the slices name is safe. Then the blocks of
metadata that are older than `start` are free.

A slice of the map is an array of physical units (u32), one of the table an array of `TableEntry`; both little-endian,
filled up with 0xff. The checksum of a frame of metadata is in its record.
"""

from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from virtflash.flash.chip cimport FLASH_NO_ROOM, FLASH_OK, FLASH_POWER_LOST
from virtflash.ftl.allocation cimport close_lanes, mode_of, release_block
from virtflash.ftl.frame cimport FRAME_END, FRAME_MAP, FRAME_TABLE, FrameLayout, FrameRecord, is_blank, layout_of
from virtflash.ftl.safety cimport pad_exposed, pad_frame
from virtflash.ftl.state cimport (
    BLOCK_CLOSED,
    BLOCK_OPEN,
    CHECKPOINT_IDLE,
    CHECKPOINT_READY,
    CHECKPOINT_SLICES,
    FLAG_ASIDE,
    FLAG_META,
    FLAG_SPANS,
    NO_BLOCK,
    STREAM_COUNT,
    STREAM_META,
    UNIT_TRIMMED,
    UNIT_UNMAPPED,
    Counters,
    Ftl,
    Stream,
)
from virtflash.ftl.trim_log cimport append_metadata, payload_bytes

cdef enum:
    FORMAT_VERSION = 1

cdef packed struct TableEntry:
    uint32_t erases
    uint32_t hours
    uint32_t reads
    uint8_t use
    uint8_t flags
    uint16_t written

cdef packed struct EndPayload:
    uint32_t version
    uint32_t unit_bytes
    uint32_t units
    uint32_t blocks
    uint32_t block_units
    uint32_t first_bad
    uint32_t reserve_blocks
    uint32_t clean  # nothing was programmed after it
    uint32_t slices
    uint32_t reserved
    uint64_t start
    uint64_t certain_start  # of the last checkpoint that was certainly complete before this one; 0: none was
    uint32_t stream_block[STREAM_COUNT]
    uint32_t stream_frame[STREAM_COUNT]
    uint32_t first_open[STREAM_COUNT]  # the blocks that were open at `start`: they hold frames of both sides of it
    Counters counters


cdef inline FrameLayout *meta_layout(Ftl *ftl) noexcept nogil:
    return &ftl.layouts[1 if mode_of(ftl, STREAM_META) else 0]


cdef inline uint32_t map_entries(Ftl *ftl) noexcept nogil:
    return payload_bytes(ftl, meta_layout(ftl)) // 4


cdef inline uint32_t table_entries(Ftl *ftl) noexcept nogil:
    return payload_bytes(ftl, meta_layout(ftl)) // sizeof(TableEntry)


cdef inline uint32_t map_slices(Ftl *ftl) noexcept nogil:
    return (ftl.units + map_entries(ftl) - 1) // map_entries(ftl)


cdef inline uint32_t table_slices(Ftl *ftl) noexcept nogil:
    return (ftl.blocks + table_entries(ftl) - 1) // table_entries(ftl)


cdef inline uint32_t meta_blocks(const Ftl *ftl) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        count += (ftl.flags[block] & FLAG_META) != 0
    return count


cdef inline uint32_t meta_limit(Ftl *ftl) noexcept nogil:
    """Blocks of metadata that a device is sized for: two checkpoints, and some of trims."""
    cdef uint32_t frames = map_slices(ftl) + table_slices(ftl) + 1
    cdef uint32_t a_block = meta_layout(ftl).frames
    return 2 * ((frames + a_block - 1) // a_block) + 3


cdef inline void note_lanes(Ftl *ftl) noexcept nogil:
    """Which blocks are open beyond those that END can name: the table says that they are, whatever becomes of them."""
    cdef uint32_t i
    for i in range(ftl.blocks):
        ftl.flags[i] &= ~<uint8_t>FLAG_SPANS
    for i in range(STREAM_COUNT, ftl.stream_count):
        if ftl.streams[i].block != NO_BLOCK:
            ftl.flags[ftl.streams[i].block] |= FLAG_SPANS


cdef inline void begin_checkpoint(Ftl *ftl) noexcept nogil:
    cdef int i
    ftl.checkpoint.state = CHECKPOINT_SLICES
    ftl.checkpoint.start = ftl.sequence + 1
    ftl.checkpoint.next = ftl.checkpoint.written = 0
    ftl.checkpoint.slices = map_slices(ftl) + table_slices(ftl)
    for i in range(STREAM_COUNT):
        ftl.checkpoint.first_open[i] = ftl.streams[i].block
    note_lanes(ftl)


cdef inline void fill_map_slice(Ftl *ftl, uint32_t slice_) noexcept nogil:
    """A trim that the flash does not know yet may be known by the checkpoint first: it was not flushed."""
    cdef uint32_t *out = <uint32_t *>ftl.frame_buffer
    cdef uint32_t first = slice_ * map_entries(ftl)
    cdef uint32_t count = map_entries(ftl)
    cdef uint32_t i
    count = count if count < ftl.units - first else ftl.units - first
    for i in range(count):
        if ftl.map[first + i] == <uint32_t>UNIT_TRIMMED and ftl.trims.count == 0:
            ftl.map[first + i] = <uint32_t>UNIT_UNMAPPED
        out[i] = ftl.map[first + i]
        if out[i] == <uint32_t>UNIT_TRIMMED:
            out[i] = <uint32_t>UNIT_UNMAPPED


cdef inline uint8_t use_to_tell(const Ftl *ftl, uint32_t block) noexcept nogil:
    """A block that is open at any time of a checkpoint is looked at by the mount: frames on both sides of its start may
    lie in it."""
    return <uint8_t>BLOCK_OPEN if ftl.flags[block] & FLAG_SPANS else ftl.use[block]


cdef inline void fill_table_slice(Ftl *ftl, uint32_t slice_) noexcept nogil:
    cdef TableEntry *out = <TableEntry *>ftl.frame_buffer
    cdef uint32_t block = slice_ * table_entries(ftl)
    cdef uint32_t i
    for i in range(table_entries(ftl)):
        if block + i >= ftl.blocks:
            return
        out[i].erases, out[i].hours, out[i].reads = ftl.erases[block + i], ftl.hours[block + i], ftl.reads[block + i]
        out[i].use = use_to_tell(ftl, block + i)
        out[i].flags, out[i].written = ftl.flags[block + i] & ~<uint8_t>FLAG_SPANS, ftl.written[block + i]


cdef inline int append_checkpoint_frame(Ftl *ftl, uint8_t kind, uint32_t argument) noexcept nogil:
    """`frame_buffer` as a frame of the checkpoint under way."""
    cdef FrameRecord record
    memset(&record, 0xff, sizeof(record))
    record.header.kind = kind
    record.header.argument = argument
    record.words[0] = <uint32_t>ftl.checkpoint.start
    return append_metadata(ftl, &record)


cdef inline void clear_frame_buffer(Ftl *ftl) noexcept nogil:
    memset(ftl.frame_buffer, 0xff, meta_layout(ftl).units * ftl.unit_bytes)


cdef inline bint is_at_once(const Ftl *ftl) noexcept nogil:
    """All slices are there: did nothing come between them?"""
    return ftl.sequence + 1 == ftl.checkpoint.start + ftl.checkpoint.written


cdef inline int append_slice(Ftl *ftl, uint8_t kind, uint32_t slice_) noexcept nogil:
    cdef int result = append_checkpoint_frame(ftl, kind, slice_)
    if result == 0:
        ftl.checkpoint.written += 1
    return result


cdef inline int write_map_slice(Ftl *ftl, uint32_t slice_) noexcept nogil:
    """What no slice names is not mapped: one that would say nothing else is left out."""
    fill_map_slice(ftl, slice_)
    if is_blank(ftl.frame_buffer, payload_bytes(ftl, meta_layout(ftl))):
        return 0
    return append_slice(ftl, FRAME_MAP, slice_)


cdef inline void end_slices(Ftl *ftl) noexcept nogil:
    ftl.checkpoint.state = CHECKPOINT_READY
    ftl.checkpoint.ready = ftl.sequence
    ftl.checkpoint.told = ftl.sequence if is_at_once(ftl) else 0


cdef inline int write_slice(Ftl *ftl) noexcept nogil:
    cdef uint32_t slice_ = ftl.checkpoint.next
    cdef uint32_t of_map = map_slices(ftl)
    cdef int result
    clear_frame_buffer(ftl)
    if slice_ < of_map:
        result = write_map_slice(ftl, slice_)
    else:
        fill_table_slice(ftl, slice_ - of_map)
        result = append_slice(ftl, FRAME_TABLE, slice_ - of_map)
    if result == 0:
        ftl.checkpoint.next += 1
        if ftl.checkpoint.next == ftl.checkpoint.slices:
            end_slices(ftl)
    return result


cdef inline void release_old_metadata(Ftl *ftl) noexcept nogil:
    """What a newer checkpoint has made needless. Of a block of metadata `dead_since` was its last frame."""
    cdef uint32_t block
    for block in range(ftl.blocks):
        ftl.flags[block] &= ~<uint8_t>FLAG_ASIDE
        if ftl.use[block] != BLOCK_CLOSED or not ftl.flags[block] & FLAG_META:
            continue
        if ftl.dead_since[block] < ftl.checkpoint.start:
            ftl.flags[block] &= ~<uint8_t>FLAG_META
            ftl.dead_since[block] = ftl.sequence
            release_block(ftl, block)


cdef inline void fill_end(Ftl *ftl, bint clean) noexcept nogil:
    cdef EndPayload *end = <EndPayload *>ftl.frame_buffer
    cdef int i
    end.version = FORMAT_VERSION
    end.unit_bytes, end.units, end.blocks, end.block_units = ftl.unit_bytes, ftl.units, ftl.blocks, ftl.block_units
    end.first_bad, end.reserve_blocks, end.clean = ftl.first_bad, ftl.reserve_blocks, clean
    end.slices = ftl.checkpoint.written
    end.start = ftl.checkpoint.start
    end.certain_start = ftl.checkpoint.certain_start
    for i in range(STREAM_COUNT):
        end.stream_block[i], end.stream_frame[i] = ftl.streams[i].block, ftl.streams[i].frame
        end.first_open[i] = ftl.checkpoint.first_open[i]
    end.counters = ftl.counters


cdef inline bint end_may_follow(const Ftl *ftl) noexcept nogil:
    """Is everything that the slices name on the host's disk? What was programmed since does not count."""
    return not ftl.settings.host_sync or ftl.synced >= ftl.checkpoint.ready


cdef inline int write_end(Ftl *ftl, bint clean) noexcept nogil:
    cdef int result
    clear_frame_buffer(ftl)
    fill_end(ftl, clean)
    result = append_checkpoint_frame(ftl, FRAME_END, ftl.checkpoint.written)
    if result == 0:
        ftl.checkpoint.state = CHECKPOINT_IDLE
        ftl.checkpoint.complete_start = ftl.checkpoint.certain_start = ftl.checkpoint.start
        ftl.counters.checkpoints += 1
        release_old_metadata(ftl)
    return result


cdef inline int leave_room(Ftl *ftl) noexcept nogil:
    """The next mount leaves a mark behind the END of a clean stop, in the same block: it must not be the last there."""
    cdef Stream *stream = &ftl.streams[STREAM_META]
    cdef int status
    if stream.block == NO_BLOCK or stream.frame + 1 != layout_of(ftl, stream.block).frames:
        return 0
    status = pad_frame(ftl, stream)
    return -EIO if status == FLASH_POWER_LOST or status == FLASH_NO_ROOM else 0


cdef inline int finish_checkpoint(Ftl *ftl, bint clean) noexcept nogil:
    """Everything that the slices name is made safe, then END is written. 0x10001 (FTL_SYNC): after a sync."""
    cdef bint tells_all = ftl.sequence == ftl.checkpoint.told
    if pad_exposed(ftl) != FLASH_OK or (clean and leave_room(ftl)):
        return -EIO
    if tells_all:
        ftl.checkpoint.told = ftl.sequence  # padding changes nothing
    if not end_may_follow(ftl):
        return 0x10001
    return write_end(ftl, clean)


cdef inline int checkpoint_step(Ftl *ftl) noexcept nogil:
    """One frame of the checkpoint under way. 0 also when its END waits for a sync that somebody else will ask for."""
    cdef int result
    if ftl.checkpoint.state == CHECKPOINT_SLICES:
        return write_slice(ftl)
    if ftl.checkpoint.state == CHECKPOINT_READY:
        result = finish_checkpoint(ftl, False)
        return 0 if result == 0x10001 else result
    return 0


cdef inline bint checkpoint_due(const Ftl *ftl) noexcept nogil:
    return ftl.checkpoint.state == CHECKPOINT_IDLE and (
        ftl.sequence >= ftl.checkpoint.complete_start + ftl.checkpoint.interval
    )


cdef inline int checkpoint_ahead(Ftl *ftl) noexcept nogil:
    """Called with each frame of the host."""
    if ftl.checkpoint.state == CHECKPOINT_IDLE:
        if not checkpoint_due(ftl):
            return 0
        begin_checkpoint(ftl)
        ftl.checkpoint.credit = 0
    ftl.checkpoint.credit += 1
    if ftl.checkpoint.credit < ftl.checkpoint.pace:
        return 0
    ftl.checkpoint.credit = 0
    return checkpoint_step(ftl)


cdef inline bint is_outdated(const Ftl *ftl) noexcept nogil:
    """Was anything but padding appended since the checkpoint under way began? Then a clean stop takes another."""
    return ftl.checkpoint.state == CHECKPOINT_SLICES or (
        ftl.checkpoint.state == CHECKPOINT_READY and ftl.checkpoint.told != ftl.sequence
    )


cdef inline int checkpoint_now(Ftl *ftl, bint clean) noexcept nogil:
    """A whole checkpoint, here and now. 0, or why not; FTL_SYNC: call again after a sync; FTL_MORE: so many of its
    frames were written as one call may."""
    cdef uint32_t steps = 0
    cdef int result = 0
    if clean:
        close_lanes(ftl)  # nobody could tell whose they were
    if ftl.checkpoint.state == CHECKPOINT_IDLE or (clean and is_outdated(ftl)):
        begin_checkpoint(ftl)
    while ftl.checkpoint.state == CHECKPOINT_SLICES and not result:
        if ftl.step_limit and steps == ftl.step_limit:
            return 0x10000
        steps += 1
        result = write_slice(ftl)
    if result:
        return result
    return finish_checkpoint(ftl, clean)
