"""Mounting: the newest complete checkpoint, and over it the records of every frame since its start, in their order.

After a power cut the last frame that can be read may be one that was in flight: it may read otherwise later. So it is
written anew, with what it may have endangered, before anything is answered. Then a new checkpoint is written: frames
that cannot be read now, but perhaps can be later, are older than its start and are never looked at again.
"""

from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy, memset

from virtflash.flash.chip cimport FLASH_ERASED, FLASH_IS_BAD, FLASH_NO_ROOM, FLASH_OK, FLASH_POWER_LOST
from virtflash.flash.crc32c cimport crc32c
from virtflash.ftl.allocation cimport mode_of
from virtflash.ftl.append cimport append_units
from virtflash.ftl.checkpoint cimport (
    FORMAT_VERSION,
    EndPayload,
    TableEntry,
    checkpoint_now,
    map_entries,
    map_slices,
    meta_layout,
    table_entries,
    table_slices,
)
from virtflash.ftl.collection cimport choose_collection, move_frame
from virtflash.ftl.frame cimport (
    FRAME_DATA,
    FRAME_END,
    FRAME_MAP,
    FRAME_PAD,
    FRAME_TABLE,
    FRAME_TRIM,
    KIND_SLC,
    FrameLayout,
    FrameRecord,
    kind_of,
    layout_of,
    read_record,
    read_slot,
    simple_operation,
)
from virtflash.ftl.purge cimport wipe_free
from virtflash.ftl.safety cimport check_spares, is_erasable, pad_exposed, pad_frame
from virtflash.ftl.state cimport (
    ANYBODY,
    BLOCK_BAD,
    BLOCK_CLOSED,
    BLOCK_FREE,
    BLOCK_OPEN,
    FLAG_ASIDE,
    FLAG_BLANK,
    FLAG_META,
    FLAG_REFRESH,
    FLAG_RETIRE,
    FLAG_SLC,
    FRAME_UNITS_MAX,
    MOVE_NONE,
    NO_BLOCK,
    RECENT_FRAMES,
    STREAM_COLD,
    STREAM_COUNT,
    STREAM_META,
    UNIT_LIMIT,
    UNIT_LOST,
    UNIT_UNMAPPED,
    Ftl,
    Stream,
    TrimRange,
)
from virtflash.ftl.trim_log cimport payload_bytes

cdef enum:
    SEQUENCE_GAP = 1024  # frames that were in flight and cannot be read have numbers below this much more
    NO_CHECKPOINT = 0
    CHECKPOINTS_TRIED = 32  # newest first; with many more that cannot be read, something is wrong that they do not tell
    KEPT_MOST = 1 << 28  # bytes of suspect frames: there are a few for each recovery that was cut
    FOUND_NOTHING = 0x20000
    FOUND_NONSENSE = 0x20001

# A frame to be replayed. Of one that was in flight: what it held when it was read, since it may not read so again.
cdef struct Found:
    uint64_t sequence
    uint32_t block
    uint32_t frame
    bint suspect
    char *kept
    FrameRecord record

# What a mount knows before it has put it together.
cdef struct Recovery:
    uint64_t *first  # by block: sequence number of the first frame whose record can be read; 0: none
    uint8_t *meta  # by block: its frames are metadata
    uint8_t *full  # by block: its last frame was complete before power went
    uint8_t *unseen  # by block: something is programmed there, and no record can be read
    uint8_t *spans  # by block: the checkpoint taken says that it was open
    uint8_t *needed  # by block: metadata of the checkpoint taken, or trims since its start
    uint64_t start  # of the checkpoint taken
    uint64_t end_sequence
    uint32_t end_block
    uint32_t end_frame
    FrameRecord end_record
    EndPayload end
    Found *found
    uint64_t count
    uint64_t room
    uint64_t newest  # sequence number of any record that can be read
    bint clean
    uint32_t torn  # frames that could not be read
    uint64_t kept_bytes


cdef inline int compare_found(const void *a, const void *b) noexcept nogil:
    cdef uint64_t first = (<const Found *>a).sequence
    cdef uint64_t second = (<const Found *>b).sequence
    return (first > second) - (first < second)


cdef inline int note_found(Recovery *recovery, uint64_t sequence, uint32_t block, uint32_t frame) noexcept nogil:
    cdef Found *larger
    if recovery.count == recovery.room:
        recovery.room = recovery.room * 2 + 1024
        larger = <Found *>realloc(recovery.found, recovery.room * sizeof(Found))
        if larger == NULL:
            return -ENOMEM
        recovery.found = larger
    memset(&recovery.found[recovery.count], 0, sizeof(Found))
    recovery.found[recovery.count].sequence = sequence
    recovery.found[recovery.count].block = block
    recovery.found[recovery.count].frame = frame
    recovery.count += 1
    return 0


cdef inline uint32_t frames_most(const Ftl *ftl) noexcept nogil:
    return ftl.layouts[0].frames if ftl.layouts[0].frames > ftl.layouts[1].frames else ftl.layouts[1].frames


cdef inline uint8_t known_flags(const Ftl *ftl) noexcept nogil:
    """What a table may say of a block. No block is in a mode that the part has not."""
    return FLAG_REFRESH | FLAG_RETIRE | FLAG_BLANK | (FLAG_SLC if ftl.layouts[1].frames else 0)


cdef inline void adopt_record(Ftl *ftl, Recovery *recovery, uint32_t block, const FrameRecord *record) noexcept nogil:
    """A block's first record says in which mode it is, and for what it was opened."""
    ftl.flags[block] = (FLAG_SLC if record.header.kind & KIND_SLC else 0) & known_flags(ftl)
    ftl.erases[block] = record.header.erases
    recovery.first[block] = record.header.sequence
    recovery.meta[block] = kind_of(record) != FRAME_DATA


cdef inline int look_at_block(Ftl *ftl, Recovery *recovery, uint32_t block) noexcept nogil:
    """Find the first record of a block that can be read. 0, or -EIO without power."""
    cdef FrameRecord record
    cdef uint32_t bad = 0
    cdef uint32_t frame
    cdef int status
    if simple_operation(ftl, FLASH_IS_BAD, block, 0, &bad) == FLASH_POWER_LOST:
        return -EIO
    if bad:
        ftl.use[block] = BLOCK_BAD
        ftl.bad_blocks += 1
        return 0
    for frame in range(frames_most(ftl)):
        status = read_record(ftl, block, frame, &record)
        if status == FLASH_POWER_LOST:
            return -EIO
        if status == FLASH_OK:
            adopt_record(ftl, recovery, block, &record)
            # Padding may come first in a block of data.
            if kind_of(&record) == FRAME_PAD and frame + 1 < layout_of(ftl, block).frames:
                continue
            recovery.unseen[block] = False
            return 0
        if status == FLASH_ERASED:
            return 0
        recovery.torn += frame == 0
        recovery.unseen[block] = recovery.first[block] == 0
    return 0


cdef inline int look_at_blocks(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef uint32_t block
    cdef int result
    for block in range(ftl.blocks):
        result = look_at_block(ftl, recovery, block)
        if result:
            return result
        if recovery.first[block] > recovery.newest:
            recovery.newest = recovery.first[block]
    return 0


cdef inline bint read_frame(Ftl *ftl, uint32_t block, uint32_t frame, char *into) noexcept nogil:
    """All of a frame, not only its record. False: it cannot be read."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef uint32_t i
    for i in range(layout.units):
        if read_slot(ftl, block, frame * layout.units + i, 0, ftl.unit_bytes, into + i * ftl.unit_bytes, NULL):
            return False
    return True


cdef inline bint read_payload(Ftl *ftl, const FrameRecord *record, uint32_t block, uint32_t frame) noexcept nogil:
    """A frame of metadata into `frame_buffer`. False: it cannot be read, or is not what was written with its record."""
    if not read_frame(ftl, block, frame, ftl.frame_buffer):
        return False
    return record.words[1] == crc32c(ftl.frame_buffer, payload_bytes(ftl, layout_of(ftl, block)))


# Checkpoints. They are few: the newest END is tried first, then the one before.

cdef inline bint is_newer_end(Recovery *recovery, const FrameRecord *record, uint64_t below) noexcept nogil:
    return (
        kind_of(record) == FRAME_END
        and record.header.sequence < below
        and record.header.sequence > recovery.end_sequence
    )


cdef inline void find_end(Ftl *ftl, Recovery *recovery, uint64_t below) noexcept nogil:
    """The newest END before a sequence number; `end_sequence` 0: there is none."""
    cdef FrameRecord record
    cdef uint32_t block
    cdef uint32_t frame
    cdef int status
    recovery.end_sequence = 0
    for block in range(ftl.blocks):
        if not recovery.meta[block]:
            continue
        for frame in range(layout_of(ftl, block).frames):
            status = read_record(ftl, block, frame, &record)
            if status == FLASH_OK and is_newer_end(recovery, &record, below):
                recovery.end_sequence = record.header.sequence
                recovery.end_block, recovery.end_frame = block, frame
                recovery.end_record = record


cdef inline void load_map_slice(Ftl *ftl, uint32_t slice_) noexcept nogil:
    cdef uint32_t first = slice_ * map_entries(ftl)
    cdef uint32_t count = map_entries(ftl)
    count = count if count < ftl.units - first else ftl.units - first
    memcpy(&ftl.map[first], ftl.frame_buffer, <uint64_t>count * 4)


cdef inline void load_table_slice(Ftl *ftl, Recovery *recovery, uint32_t slice_) noexcept nogil:
    """Of each block that was not opened since: what only the table knows. Erase counts never go back."""
    cdef const TableEntry *entry = <const TableEntry *>ftl.frame_buffer
    cdef uint32_t first = slice_ * table_entries(ftl)
    cdef uint32_t i
    cdef uint32_t block
    for i in range(table_entries(ftl)):
        block = first + i
        if block >= ftl.blocks:
            return
        if entry[i].erases > ftl.erases[block]:
            ftl.erases[block] = entry[i].erases
        if recovery.first[block] < recovery.start:
            ftl.hours[block], ftl.reads[block] = entry[i].hours, entry[i].reads
            ftl.flags[block] |= entry[i].flags & known_flags(ftl)
            recovery.spans[block] = entry[i].use == BLOCK_OPEN
            if entry[i].use != BLOCK_FREE:
                ftl.written[block] = entry[i].written


cdef inline void load_frame(
    Ftl *ftl, Recovery *recovery, uint32_t block, uint32_t frame, uint32_t *loaded
) noexcept nogil:
    """If a frame is a slice of the checkpoint taken, load it; one that cannot be read will be missed."""
    cdef FrameRecord record
    if read_record(ftl, block, frame, &record) != FLASH_OK:
        return
    if kind_of(&record) != FRAME_MAP and kind_of(&record) != FRAME_TABLE:
        return
    if record.words[0] != <uint32_t>recovery.start or record.header.sequence > recovery.end_sequence:
        return
    if not read_payload(ftl, &record, block, frame):
        return
    recovery.needed[block] = True
    if kind_of(&record) == FRAME_MAP and record.header.argument < map_slices(ftl):
        load_map_slice(ftl, record.header.argument)
        loaded[0] += 1
    elif kind_of(&record) == FRAME_TABLE and record.header.argument < table_slices(ftl):
        load_table_slice(ftl, recovery, record.header.argument)
        loaded[0] += 1


cdef inline bint fits_device(Ftl *ftl, const EndPayload *end) noexcept nogil:
    return (
        end.version == FORMAT_VERSION
        and end.unit_bytes == ftl.unit_bytes
        and end.units == ftl.units
        and end.blocks == ftl.blocks
        and end.block_units == ftl.block_units
    )


cdef inline bint load_checkpoint(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """Load the checkpoint whose END was found. False: not all of it can be read."""
    cdef uint32_t loaded = 0
    cdef uint32_t block
    cdef uint32_t frame
    if not read_payload(ftl, &recovery.end_record, recovery.end_block, recovery.end_frame):
        return False
    memcpy(&recovery.end, ftl.frame_buffer, sizeof(EndPayload))
    recovery.start = recovery.end.start
    if not fits_device(ftl, &recovery.end):
        return False
    for block in range(ftl.blocks):
        if not recovery.meta[block]:
            continue
        for frame in range(layout_of(ftl, block).frames):
            load_frame(ftl, recovery, block, frame, &loaded)
    return loaded == recovery.end.slices


cdef inline void forget_checkpoint(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef uint32_t block
    recovery.start = NO_CHECKPOINT
    memset(recovery.needed, 0, ftl.blocks)
    memset(recovery.spans, 0, ftl.blocks)
    memset(&recovery.end, 0, sizeof(EndPayload))
    memset(ftl.map, 0xff, <uint64_t>ftl.units * 4)
    for block in range(ftl.blocks):
        ftl.hours[block] = ftl.reads[block] = ftl.written[block] = 0


cdef inline void choose_checkpoint(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """The newest that is whole. Without any, everything is replayed from the beginning."""
    cdef uint64_t below = <uint64_t>-1
    cdef int _tried
    for _tried in range(CHECKPOINTS_TRIED):
        find_end(ftl, recovery, below)
        if recovery.end_sequence == 0:
            break
        if load_checkpoint(ftl, recovery):
            return
        below = recovery.end_sequence
        forget_checkpoint(ftl, recovery)
    recovery.end_sequence = 0
    forget_checkpoint(ftl, recovery)


# Replay

cdef inline void doubt_entries(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    """What the checkpoint says lies in a block that was opened since its start, or has gone bad: a later record says
    so too, or names where it went. If that cannot be read, the unit is lost; it must not read as what lies there."""
    cdef uint32_t unit
    cdef uint32_t block
    if recovery.start == NO_CHECKPOINT:
        return
    for unit in range(ftl.units):
        block = ftl.map[unit] // ftl.block_units
        if ftl.map[unit] < UNIT_LIMIT:
            if recovery.first[block] >= recovery.start or ftl.use[block] == BLOCK_BAD:
                ftl.map[unit] = <uint32_t>UNIT_LOST


cdef inline bint is_to_scan(const Ftl *ftl, const Recovery *recovery, uint32_t block) noexcept nogil:
    cdef int i
    if ftl.use[block] == BLOCK_BAD or recovery.first[block] == 0:
        return False
    for i in range(STREAM_COUNT):
        if recovery.start != NO_CHECKPOINT and recovery.end.first_open[i] == block:
            return True
    return recovery.meta[block] or recovery.spans[block] or recovery.first[block] >= recovery.start


cdef inline int scan_block(Ftl *ftl, Recovery *recovery, uint32_t block) noexcept nogil:
    """Gather the frames of a block that are to be replayed, and how far it is written. 0, -EIO or -ENOMEM."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef FrameRecord record
    cdef uint32_t frame
    cdef int status
    for frame in range(layout.frames):
        status = read_record(ftl, block, frame, &record)
        if status == FLASH_POWER_LOST:
            return -EIO
        if status == FLASH_ERASED:
            continue  # perhaps one that was cut when it had barely begun; others may follow
        ftl.written[block] = frame + 1
        if status != FLASH_OK:
            recovery.torn += 1
            continue
        ftl.dead_since[block] = record.header.sequence
        if record.header.sequence > recovery.newest:
            recovery.newest = record.header.sequence
        if record.header.sequence >= recovery.start:
            recovery.needed[block] |= kind_of(&record) == FRAME_TRIM
            status = note_found(recovery, record.header.sequence, block, frame)
            if status:
                return status
    return 0


cdef inline int scan_blocks(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef uint32_t block
    cdef int result
    for block in range(ftl.blocks):
        if is_to_scan(ftl, recovery, block):
            result = scan_block(ftl, recovery, block)
            if result:
                return result
    qsort(recovery.found, recovery.count, sizeof(Found), compare_found)
    return 0


cdef inline bint data_fits(Ftl *ftl, const FrameRecord *record, uint32_t block, const char *data) noexcept nogil:
    """Is this what was written? Where there is an ECC it would have said so."""
    return not layout_of(ftl, block).in_tail or record.words[1] == crc32c(data, ftl.unit_bytes)


cdef inline bint is_whole(Ftl *ftl, const FrameRecord *record, const Found *found) noexcept nogil:
    """Of parts without an ECC nothing is believed: a host that crashed may have kept a record and lost its data."""
    if not layout_of(ftl, found.block).in_tail:
        return True
    if not read_frame(ftl, found.block, found.frame, ftl.frame_buffer):
        return False
    return data_fits(ftl, record, found.block, ftl.frame_buffer)


cdef inline bint keep_frame(Ftl *ftl, Recovery *recovery, Found *found) noexcept nogil:
    """Read a suspect frame, and keep what it holds. False: it cannot be read."""
    recovery.kept_bytes += layout_of(ftl, found.block).units * ftl.unit_bytes
    if recovery.kept_bytes <= KEPT_MOST:
        found.kept = <char *>malloc(layout_of(ftl, found.block).units * ftl.unit_bytes)
    if found.kept == NULL:
        return False
    if read_record(ftl, found.block, found.frame, &found.record) == FLASH_OK:
        if read_frame(ftl, found.block, found.frame, found.kept):
            if data_fits(ftl, &found.record, found.block, found.kept):
                return True
    free(found.kept)
    found.kept = NULL
    return False


cdef inline bint is_last(Ftl *ftl, const Found *found) noexcept nogil:
    return found.frame + 1 == layout_of(ftl, found.block).frames


cdef inline bint is_endangered(Ftl *ftl, const Recovery *recovery, const Found *found) noexcept nogil:
    """May it have been endangered by a frame that was in flight? Not in a block whose last frame was there before."""
    return (
        ftl.partner != NULL
        and not ftl.flags[found.block] & FLAG_SLC
        and not recovery.full[found.block]
        and not is_last(ftl, found)
        and found.frame + ftl.chip.geometry.pair_distance + 1 >= ftl.written[found.block]
    )


cdef inline bint ends_a_run(const Recovery *recovery, uint64_t i) noexcept nogil:
    """Was this the last frame before a power cut? Then a recovery's gap follows it, or nothing."""
    return i + 1 == recovery.count or recovery.found[i + 1].sequence > recovery.found[i].sequence + SEQUENCE_GAP // 2


cdef inline void mark_suspects(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """Which frames may have been in flight: before each cut, also those of earlier recoveries, the last one that can be
    read whole, and what follows it."""
    cdef uint64_t i = recovery.count
    cdef Found *found
    cdef bint suspect = False
    if recovery.clean:
        return
    while i:
        i -= 1
        found = &recovery.found[i]
        suspect = suspect or ends_a_run(recovery, i)
        found.suspect = suspect or is_endangered(ftl, recovery, found)
        if is_last(ftl, found) and not found.suspect:
            recovery.full[found.block] = True
        if suspect and read_frame(ftl, found.block, found.frame, ftl.frame_buffer):
            suspect = False


cdef inline void hold_block(Ftl *ftl, uint32_t physical) noexcept nogil:
    """What a suspect frame took the place of is needed again, should that frame not be readable at the next mount, if
    this one is cut. So its block is not erased before the recovery is complete."""
    if physical < UNIT_LIMIT:
        ftl.flags[physical // ftl.block_units] |= FLAG_ASIDE


cdef inline void hold_replaced(Ftl *ftl, uint32_t block, const FrameRecord *record) noexcept nogil:
    cdef uint32_t i
    for i in range(layout_of(ftl, block).units):
        if record.words[i] < ftl.units:
            hold_block(ftl, ftl.map[record.words[i]])


cdef inline void replay_data(Ftl *ftl, uint32_t block, uint32_t frame, const FrameRecord *record) noexcept nogil:
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef uint32_t base = block * ftl.block_units + frame * layout.units
    cdef uint32_t i
    for i in range(layout.units):
        if record.words[i] < ftl.units:
            ftl.map[record.words[i]] = base + i


cdef inline void replay_trims(Ftl *ftl, const Found *found, const FrameRecord *record) noexcept nogil:
    cdef const TrimRange *ranges = <const TrimRange *>ftl.frame_buffer
    cdef uint32_t i
    cdef uint32_t unit
    cdef uint32_t count = record.header.argument
    if not read_payload(ftl, record, found.block, found.frame):
        return
    if count > payload_bytes(ftl, layout_of(ftl, found.block)) // sizeof(TrimRange):
        return
    for i in range(count):
        if ranges[i].first > ftl.units or ranges[i].count > ftl.units - ranges[i].first:
            continue
        for unit in range(ranges[i].first, ranges[i].first + ranges[i].count):
            if found.suspect:
                hold_block(ftl, ftl.map[unit])
            ftl.map[unit] = <uint32_t>(UNIT_LOST if ranges[i].lost else UNIT_UNMAPPED)


cdef inline void replay(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef FrameRecord record
    cdef Found *found
    cdef uint64_t i
    mark_suspects(ftl, recovery)
    for i in range(recovery.count):
        found = &recovery.found[i]
        if read_record(ftl, found.block, found.frame, &record) != FLASH_OK:
            continue
        if kind_of(&record) == FRAME_TRIM:
            replay_trims(ftl, found, &record)
        elif kind_of(&record) == FRAME_DATA:
            if not (keep_frame(ftl, recovery, found) if found.suspect else is_whole(ftl, &record, found)):
                recovery.torn += 1
                continue  # it was never completed
            if found.suspect:
                hold_replaced(ftl, found.block, &record)
                ftl.flags[found.block] |= FLAG_ASIDE
            replay_data(ftl, found.block, found.frame, &record)


# Putting it together

cdef inline bint may_lie_there(Ftl *ftl, const Recovery *recovery, uint32_t physical) noexcept nogil:
    """Is this a slot that its block has, and is the block one of data? How far a block is written, a map knows too."""
    cdef uint32_t block = physical // ftl.block_units
    cdef uint32_t slot = physical - block * ftl.block_units
    cdef FrameLayout *layout = layout_of(ftl, block)
    if slot >= layout.units * layout.frames or (recovery.meta[block] and recovery.needed[block]):
        return False
    if slot >= ftl.written[block] * layout.units:
        ftl.written[block] = slot // layout.units + 1
    return True


cdef inline void count_valid(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    cdef uint32_t unit
    memset(ftl.valid, 0, <uint64_t>ftl.blocks * 4)
    for unit in range(ftl.units):
        if ftl.map[unit] >= UNIT_LIMIT:
            continue
        if may_lie_there(ftl, recovery, ftl.map[unit]):
            ftl.valid[ftl.map[unit] // ftl.block_units] += 1
        else:
            ftl.map[unit] = <uint32_t>UNIT_LOST


cdef inline bint map_is_sane(const Ftl *ftl) noexcept nogil:
    """Does every entry of the checkpoint point into the device? Before anything is replayed over it."""
    cdef uint32_t unit
    for unit in range(ftl.units):
        if ftl.map[unit] < UNIT_LIMIT and ftl.map[unit] // ftl.block_units >= ftl.blocks:
            return False
    return True


cdef inline bint end_is_endangered(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    """May what was in flight have destroyed the END that was taken, so that it reads only by turns?"""
    cdef Found end
    memset(&end, 0, sizeof(Found))
    end.block, end.frame = recovery.end_block, recovery.end_frame
    return is_endangered(ftl, recovery, &end)


cdef inline bint end_is_sure(const Recovery *recovery) noexcept nogil:
    """Was the END that was taken complete, rather than in flight when the power went? Then another frame followed it,
    or the gap that a recovery leaves did not."""
    cdef uint64_t i
    for i in range(recovery.count):
        if recovery.found[i].sequence > recovery.end_sequence:
            return recovery.found[i].sequence < recovery.end_sequence + SEQUENCE_GAP
    return recovery.clean


cdef inline bint is_of_certain(const Ftl *ftl, const FrameRecord *record) noexcept nogil:
    if kind_of(record) == FRAME_TRIM:
        return record.header.sequence >= ftl.checkpoint.certain_start
    return (
        kind_of(record) in (FRAME_MAP, FRAME_TABLE, FRAME_END)
        and record.words[0] == <uint32_t>ftl.checkpoint.certain_start
    )


cdef inline void need_certain(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """The END taken may be unreadable at the next mount, should this one be cut. What is needed then is the last
    checkpoint that was certainly complete, and the trims since its start; of those between, nothing."""
    cdef FrameRecord record
    cdef uint32_t block
    cdef uint32_t frame
    for block in range(ftl.blocks):
        if not recovery.meta[block]:
            continue
        for frame in range(layout_of(ftl, block).frames):
            if read_record(ftl, block, frame, &record) == FLASH_OK and is_of_certain(ftl, &record):
                recovery.needed[block] = True


cdef inline void settle_block(Ftl *ftl, Recovery *recovery, uint32_t block) noexcept nogil:
    """What a block is used for, now that the map is known."""
    if ftl.use[block] == BLOCK_BAD:
        ftl.flags[block] = 0
        return
    ftl.use[block] = BLOCK_FREE
    # A table is believed only within the block: what is written of it bounds every walk over its frames.
    ftl.written[block] = min(ftl.written[block], <uint16_t>layout_of(ftl, block).frames)
    if recovery.meta[block] and recovery.first[block] and recovery.needed[block]:
        ftl.use[block] = BLOCK_CLOSED
        ftl.flags[block] |= FLAG_META
    elif ftl.valid[block] or ftl.flags[block] & FLAG_RETIRE:
        ftl.use[block] = BLOCK_CLOSED
        ftl.flags[block] &= ~<uint8_t>FLAG_BLANK
        if ftl.written[block] == 0:
            ftl.written[block] = layout_of(ftl, block).frames
    else:
        ftl.free_blocks += 1
        ftl.flags[block] &= FLAG_SLC | FLAG_ASIDE | (FLAG_BLANK if recovery.clean else 0)
    if recovery.first[block] >= recovery.start and ftl.hours[block] == 0:
        ftl.hours[block] = <uint32_t>ftl.chip.hours(ftl.chip)


cdef inline uint32_t resumed_block(const Recovery *recovery, int stream) noexcept nogil:
    """Where a stream goes on after a clean stop. That of metadata: behind the END."""
    return recovery.end_block if stream == STREAM_META else recovery.end.stream_block[stream]


cdef inline void resume_stream(Ftl *ftl, Stream *stream, uint32_t block) noexcept nogil:
    cdef uint32_t i
    ftl.free_blocks -= ftl.use[block] == BLOCK_FREE
    ftl.use[block] = BLOCK_OPEN
    ftl.flags[block] &= ~<uint8_t>FLAG_BLANK
    stream.block = block
    stream.frame = ftl.written[block]
    for i in range(RECENT_FRAMES):
        stream.recent[i] = ftl.sequence  # the END among them is exposed until its pair is programmed


cdef inline int leave_mark(Ftl *ftl) noexcept nogil:
    """Before anything else is programmed or erased: a frame by which the next mount sees that this one was. It stays
    for as long as the END before it, as metadata does until there is a newer checkpoint. One may have been begun there
    already, and cut when hardly anything was programmed: that the next fails there is no fault of the block."""
    cdef Stream *stream = &ftl.streams[STREAM_META]
    cdef int status
    while stream.frame < layout_of(ftl, stream.block).frames:
        status = pad_frame(ftl, stream)
        if status == FLASH_OK:
            return 0
        if status == FLASH_POWER_LOST or status == FLASH_NO_ROOM:
            return -EIO
    return checkpoint_now(ftl, False)  # nothing could be programmed there


cdef inline int reopen_streams(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """After a clean end the open blocks go on where they were. 0, or as `checkpoint_now`."""
    cdef uint32_t block
    cdef int i
    for i in range(STREAM_COUNT):
        block = resumed_block(recovery, i)
        if block < ftl.blocks and ftl.use[block] != BLOCK_BAD:
            resume_stream(ftl, &ftl.streams[i], block)
    return leave_mark(ftl)


cdef inline bint suits_stream(Ftl *ftl, const Recovery *recovery, int stream, uint32_t block) noexcept nogil:
    """May a stream go on in this block? Not in one of another mode or use, nor in another stream's."""
    cdef int i
    for i in range(stream):
        if resumed_block(recovery, i) == block:
            return False
    if recovery.needed[block] and stream != STREAM_META:
        return False
    return (ftl.flags[block] & FLAG_SLC != 0) == (mode_of(ftl, stream) != 0)


cdef inline bint ended_clean(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    """Is the END of a clean stop the newest frame of all, with room behind it, and is every open block as it was?"""
    cdef uint32_t expected
    cdef uint32_t block
    cdef int i
    if not recovery.end.clean or recovery.newest != recovery.end_sequence or recovery.torn:
        return False
    if recovery.end_frame + 1 >= layout_of(ftl, recovery.end_block).frames:
        return False
    for i in range(STREAM_COUNT):
        block = resumed_block(recovery, i)
        if block == NO_BLOCK:
            continue
        expected = recovery.end_frame + 1 if i == STREAM_META else recovery.end.stream_frame[i]
        if block >= ftl.blocks or ftl.written[block] != expected or not suits_stream(ftl, recovery, i, block):
            return False
    return True


cdef inline int rewrite_frame(Ftl *ftl, const Found *found) noexcept nogil:
    """Write what is valid in a suspect frame anew, elsewhere, as it was read."""
    cdef FrameLayout *layout = layout_of(ftl, found.block)
    cdef uint32_t units[FRAME_UNITS_MAX]
    cdef char *data[FRAME_UNITS_MAX]
    cdef uint32_t base = found.block * ftl.block_units + found.frame * layout.units
    cdef uint32_t count = 0
    cdef uint32_t i
    for i in range(layout.units):
        if found.record.words[i] < ftl.units and ftl.map[found.record.words[i]] == base + i:
            units[count] = found.record.words[i]
            data[count] = found.kept + i * ftl.unit_bytes
            count += 1
    if count == 0:
        return 0
    return append_units(ftl, STREAM_COLD, count, units, data)


cdef inline int rewrite_suspects(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef uint64_t i
    cdef int result
    for i in range(recovery.count):
        if recovery.found[i].kept != NULL:
            result = rewrite_frame(ftl, &recovery.found[i])
            if result:
                return result
    return 0


cdef inline uint32_t count_free(const Ftl *ftl) noexcept nogil:
    """Free blocks that are not held aside."""
    cdef uint32_t count = 0
    cdef uint32_t block
    for block in range(ftl.blocks):
        count += is_erasable(ftl, block, <uint64_t>-1)
    return count


cdef inline uint32_t blocks_to_recover(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    """That suspects, written anew, and a checkpoint take at most. No more: to collect is to risk another block, which a
    recovery that is cut leaves half written."""
    cdef uint32_t suspects = 0
    cdef uint64_t i
    for i in range(recovery.count):
        suspects += recovery.found[i].kept != NULL
    return suspects // ftl.layouts[0].frames + (map_slices(ftl) + table_slices(ftl)) // meta_layout(ftl).frames + 2


cdef inline int make_space(Ftl *ftl, uint32_t blocks) noexcept nogil:
    """Recoveries that were cut themselves have each taken a block or two. 0, or why there is no more space."""
    cdef uint32_t moves = ftl.blocks  # more than that gain nothing
    cdef int result = 0
    while count_free(ftl) < blocks and not result:
        if ftl.move.why == MOVE_NONE and moves:
            choose_collection(ftl, ANYBODY)
            moves -= 1
        if ftl.move.why == MOVE_NONE:
            return 0
        result = move_frame(ftl)
    return result


cdef inline void adopt_end(Ftl *ftl, const Recovery *recovery) noexcept nogil:
    """What only the checkpoint's END knows."""
    if recovery.start == NO_CHECKPOINT:
        return
    ftl.counters = recovery.end.counters
    ftl.first_bad = recovery.end.first_bad
    ftl.reserve_blocks = recovery.end.reserve_blocks
    ftl.checkpoint.complete_start = recovery.start


cdef inline int put_together(Ftl *ftl, Recovery *recovery) noexcept nogil:
    cdef uint32_t block
    recovery.needed[recovery.end_block] |= recovery.start != NO_CHECKPOINT
    ftl.checkpoint.certain_start = recovery.start
    if not end_is_sure(recovery) or (not recovery.clean and end_is_endangered(ftl, recovery)):
        ftl.checkpoint.certain_start = recovery.end.certain_start
        need_certain(ftl, recovery)
    count_valid(ftl, recovery)
    for block in range(ftl.blocks):
        settle_block(ftl, recovery, block)
    adopt_end(ftl, recovery)
    for block in range(ftl.blocks):
        ftl.doomed_blocks += (ftl.flags[block] & FLAG_RETIRE) != 0
    check_spares(ftl)
    ftl.end_noted = ftl.read_only
    ftl.sequence = recovery.newest
    return 0


cdef inline int erase_unseen(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """What cannot be read now may be read later. Where that is all there is of a recovery, or of several, its sequence
    numbers were not seen, and may be beyond the gap. So it has to go."""
    cdef uint32_t block
    cdef int result
    for block in range(ftl.blocks):
        if recovery.unseen[block] and ftl.use[block] == BLOCK_FREE:
            result = wipe_free(ftl, block)
            if result:
                return result
            recovery.unseen[block] = False
    return 0


cdef inline int make_durable(Ftl *ftl, Recovery *recovery) noexcept nogil:
    """After a power cut: no answer may ever change, so nothing may hang on what was in flight. 0x10001 (FTL_SYNC): call
    again after a sync."""
    cdef int result = make_space(ftl, blocks_to_recover(ftl, recovery))
    if result == 0:
        result = rewrite_suspects(ftl, recovery)
    if result == 0:
        result = erase_unseen(ftl, recovery)
    if result == 0:
        result = checkpoint_now(ftl, False)
    # Without this END the next mount would look again at what was in flight: it must not be lost with its pair.
    return -EIO if result == 0 and pad_exposed(ftl) != FLASH_OK else result


cdef inline void end_recovery(Recovery *recovery) noexcept nogil:
    """Free what it gathered."""
    cdef uint64_t i
    for i in range(recovery.count):
        free(recovery.found[i].kept)
    free(recovery.found)


cdef inline int recover(Ftl *ftl, Recovery *recovery, bint may_write) noexcept nogil:
    """0; -EIO without power; FOUND_NOTHING of ours on the flash; FOUND_NONSENSE: it contradicts itself."""
    cdef int result = look_at_blocks(ftl, recovery)
    if result:
        return result
    if recovery.newest == 0:
        return FOUND_NOTHING
    choose_checkpoint(ftl, recovery)
    if ftl.lost_power:
        return -EIO
    if not map_is_sane(ftl):
        return FOUND_NONSENSE
    result = scan_blocks(ftl, recovery)
    if result:
        return result
    recovery.clean = ended_clean(ftl, recovery)
    doubt_entries(ftl, recovery)
    replay(ftl, recovery)
    if ftl.lost_power:
        return -EIO
    result = put_together(ftl, recovery)
    if result:
        return result
    ftl.synced = ftl.sequence
    if not may_write:
        return 0
    if recovery.clean:
        return reopen_streams(ftl, recovery)
    ftl.sequence += SEQUENCE_GAP
    ftl.synced = ftl.sequence  # the image was synced before it was mounted
    return make_durable(ftl, recovery)
