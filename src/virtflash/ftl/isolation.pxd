"""Isolation by erase blocks: units of different owners never share one.

Each owner has open blocks of its own (*lanes*: host, cold, small); owner 0 has those that all share otherwise. Nothing
on the flash tells owners: after a mount they are told again, and whose a block is follows from the units that lie in
it. A block that holds units of several, since it was filled before, is refreshed, which separates them.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from virtflash.ftl.allocation cimport close_lanes, close_stream
from virtflash.ftl.owners cimport owner_of, stream_of
from virtflash.ftl.refresh cimport mark_for_refresh
from virtflash.ftl.state cimport (
    LANE_KINDS,
    OWNER_MIXED,
    OWNERS,
    STREAM_COUNT,
    UNIT_LIMIT,
    Ftl,
    OwnerTable,
)

cdef enum:
    OWNER_UNKNOWN = 254  # of a block, while the map is walked


cdef inline void close_blocks_of(Ftl *ftl, uint32_t owner) noexcept nogil:
    cdef uint32_t kind
    for kind in range(LANE_KINDS):
        close_stream(ftl, &ftl.streams[stream_of(ftl, kind, owner)])


cdef inline uint32_t owner_in(const OwnerTable *table, uint32_t granule) noexcept nogil:
    return table.owners[granule] if granule < table.granules else 0


cdef inline void close_all(Ftl *ftl) noexcept nogil:
    close_blocks_of(ftl, 0)
    close_lanes(ftl)


cdef inline void close_for(Ftl *ftl, const OwnerTable *after) noexcept nogil:
    """Who loses a granule starts anew: what lies in its open blocks may be another's from now on."""
    cdef uint32_t granule
    if after.granule_units != ftl.table.granule_units:
        close_all(ftl)
        return
    for granule in range(max(ftl.table.granules, after.granules)):
        if owner_in(&ftl.table, granule) != owner_in(after, granule):
            close_blocks_of(ftl, owner_in(&ftl.table, granule))


cdef inline void count_owners(Ftl *ftl) noexcept nogil:
    cdef uint32_t granule
    cdef uint32_t last = 0
    memset(ftl.present, 0, sizeof(ftl.present))
    for granule in range(ftl.table.granules):
        ftl.present[ftl.table.owners[granule]] = True
        last = max(last, ftl.table.owners[granule])
    ftl.stream_count = STREAM_COUNT + (LANE_KINDS * last if ftl.isolated else 0)


cdef inline void attribute_blocks(Ftl *ftl) noexcept nogil:
    """Whose each block is: by the map. About a millisecond for each GiB."""
    cdef uint32_t unit
    cdef uint32_t owner
    cdef uint8_t *of_block
    memset(ftl.owner, OWNER_UNKNOWN, ftl.blocks)
    for unit in range(ftl.units):
        if ftl.map[unit] >= UNIT_LIMIT:
            continue
        owner = owner_of(ftl, unit)
        of_block = &ftl.owner[ftl.map[unit] // ftl.block_units]
        if of_block[0] != owner:
            of_block[0] = <uint8_t>(owner if of_block[0] == OWNER_UNKNOWN else <uint32_t>OWNER_MIXED)


cdef inline void settle_blocks(Ftl *ftl) noexcept nogil:
    """Those that are open belong to their lane; those that are mixed are to be separated."""
    cdef uint32_t block
    cdef uint32_t i
    for block in range(ftl.blocks):
        if ftl.owner[block] == OWNER_UNKNOWN:
            ftl.owner[block] = 0
        elif ftl.owner[block] == OWNER_MIXED:
            mark_for_refresh(ftl, block)
    for i in range(ftl.stream_count):
        if ftl.streams[i].block < ftl.blocks:
            ftl.owner[ftl.streams[i].block] = ftl.streams[i].owner


cdef inline void adopt_owners(Ftl *ftl, OwnerTable *table, bint isolated, uint32_t small_lanes) noexcept nogil:
    """From now on; `table` is exchanged for the one before."""
    cdef OwnerTable before = ftl.table
    if isolated and ftl.isolated:
        close_for(ftl, table)
    elif isolated or ftl.isolated:
        close_all(ftl)
    ftl.table = table[0]
    table[0] = before
    ftl.isolated = isolated
    ftl.small_lanes = small_lanes
    count_owners(ftl)
    if isolated:
        attribute_blocks(ftl)
        settle_blocks(ftl)


cdef inline void note_owners(const Ftl *ftl, uint8_t *bits) noexcept nogil:
    """Whose units each block holds: OWNERS bits for each block, zeroed before."""
    cdef uint32_t unit
    cdef uint32_t owner
    for unit in range(ftl.units):
        if ftl.map[unit] < UNIT_LIMIT:
            owner = owner_of(ftl, unit)
            bits[ftl.map[unit] // ftl.block_units * (OWNERS // 8) + owner // 8] |= <uint8_t>(1 << owner % 8)
