"""What is safe: up to which frame a power cut, or a crash of the host, can take nothing away any more.

Nothing is erased before everything that took its place is safe. That one rule stands for power cuts on paired pages,
for trims that the flash does not know yet, and for host pages that were not written back.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.flash.chip cimport FLASH_NOWHERE, FLASH_NO_ROOM, FLASH_OK, FLASH_POWER_LOST
from virtflash.ftl.frame cimport (
    FRAME_DATA,
    FRAME_PAD,
    FRAME_TRIM,
    RECORD_WORDS_MIN,
    TAIL_RECORD_BYTES,
    FrameLayout,
    FrameRecord,
    kind_of,
    layout_of,
    program_frame,
)
from virtflash.ftl.owners cimport charge_cause, charge_ranges, charge_units
from virtflash.ftl.state cimport (
    BLOCK_FREE,
    CAUSE_UNITS,
    FLAG_ASIDE,
    FLAG_RETIRE,
    FLAG_SLC,
    FRAME_UNITS_MAX,
    NO_BLOCK,
    RECENT_FRAMES,
    Ftl,
    Stream,
)


cdef inline bint is_exposed(const Ftl *ftl, const Stream *stream, uint32_t frame) noexcept nogil:
    """Could a cut while the rest of this open block is programmed destroy a frame that was programmed before?"""
    cdef uint32_t partner = ftl.partner[frame]
    return partner != FLASH_NOWHERE and partner >= stream.frame and stream.recent[frame % RECENT_FRAMES] != 0


cdef inline uint32_t first_exposed(Ftl *ftl, const Stream *stream) noexcept nogil:
    """The earliest exposed frame of a stream's open block; NO_BLOCK: none is."""
    cdef uint32_t frame
    if ftl.partner == NULL or stream.block == NO_BLOCK or ftl.flags[stream.block] & FLAG_SLC:
        return NO_BLOCK
    frame = stream.frame - RECENT_FRAMES if stream.frame > RECENT_FRAMES else 0
    while frame < stream.frame:
        if is_exposed(ftl, stream, frame):
            return frame
        frame += 1
    return NO_BLOCK


cdef inline uint64_t safe_sequence(Ftl *ftl) noexcept nogil:
    """Frames up to this sequence number are safe."""
    cdef uint64_t safe = ftl.sequence
    cdef uint32_t frame
    cdef uint32_t i
    if ftl.trims.count and ftl.trims.since < safe:
        safe = ftl.trims.since
    if ftl.settings.host_sync and ftl.synced < safe:
        safe = ftl.synced
    if ftl.partner == NULL:
        return safe
    for i in range(ftl.stream_count):
        frame = first_exposed(ftl, &ftl.streams[i])
        if frame != NO_BLOCK and ftl.streams[i].recent[frame % RECENT_FRAMES] <= safe:
            safe = ftl.streams[i].recent[frame % RECENT_FRAMES] - 1
    return safe


cdef inline void charge_frame(Ftl *ftl, const FrameRecord *record, uint64_t bytes) noexcept nogil:
    """Programmed, well or not: somebody pays for it."""
    if kind_of(record) == FRAME_TRIM:
        charge_ranges(ftl, bytes // 2)  # who trims without end shall not make others pay who flush, nor these those
        charge_cause(ftl, bytes - bytes // 2)
    elif kind_of(record) == FRAME_DATA and ftl.cause == CAUSE_UNITS:
        charge_units(ftl, bytes, record.words, record.header.argument)
    else:
        charge_cause(ftl, bytes)


cdef inline void note_programmed(Ftl *ftl, Stream *stream, const FrameRecord *record) noexcept nogil:
    """A frame of the open block is programmed: the sequence goes on."""
    cdef FrameLayout *layout = layout_of(ftl, stream.block)
    cdef uint32_t behind = TAIL_RECORD_BYTES if layout.in_tail else 0
    charge_frame(ftl, record, <uint64_t>layout.units * ftl.unit_bytes + behind)
    ftl.sequence += 1
    stream.recent[stream.frame % RECENT_FRAMES] = ftl.sequence
    stream.frame += 1
    ftl.written[stream.block] = stream.frame


cdef inline void check_spares(Ftl *ftl) noexcept nogil:
    """The end of life comes while there is still room to save what was accepted."""
    if ftl.bad_blocks - ftl.first_bad + ftl.doomed_blocks >= ftl.reserve_blocks:
        ftl.read_only = True


cdef inline void doom_block(Ftl *ftl, uint32_t block) noexcept nogil:
    """A program failed in it: it is not to be used again."""
    if not ftl.flags[block] & FLAG_RETIRE:
        ftl.flags[block] |= FLAG_RETIRE
        ftl.doomed_blocks += 1
        check_spares(ftl)


cdef inline int pad_frame(Ftl *ftl, Stream *stream) noexcept nogil:
    """Program padding as the next frame of the open block, which is used up even if it fails. As `program_frame`."""
    cdef FrameRecord record
    cdef char *nothing[FRAME_UNITS_MAX]
    cdef int status
    memset(nothing, 0, sizeof(nothing))
    memset(&record, 0xff, sizeof(record))
    record.header.kind = FRAME_PAD
    record.header.words = RECORD_WORDS_MIN
    record.header.argument = 0
    status = program_frame(ftl, stream.block, stream.frame, &record, nothing)
    if status == FLASH_POWER_LOST or status == FLASH_NO_ROOM:
        return status
    note_programmed(ftl, stream, &record)
    stream.recent[(stream.frame - 1) % RECENT_FRAMES] = 0  # it may be lost: else padding would go on to the end
    ftl.counters.padding_units += layout_of(ftl, stream.block).units
    return status


cdef inline int pad_stream(Ftl *ftl, Stream *stream) noexcept nogil:
    """Program padding until no frame of the open block is exposed."""
    cdef int status
    while first_exposed(ftl, stream) != NO_BLOCK and stream.frame < layout_of(ftl, stream.block).frames:
        status = pad_frame(ftl, stream)
        if status == FLASH_POWER_LOST or status == FLASH_NO_ROOM:
            return status
        if status != FLASH_OK:
            ftl.counters.failed_programs += 1
            doom_block(ftl, stream.block)
    return FLASH_OK


cdef inline int pad_exposed(Ftl *ftl) noexcept nogil:
    """Make every frame safe from the programs that follow: FLASH_OK, FLASH_POWER_LOST or FLASH_NO_ROOM."""
    cdef uint32_t i
    cdef int status
    if ftl.partner == NULL:
        return FLASH_OK
    for i in range(ftl.stream_count):
        if ftl.streams[i].block != NO_BLOCK:
            status = pad_stream(ftl, &ftl.streams[i])
            if status != FLASH_OK:
                return status
    return FLASH_OK


cdef inline bint is_erasable(const Ftl *ftl, uint32_t block, uint64_t safe) noexcept nogil:
    return ftl.use[block] == BLOCK_FREE and ftl.dead_since[block] <= safe and not ftl.flags[block] & FLAG_ASIDE
