"""Guest memory: from guest-physical addresses to host pointers, checked.

A table is sorted, disjoint and immutable (made by `MemoryTable` in reactor.pyx, which also makes sure that no region
wraps), so a lookup needs no lock and a hit costs one comparison.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.atomics cimport copy_once, load_relaxed_u32
from virtflash.engine.state cimport Region, Table, TableUse


cdef inline bint table_lost(const Table *table) noexcept nogil:
    """Was some of it truncated by its owner? See `sigbus_guard.h`."""
    cdef uint32_t i
    for i in range(table.count):
        if load_relaxed_u32(table.regions[i].lost):
            return True
    return False


cdef inline bint region_holds(const Region *region, uint64_t address) noexcept nogil:
    return address - region.guest < region.size  # unsigned: an address below the region wraps to a large number


cdef inline Region *region_of(TableUse *use, uint64_t address) noexcept nogil:
    """The region that holds a guest address, or NULL."""
    cdef Table *table = use.table
    cdef uint32_t low = 0
    cdef uint32_t high = table.count
    cdef uint32_t middle
    if use.hint < table.count and region_holds(&table.regions[use.hint], address):
        return &table.regions[use.hint]
    while low < high:
        middle = (low + high) >> 1
        if region_holds(&table.regions[middle], address):
            use.hint = middle
            return &table.regions[middle]
        if address < table.regions[middle].guest:
            high = middle
        else:
            low = middle + 1
    return NULL


cdef inline char *translate(TableUse *use, uint64_t address, uint64_t *length) noexcept nogil:
    """Host pointer of a guest address, and cut `length` to what is contiguous there. NULL: not guest memory."""
    cdef Region *region = region_of(use, address)
    cdef uint64_t offset
    if region == NULL:
        return NULL
    offset = address - region.guest
    if length[0] > region.size - offset:
        length[0] = region.size - offset
    return region.host + offset


cdef inline bint read_guest(TableUse *use, uint64_t address, char *into, uint64_t length) noexcept nogil:
    """Copy `length` bytes once from guest memory, across regions where they touch. False: part of it is not memory."""
    cdef uint64_t piece
    cdef char *source
    while length:
        piece = length
        source = translate(use, address, &piece)
        if source == NULL:
            return False
        copy_once(into, source, piece)
        into += piece
        address += piece
        length -= piece
    return True


cdef inline char *ring_part(const Table *table, uint64_t user_address, uint64_t length) noexcept nogil:
    """Host pointer of a ring part given by a front-end address. NULL unless it lies wholly inside one region."""
    cdef uint32_t i
    cdef uint64_t offset
    for i in range(table.count):
        offset = user_address - table.regions[i].user
        if offset < table.regions[i].size and length <= table.regions[i].size - offset:
            return table.regions[i].host + offset
    return NULL
