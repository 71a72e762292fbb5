"""Owners: whom a unit belongs to, and whose doing each frame is that is programmed.

The layer knows numbers, not what owns: 0 is nobody, or whoever keeps the flash. They are told by granule of the units'
range and are nowhere on the flash.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.ftl.state cimport (
    CAUSE_CALLER,
    CAUSE_NOBODY,
    CAUSE_OVERHEAD,
    LANE_KINDS,
    MOVE_COLLECT,
    MOVE_PURGE,
    STREAM_COUNT,
    Ftl,
)


cdef inline uint32_t owner_of(const Ftl *ftl, uint32_t unit) noexcept nogil:
    cdef uint32_t granule
    if ftl.table.granules == 0:
        return 0
    granule = unit // ftl.table.granule_units
    return ftl.table.owners[granule] if granule < ftl.table.granules else 0


cdef inline uint32_t stream_of(const Ftl *ftl, uint32_t kind, uint32_t owner) noexcept nogil:
    """Where units of an owner go. Without isolation all share."""
    if not ftl.isolated or owner == 0:
        return kind
    return STREAM_COUNT + (owner - 1) * LANE_KINDS + kind


cdef inline void charge_units(Ftl *ftl, uint64_t bytes, const uint32_t *units, uint32_t count) noexcept nogil:
    """In equal parts to the owners of some units; the last takes what division leaves."""
    cdef uint64_t share
    cdef uint32_t i
    for i in range(count):
        share = bytes // (count - i)
        ftl.programmed.direct[owner_of(ftl, units[i])] += share
        bytes -= share


cdef inline void charge_ranges(Ftl *ftl, uint64_t bytes) noexcept nogil:
    """Of a frame of the trims that wait: to the owners of what is trimmed, whoever made it be programmed now."""
    cdef uint64_t share
    cdef uint32_t i
    for i in range(ftl.trims.count):
        share = bytes // (ftl.trims.count - i)
        ftl.programmed.direct[owner_of(ftl, ftl.trims.ranges[i].first)] += share
        bytes -= share


cdef inline void charge_cause(Ftl *ftl, uint64_t bytes) noexcept nogil:
    if ftl.cause == CAUSE_OVERHEAD:
        ftl.programmed.overhead += bytes
    elif ftl.cause == CAUSE_NOBODY:
        ftl.programmed.nobody += bytes
    else:
        ftl.programmed.direct[ftl.caller] += bytes


cdef inline uint32_t cause_of_move(const Ftl *ftl) noexcept nogil:
    """Collection is everybody's who writes; a purge is its caller's; the rest would be done if nobody wrote at all."""
    if ftl.move.why == MOVE_COLLECT:
        return CAUSE_OVERHEAD
    return CAUSE_CALLER if ftl.move.why == MOVE_PURGE else <uint32_t>CAUSE_NOBODY
