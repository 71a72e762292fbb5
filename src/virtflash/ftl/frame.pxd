"""Frames: how units lie in pages, and the record that says what a frame holds.

The record is written with the frame (spare bytes), with the last of its pages, or behind it (tail of a NOR block), so a
frame whose record is whole was programmed whole. Little-endian:

| offset | bytes | |
|---|---|---|
| 0 | 2 | magic, 0x4656 |
| 2 | 1 | kind; bit 7: the block is in SLC mode |
| 3 | 1 | words that follow |
| 4 | 4 | CRC32C of the record with this field 0 |
| 8 | 8 | sequence number |
| 16 | 4 | times that the block was erased |
| 20 | 4 | argument: units in use, or the number of a slice |
| 24 | 4 each | words: the units' numbers; or of metadata and without an ECC: two, see below |

The two words of metadata are the low half of the checkpoint's start (or nothing) and the CRC32C of the frame's data; on
parts without an ECC those of data are the unit and that CRC32C.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from virtflash.flash.chip cimport (
    FLASH_ERASED,
    FLASH_IS_BAD,
    FLASH_NOR,
    FLASH_OK,
    FLASH_POWER_LOST,
    FLASH_PROGRAM,
    FLASH_READ,
    FLASH_UNCORRECTABLE,
    FlashOperation,
    Geometry,
    chip_do,
)
from virtflash.flash.crc32c cimport crc32c
from virtflash.ftl.state cimport (
    FLAG_SLC,
    FRAME_UNITS_MAX,
    SPARE_BYTES_MAX,
    FrameLayout,
    Ftl,
)

cdef enum:
    RECORD_MAGIC = 0x4656
    RECORD_HEADER = 24
    RECORD_WORDS_MIN = 2
    TAIL_RECORD_BYTES = 64  # of each frame, on parts without spare bytes
    SEQUENCE_BITS = 62  # no device lives so long; beyond, comparing and adding would wrap

cdef enum:
    FRAME_DATA = 1
    FRAME_TRIM = 2
    FRAME_MAP = 3  # a slice of a checkpoint's map
    FRAME_TABLE = 4  # a slice of its block table
    FRAME_END = 5
    FRAME_PAD = 6
    KIND_SLC = 0x80

cdef packed struct RecordHeader:
    uint16_t magic
    uint8_t kind
    uint8_t words
    uint32_t checksum
    uint64_t sequence
    uint32_t erases
    uint32_t argument

cdef struct FrameRecord:
    RecordHeader header
    uint32_t words[FRAME_UNITS_MAX]


cdef inline uint8_t kind_of(const FrameRecord *record) noexcept nogil:
    return record.header.kind & ~<uint8_t>KIND_SLC


cdef inline uint32_t record_bytes(uint32_t words) noexcept nogil:
    return RECORD_HEADER + 4 * words


cdef inline void lay_frames(
    FrameLayout *layout, const Geometry *geometry, uint32_t unit_bytes, bint slc
) noexcept nogil:
    cdef uint32_t page_bytes = geometry.slc_page_bytes if slc else geometry.page_bytes
    cdef uint32_t pages = geometry.slc_pages_per_block if slc else geometry.pages_per_block
    layout.page_bytes = page_bytes
    layout.in_tail = geometry.kind == FLASH_NOR
    if page_bytes >= unit_bytes:
        layout.units = page_bytes // unit_bytes
        layout.pages = 1
    else:
        layout.units = 1
        layout.pages = unit_bytes // page_bytes
    layout.frames = pages // layout.pages
    if layout.in_tail:
        layout.frames = (pages * page_bytes) // (layout.units * unit_bytes + TAIL_RECORD_BYTES)


cdef inline FrameLayout *layout_of(Ftl *ftl, uint32_t block) noexcept nogil:
    return &ftl.layouts[1 if ftl.flags[block] & FLAG_SLC else 0]


cdef inline int perform(Ftl *ftl, FlashOperation *operation) noexcept nogil:
    cdef int status = chip_do(ftl.chip, operation)
    if operation.ready_ns > ftl.ready_ns:
        ftl.ready_ns = operation.ready_ns
    if status == FLASH_POWER_LOST:
        ftl.lost_power = True
    return status


cdef inline int program_page(
    Ftl *ftl, uint32_t block, uint32_t page, uint32_t offset, iovec *iov, uint32_t pieces, uint32_t length, char *spare
) noexcept nogil:
    cdef FlashOperation operation
    memset(&operation, 0, sizeof(operation))
    operation.kind = FLASH_PROGRAM
    operation.block, operation.page, operation.offset = block, page, offset
    operation.iov, operation.iov_count, operation.length = iov, pieces, length
    operation.spare = spare
    return perform(ftl, &operation)


cdef inline int read_page(
    Ftl *ftl, uint32_t block, uint32_t page, uint32_t offset, char *into, uint32_t length, char *spare,
    uint32_t *share
) noexcept nogil:
    """`share`: the worst codeword's corrected bits in percent, kept if larger than before; may be NULL."""
    cdef FlashOperation operation
    cdef iovec piece
    memset(&operation, 0, sizeof(operation))
    piece.iov_base = into
    piece.iov_len = length
    operation.kind = FLASH_READ
    operation.block, operation.page, operation.offset = block, page, offset
    operation.iov, operation.iov_count, operation.length = &piece, 1, length
    operation.spare = spare
    perform(ftl, &operation)
    ftl.counters.corrected_bits += operation.corrected_bits
    if share != NULL and operation.worst_share > share[0]:
        share[0] = operation.worst_share
    return operation.status


cdef inline int simple_operation(
    Ftl *ftl, uint8_t kind, uint32_t block, uint8_t flags, uint32_t *answer
) noexcept nogil:
    """An operation on a whole block. `answer`: of FLASH_IS_BAD."""
    cdef FlashOperation operation
    memset(&operation, 0, sizeof(operation))
    operation.kind, operation.block, operation.flags = kind, block, flags
    perform(ftl, &operation)
    if answer != NULL:
        answer[0] = operation.worst_share
    return operation.status


cdef inline void tail_place(
    const Ftl *ftl, const FrameLayout *layout, uint32_t frame, uint32_t *page, uint32_t *offset
) noexcept nogil:
    """Where the record of a frame lies on a part without spare bytes."""
    cdef uint32_t at = layout.frames * layout.units * ftl.unit_bytes + frame * TAIL_RECORD_BYTES
    page[0] = at // layout.page_bytes
    offset[0] = at % layout.page_bytes


cdef inline void seal_record(FrameRecord *record) noexcept nogil:
    record.header.magic = RECORD_MAGIC
    record.header.checksum = 0
    record.header.checksum = crc32c(<const char *>record, record_bytes(record.header.words))


cdef inline bint is_sealed(FrameRecord *record) noexcept nogil:
    cdef uint32_t checksum = record.header.checksum
    cdef bint fits
    if record.header.magic != RECORD_MAGIC or record.header.words > FRAME_UNITS_MAX:
        return False
    if record.header.sequence >> SEQUENCE_BITS:
        return False
    record.header.checksum = 0
    fits = crc32c(<const char *>record, record_bytes(record.header.words)) == checksum
    record.header.checksum = checksum
    return fits


cdef inline int program_one_page(
    Ftl *ftl, uint32_t block, uint32_t frame, char **data, FrameRecord *record, FrameLayout *layout
) noexcept nogil:
    """A frame that is one page; units without data are padding."""
    cdef iovec pieces[FRAME_UNITS_MAX]
    cdef uint32_t i
    for i in range(layout.units):
        pieces[i].iov_base = data[i] if data[i] != NULL else ftl.padding
        pieces[i].iov_len = ftl.unit_bytes
    return program_page(ftl, block, frame, 0, pieces, layout.units, layout.page_bytes, <char *>record)


cdef inline int program_pages(
    Ftl *ftl, uint32_t block, uint32_t frame, char *unit, FrameRecord *record, FrameLayout *layout
) noexcept nogil:
    """A frame of several pages: the record goes with the last of them, or behind it."""
    cdef uint32_t first = frame * layout.pages
    cdef uint32_t i
    cdef uint32_t offset
    cdef iovec piece
    cdef char *spare
    cdef int status
    for i in range(layout.pages):
        piece.iov_base = (unit if unit != NULL else ftl.padding) + i * layout.page_bytes
        piece.iov_len = layout.page_bytes
        spare = <char *>record if i + 1 == layout.pages and not layout.in_tail else NULL
        status = program_page(ftl, block, first + i, 0, &piece, 1, layout.page_bytes, spare)
        if status:
            return status
    if not layout.in_tail:
        return FLASH_OK
    tail_place(ftl, layout, frame, &first, &offset)
    piece.iov_base = record
    piece.iov_len = TAIL_RECORD_BYTES
    return program_page(ftl, block, first, offset, &piece, 1, TAIL_RECORD_BYTES, NULL)


cdef inline int program_frame(
    Ftl *ftl, uint32_t block, uint32_t frame, FrameRecord *record, char **data
) noexcept nogil:
    """Program one frame with its record, which is completed here. `data[i]` of each unit; NULL: padding."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef char spare[SPARE_BYTES_MAX]
    memset(spare, 0xff, sizeof(spare))
    record.header.kind = kind_of(record) | (KIND_SLC if ftl.flags[block] & FLAG_SLC else 0)
    record.header.erases = ftl.erases[block]
    record.header.sequence = ftl.sequence + 1
    seal_record(record)
    memcpy(spare, record, record_bytes(record.header.words))
    ftl.counters.frames += 1
    if layout.pages == 1 and not layout.in_tail:
        return program_one_page(ftl, block, frame, data, <FrameRecord *>spare, layout)
    return program_pages(ftl, block, frame, data[0], <FrameRecord *>spare, layout)


cdef inline int read_record(Ftl *ftl, uint32_t block, uint32_t frame, FrameRecord *record) noexcept nogil:
    """FLASH_OK; FLASH_ERASED: the frame was not programmed; FLASH_UNCORRECTABLE: it has no record that is whole."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef char spare[SPARE_BYTES_MAX]
    cdef uint32_t page
    cdef uint32_t offset
    cdef int status
    if layout.in_tail:
        tail_place(ftl, layout, frame, &page, &offset)
        status = read_page(ftl, block, page, offset, spare, TAIL_RECORD_BYTES, NULL, NULL)
        if status == FLASH_OK and is_blank(spare, TAIL_RECORD_BYTES):
            status = FLASH_ERASED
    else:
        status = read_page(ftl, block, (frame + 1) * layout.pages - 1, 0, NULL, 0, spare, NULL)
    if status:
        return status
    memcpy(record, spare, sizeof(FrameRecord) if sizeof(FrameRecord) < SPARE_BYTES_MAX else SPARE_BYTES_MAX)
    return FLASH_OK if is_sealed(record) else FLASH_UNCORRECTABLE


cdef inline bint is_blank(const char *bytes, uint32_t length) noexcept nogil:
    cdef uint32_t i
    for i in range(length):
        if <uint8_t>bytes[i] != 0xff:
            return False
    return True


cdef inline int read_slot(
    Ftl *ftl, uint32_t block, uint32_t slot, uint32_t offset, uint32_t length, char *into, uint32_t *share
) noexcept nogil:
    """Bytes of one unit where it lies. FLASH_OK, FLASH_UNCORRECTABLE or FLASH_POWER_LOST."""
    cdef FrameLayout *layout = layout_of(ftl, block)
    cdef uint32_t at
    cdef uint32_t piece
    cdef int status
    cdef int worst = FLASH_OK
    if layout.pages == 1:
        at = slot // layout.units
        offset += (slot - at * layout.units) * ftl.unit_bytes
        status = read_page(ftl, block, at, offset, into, length, NULL, share)
        return FLASH_UNCORRECTABLE if status == FLASH_ERASED else status
    while length:
        at = slot * layout.pages + offset // layout.page_bytes
        piece = layout.page_bytes - offset % layout.page_bytes
        piece = piece if piece < length else length
        status = read_page(ftl, block, at, offset % layout.page_bytes, into, piece, NULL, share)
        if status == FLASH_POWER_LOST:
            return status
        if status < 0 or (status == FLASH_ERASED and not layout.in_tail):
            worst = FLASH_UNCORRECTABLE
        offset += piece
        into += piece
        length -= piece
    return worst
