"""Discard, write zeroes and secure erase on emulated storage: what each does to the cache and to the flash."""

from libc.errno cimport EINVAL, EROFS
from libc.stdint cimport int32_t, uint32_t, uint64_t

from virtflash.backing.flash_cache cimport as_result, flush_whole, put
from virtflash.backing.flash_state cimport SECTOR_SHIFT, FlashState
from virtflash.backing.target cimport (
    TARGET_DISCARD,
    TARGET_MORE,
    TARGET_ROOM,
    TARGET_SECURE_ERASE,
    TARGET_SYNC,
    TARGET_UNMAP_ZEROES,
    TARGET_WRITE_ZEROES,
    TargetProgress,
)
from virtflash.backing.write_cache cimport cache_drop_range, cache_wipe_vacant
from virtflash.ftl.translation cimport ftl_sanitize, ftl_secure_trim, ftl_trim

cdef enum:
    TRIM_UNITS = 8192  # of one part: tens of microseconds
    ZERO_BYTES = 65536  # of one part
    OUT_OF_CACHE = 1  # how far a secure erase is
    SECURELY_ERASED = 2


cdef inline bint is_protected(const FlashState *state, uint64_t sector, uint64_t sectors) noexcept nogil:
    """Does a range touch a write-protected group?"""
    cdef uint64_t group
    if state.protection.in_force == 0 or sectors == 0 or sector >= state.user_sectors:
        return False
    for group in range(
        sector // state.protection.group_sectors,
        min((sector + sectors - 1) // state.protection.group_sectors + 1, state.protection.count),
    ):
        if state.protection.groups[group]:
            return True
    return False


cdef inline bint refuses_writes(const FlashState *state, uint64_t sector, uint64_t sectors) noexcept nogil:
    return state.read_only or state.ftl.read_only or is_protected(state, sector, sectors)


cdef inline int32_t trim_part(
    FlashState *state, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    """The next part of the whole units in a range."""
    cdef uint64_t first = (sector + state.unit_sectors - 1) // state.unit_sectors
    cdef uint64_t end = (sector + sectors) // state.unit_sectors
    cdef uint32_t count
    cdef int32_t result
    first += progress.done
    if first >= end:
        return 0
    count = <uint32_t>min(end - first, TRIM_UNITS)
    result = as_result(ftl_trim(state.ftl, <uint32_t>first, count))
    if result:
        return result  # and the cache still has what it had accepted
    cache_drop_range(&state.cache, <uint32_t>first, count)
    progress.done += count
    state.counters.units_trimmed += count
    return TARGET_MORE if first + count < end else 0


cdef inline int32_t zero(FlashState *state, uint64_t start, uint64_t bytes) noexcept nogil:
    """All of less than a unit's bytes, or the reason why not. They lie in one unit, or in two."""
    cdef int32_t result = put(state, start, NULL, bytes)
    if 0 < result < <int32_t>bytes:
        start += <uint64_t>result
        bytes -= <uint64_t>result
        result = put(state, start, NULL, bytes)
    return 0 if result == <int32_t>bytes else result


cdef inline int32_t zero_edges(FlashState *state, uint64_t sector, uint64_t sectors) noexcept nogil:
    """Zeroes for what a range covers of the units that are not wholly inside."""
    cdef uint64_t start = sector << SECTOR_SHIFT
    cdef uint64_t end = (sector + sectors) << SECTOR_SHIFT
    cdef uint64_t first = (start + state.unit_bytes - 1) // state.unit_bytes * state.unit_bytes
    cdef uint64_t last = end // state.unit_bytes * state.unit_bytes
    cdef int32_t result = 0
    if first > last:
        return zero(state, start, end - start)
    if start < first:
        result = zero(state, start, first - start)
    if result == 0 and last < end:
        result = zero(state, last, end - last)
    return result


cdef inline int32_t unmap_zeroes(
    FlashState *state, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    cdef int32_t result
    if progress.stage == 0:
        result = zero_edges(state, sector, sectors)
        if result:
            return result
        progress.stage = 1
    return trim_part(state, sector, sectors, progress)


cdef inline int32_t write_zeroes(
    FlashState *state, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    """Zeroes that are mapped: space that is provisioned stays so."""
    cdef uint64_t left = (sectors << SECTOR_SHIFT) - progress.done
    cdef int32_t result = put(state, (sector << SECTOR_SHIFT) + progress.done, NULL, min(left, ZERO_BYTES))
    if result < 0 or result == TARGET_SYNC or result == TARGET_ROOM:
        return result
    progress.done += <uint64_t>result
    return TARGET_MORE if <uint64_t>result < left else 0


cdef inline int32_t erase_securely(
    FlashState *state, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    """No copy is left: not in the cache's memory, not on the flash. Whole units only: the flash erases no less."""
    cdef uint32_t first = <uint32_t>(sector // state.unit_sectors)
    cdef uint32_t count = <uint32_t>(sectors // state.unit_sectors)
    cdef int32_t result
    if (sector | sectors) % state.unit_sectors:
        return -EINVAL
    if progress.done == SECURELY_ERASED:
        return 0
    result = as_result(ftl_secure_trim(state.ftl, first, count, &progress.stage))
    if progress.done == 0 and (result == 0 or result == TARGET_MORE):
        cache_drop_range(&state.cache, first, count)
        cache_wipe_vacant(&state.cache)
        progress.done = OUT_OF_CACHE
    if result == 0:
        progress.done = SECURELY_ERASED
        state.counters.secure_erases += 1
        state.counters.units_erased_securely += count
    return result


cdef inline int32_t change_range(
    FlashState *state, int kind, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    cdef int32_t result
    if refuses_writes(state, sector, sectors):
        return -EROFS
    if sectors == 0:
        return 0
    if kind == TARGET_DISCARD:
        result = trim_part(state, sector, sectors, progress)
    elif kind == TARGET_UNMAP_ZEROES:
        result = unmap_zeroes(state, sector, sectors, progress)
    elif kind == TARGET_WRITE_ZEROES:
        result = write_zeroes(state, sector, sectors, progress)
    elif kind == TARGET_SECURE_ERASE:
        result = erase_securely(state, sector, sectors, progress)
    else:
        return -EINVAL
    return flush_whole(state) if result == 0 and not state.cache_on else result


cdef inline int32_t sanitize(FlashState *state, uint64_t *step) noexcept nogil:
    """Remove whatever is on the medium, or in the cache's memory, and is not the data of any sector."""
    cache_wipe_vacant(&state.cache)
    return as_result(ftl_sanitize(state.ftl, step))
