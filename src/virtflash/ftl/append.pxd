"""Appending frames to a stream: the only way in which anything gets on the flash."""

from libc.errno cimport EIO, ENOSPC, EROFS
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.flash.chip cimport FLASH_NO_ROOM, FLASH_OK, FLASH_POWER_LOST
from virtflash.flash.crc32c cimport crc32c
from virtflash.ftl.allocation cimport close_stream, need_block, release_block
from virtflash.ftl.frame cimport FRAME_DATA, RECORD_WORDS_MIN, FrameLayout, FrameRecord, layout_of, program_frame
from virtflash.ftl.refresh cimport look_at_new
from virtflash.ftl.safety cimport doom_block, note_programmed
from virtflash.ftl.state cimport (
    BLOCK_CLOSED,
    FRAME_UNITS_MAX,
    STREAM_META,
    UNIT_LIMIT,
    UNIT_UNMAPPED,
    Ftl,
    Stream,
)

cdef enum:
    ATTEMPTS = 8  # blocks that a frame may fail in, one after the other


cdef inline void supersede(Ftl *ftl, uint32_t physical, uint64_t sequence) noexcept nogil:
    """A physical unit is needed no more once the frame of this sequence number is safe."""
    cdef uint32_t block
    if physical >= UNIT_LIMIT:
        return
    block = physical // ftl.block_units
    ftl.valid[block] -= 1
    ftl.dead_since[block] = sequence
    if ftl.valid[block] == 0 and ftl.use[block] == BLOCK_CLOSED:
        release_block(ftl, block)


cdef inline int append_frame(Ftl *ftl, uint32_t which, FrameRecord *record, char **data) noexcept nogil:
    """Program a frame at the end of a stream. 0; or -EIO without power, -EROFS, ALLOCATE_SYNC, -ENOSPC: nothing done.

    A program that fails costs the block its future: what is valid in it moves soon, and the frame is tried elsewhere.
    """
    cdef Stream *stream = &ftl.streams[which]
    cdef int _attempt
    cdef int result
    for _attempt in range(ATTEMPTS):
        result = need_block(ftl, which)
        if result:
            return result
        result = program_frame(ftl, stream.block, stream.frame, record, data)
        if result == FLASH_POWER_LOST:
            return -EIO
        if result == FLASH_NO_ROOM:
            return -ENOSPC
        note_programmed(ftl, stream, record)
        if result == FLASH_OK:
            if which == STREAM_META:
                ftl.dead_since[stream.block] = ftl.sequence
                ftl.counters.meta_frames += 1
            return 0
        ftl.counters.failed_programs += 1
        doom_block(ftl, stream.block)
        close_stream(ftl, stream)
    ftl.exhausted = ftl.read_only = True
    return -EROFS


cdef inline int append_units(
    Ftl *ftl, uint32_t which, uint32_t count, const uint32_t *units, char **data
) noexcept nogil:
    """Write units as one frame of a stream, and let the map point to them."""
    cdef FrameRecord record
    cdef char *padded[FRAME_UNITS_MAX]
    cdef Stream *stream = &ftl.streams[which]
    cdef FrameLayout *layout
    cdef uint32_t base
    cdef uint32_t i
    cdef int result = need_block(ftl, which)
    if result:
        return result
    layout = layout_of(ftl, stream.block)
    memset(&record, 0xff, sizeof(record))
    record.header.kind = FRAME_DATA
    record.header.words = layout.units if layout.units > RECORD_WORDS_MIN else RECORD_WORDS_MIN
    record.header.argument = count
    for i in range(layout.units):
        padded[i] = data[i] if i < count else NULL
        record.words[i] = units[i] if i < count else <uint32_t>UNIT_UNMAPPED
    if layout.in_tail:
        record.words[1] = crc32c(data[0], ftl.unit_bytes)
    result = append_frame(ftl, which, &record, padded)
    if result:
        return result
    ftl.counters.padding_units += layout.units - count
    base = stream.block * ftl.block_units + (stream.frame - 1) * layout.units
    ftl.valid[stream.block] += count
    for i in range(count):
        supersede(ftl, ftl.map[units[i]], ftl.sequence)
        ftl.map[units[i]] = base + i
    if stream.frame == layout.frames:
        look_at_new(ftl, stream.block)  # `data` may lie where it is read to: not earlier
    return 0
