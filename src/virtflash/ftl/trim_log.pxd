"""Trims that the flash has to remember: gathered in memory, programmed before a flush is over, or when they are many.

Until then the units' copies stay where they are: whatever a trim made needless is not erased before it is on the flash.
"""

from libc.errno cimport EIO
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from virtflash.flash.chip cimport FLASH_OK
from virtflash.flash.crc32c cimport crc32c
from virtflash.ftl.append cimport append_frame, supersede
from virtflash.ftl.allocation cimport need_block
from virtflash.ftl.frame cimport FRAME_TRIM, RECORD_WORDS_MIN, FrameLayout, FrameRecord, layout_of
from virtflash.ftl.safety cimport pad_stream
from virtflash.ftl.state cimport (
    FLAG_META,
    FRAME_UNITS_MAX,
    STREAM_META,
    TRIM_RANGES_MAX,
    UNIT_LIMIT,
    UNIT_LOST,
    UNIT_TRIMMED,
    UNIT_UNMAPPED,
    Ftl,
    TrimRange,
)

cdef enum:
    SETTLE_MOST = 1048576  # units; about a millisecond


cdef inline uint32_t payload_bytes(const Ftl *ftl, const FrameLayout *layout) noexcept nogil:
    return layout.units * ftl.unit_bytes


cdef inline int append_metadata(Ftl *ftl, FrameRecord *record) noexcept nogil:
    """Program `frame_buffer` as a frame of metadata; its kind, argument and first word are the caller's.

    The checksum is in the record, not behind the data: a CRC over data and its own CRC is always the same, and the
    checksums of an image are CRC32C too.
    """
    cdef FrameLayout *layout
    cdef char *data[FRAME_UNITS_MAX]
    cdef uint32_t i
    cdef int result = need_block(ftl, STREAM_META)
    if result:
        return result
    layout = layout_of(ftl, ftl.streams[STREAM_META].block)
    record.header.words = RECORD_WORDS_MIN
    record.words[1] = crc32c(ftl.frame_buffer, payload_bytes(ftl, layout))
    for i in range(layout.units):
        data[i] = ftl.frame_buffer + i * ftl.unit_bytes
    return append_frame(ftl, STREAM_META, record, data)


cdef inline void settle_range(Ftl *ftl, const TrimRange *range_) noexcept nogil:
    """The flash knows of it now. A very long one is left as it is, for the next checkpoint to settle: that it seems
    unknown costs a frame of metadata now and then, going through it all at once would keep others waiting."""
    cdef uint32_t unit
    if range_.count > SETTLE_MOST:
        return
    for unit in range(range_.first, range_.first + range_.count):
        if ftl.map[unit] == <uint32_t>UNIT_TRIMMED:
            ftl.map[unit] = <uint32_t>UNIT_UNMAPPED


cdef inline void hold_until_safe(Ftl *ftl) noexcept nogil:
    """What has become needless since the first of these trims may owe it to one: it stays until their frame is safe,
    which other frames may have come before."""
    cdef uint32_t block
    for block in range(ftl.blocks):
        if ftl.dead_since[block] > ftl.trims.since and not ftl.flags[block] & FLAG_META:
            ftl.dead_since[block] = ftl.sequence


cdef inline int program_some(Ftl *ftl) noexcept nogil:
    """Program as many of the waiting ranges as one frame takes, the oldest first."""
    cdef FrameRecord record
    cdef FrameLayout *layout
    cdef uint32_t count
    cdef uint32_t i
    cdef int result = need_block(ftl, STREAM_META)
    if result:
        return result
    layout = layout_of(ftl, ftl.streams[STREAM_META].block)
    count = payload_bytes(ftl, layout) // sizeof(TrimRange)
    count = count if count < ftl.trims.count else ftl.trims.count
    memset(ftl.frame_buffer, 0xff, layout.units * ftl.unit_bytes)
    memcpy(ftl.frame_buffer, ftl.trims.ranges, count * sizeof(TrimRange))
    memset(&record, 0xff, sizeof(record))
    record.header.kind = FRAME_TRIM
    record.header.argument = count
    result = append_metadata(ftl, &record)
    if result:
        return result
    hold_until_safe(ftl)
    for i in range(count):
        settle_range(ftl, &ftl.trims.ranges[i])
    ftl.trims.count -= count
    for i in range(ftl.trims.count):
        ftl.trims.ranges[i] = ftl.trims.ranges[i + count]
    return 0


cdef inline int program_trims(Ftl *ftl) noexcept nogil:
    """Let the flash know of every trim that waits."""
    cdef int result = 0
    if ftl.trims.count == 0:
        return 0
    while ftl.trims.count and not result:
        result = program_some(ftl)
    if result == 0 and ftl.partner != NULL and pad_stream(ftl, &ftl.streams[STREAM_META]) != FLASH_OK:
        result = -EIO  # what they made needless may be erased only when they are safe themselves
    return result


cdef inline int note_range(Ftl *ftl, uint32_t first, uint32_t count, bint lost) noexcept nogil:
    """Remember a range to be programmed, joined to the one before where they touch."""
    cdef TrimRange *last = &ftl.trims.ranges[ftl.trims.count - 1] if ftl.trims.count else NULL
    cdef int result
    if last != NULL and last.lost == lost and last.first + last.count == first:
        last.count += count
        return 0
    if ftl.trims.count == TRIM_RANGES_MAX:
        result = program_some(ftl)
        if result:
            return result
    if ftl.trims.count == 0:
        ftl.trims.since = ftl.sequence
    ftl.trims.ranges[ftl.trims.count] = TrimRange(first, count, lost)
    ftl.trims.count += 1
    return 0


cdef inline void forget_units(Ftl *ftl, uint32_t first, uint32_t count, uint32_t mark) noexcept nogil:
    """Unmap; what they were mapped to is dead once the trim is on the flash, which is later than any frame so far.

    Those that were not mapped are marked too: a write of one must not be overtaken by the trim.
    """
    cdef uint32_t unit
    cdef uint32_t before
    for unit in range(first, first + count):
        before = ftl.map[unit]
        ftl.map[unit] = mark
        supersede(ftl, before, ftl.sequence + 1)


cdef inline bint any_mapped(const Ftl *ftl, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t unit
    for unit in range(first, first + count):
        if ftl.map[unit] < UNIT_LIMIT or ftl.map[unit] == <uint32_t>UNIT_LOST:
            return True
    return False


cdef inline int trim_units(Ftl *ftl, uint32_t first, uint32_t count) noexcept nogil:
    cdef int result
    if not any_mapped(ftl, first, count):
        return 0
    result = note_range(ftl, first, count, False)
    if result == 0:
        forget_units(ftl, first, count, <uint32_t>UNIT_TRIMMED)
        ftl.counters.trimmed_units += count
    return result


cdef inline int lose_unit(Ftl *ftl, uint32_t unit) noexcept nogil:
    """Its data cannot be read, and where it lies is to be erased: reads of it fail from now on, also after a mount."""
    cdef int result = note_range(ftl, unit, 1, True)
    if result == 0:
        forget_units(ftl, unit, 1, <uint32_t>UNIT_LOST)
        ftl.counters.lost_units += 1
    return result
