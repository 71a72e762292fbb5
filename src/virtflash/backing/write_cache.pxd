"""The volatile write cache of emulated storage: whole mapping units, found by hash, written out first in, first out.

A unit is whole from the moment it is here: whoever writes a part of one reads the rest from the flash first, so that
data that cannot be read is an error of the write that needs it and of nobody else. A unit that is written again keeps
its place in the order.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    CACHE_NOWHERE = 0xffffffff
    CACHE_ALIGNMENT = 4096
    CACHE_WRITERS = 129  # numbers of owners that write, 0 among them, and
    CACHE_SEVERAL = 128  # that more than one has written a unit

# A place for one unit; its data lies at the same number in `WriteCache.data`.
cdef struct CachePlace:
    uint32_t unit
    uint32_t older
    uint32_t newer  # of a free place: the next free one
    uint32_t writer
    uint64_t order  # of its coming, from 1 on

cdef struct CacheBucket:
    uint32_t unit
    uint32_t place  # CACHE_NOWHERE: empty

cdef struct WriteCache:
    uint32_t unit_bytes
    uint32_t places
    uint32_t held
    uint64_t added  # so far: the order of the newest
    uint32_t written_by[CACHE_WRITERS]  # of them
    uint32_t oldest
    uint32_t newest
    uint32_t vacant  # first free place
    uint32_t bucket_mask
    uint32_t bucket_shift
    CachePlace *place
    CacheBucket *buckets
    char *data


cdef inline void cache_free(WriteCache *cache) noexcept nogil:
    free(cache.place)
    free(cache.buckets)
    free(cache.data)
    memset(cache, 0, sizeof(WriteCache))


cdef inline void cache_empty(WriteCache *cache) noexcept nogil:
    """Forget everything, as a power cut does."""
    cdef uint32_t i
    cache.held = 0
    memset(cache.written_by, 0, sizeof(cache.written_by))
    cache.oldest = cache.newest = CACHE_NOWHERE
    cache.vacant = 0
    for i in range(cache.places):
        cache.place[i].newer = i + 1 if i + 1 < cache.places else CACHE_NOWHERE
    for i in range(cache.bucket_mask + 1):
        cache.buckets[i].place = CACHE_NOWHERE


cdef inline bint cache_make(WriteCache *cache, uint32_t unit_bytes, uint32_t places) noexcept nogil:
    """False: no memory. At least four buckets for each place, so that a lookup ends at the first one or the second."""
    cdef uint32_t bits = 4
    while (<uint64_t>1 << bits) < <uint64_t>places * 4:
        bits += 1
    memset(cache, 0, sizeof(WriteCache))
    cache.unit_bytes, cache.places = unit_bytes, places
    cache.bucket_mask, cache.bucket_shift = (<uint32_t>1 << bits) - 1, 32 - bits
    cache.place = <CachePlace *>calloc(places, sizeof(CachePlace))
    cache.buckets = <CacheBucket *>calloc(<size_t>1 << bits, sizeof(CacheBucket))
    cache.data = <char *>aligned_alloc(CACHE_ALIGNMENT, <size_t>places * unit_bytes)
    if cache.place == NULL or cache.buckets == NULL or cache.data == NULL:
        cache_free(cache)
        return False
    memset(cache.data, 0, <size_t>places * unit_bytes)
    cache_empty(cache)
    return True


cdef inline char *cache_data(const WriteCache *cache, uint32_t place) noexcept nogil:
    return cache.data + <size_t>place * cache.unit_bytes


cdef inline uint32_t cache_home(const WriteCache *cache, uint32_t unit) noexcept nogil:
    """The bucket where a unit is looked for first: the highest bits of a product with the golden ratio."""
    return (unit * <uint32_t>0x9e3779b1) >> cache.bucket_shift


cdef inline uint32_t cache_bucket(const WriteCache *cache, uint32_t unit) noexcept nogil:
    """The bucket that names a unit, or the empty one that ends the search."""
    cdef uint32_t at = cache_home(cache, unit)
    while cache.buckets[at].place != CACHE_NOWHERE and cache.buckets[at].unit != unit:
        at = (at + 1) & cache.bucket_mask
    return at


cdef inline char *cache_find(const WriteCache *cache, uint32_t unit) noexcept nogil:
    """The data of a unit; NULL: it is not here."""
    cdef uint32_t place
    if cache.held == 0:
        return NULL
    place = cache.buckets[cache_bucket(cache, unit)].place
    return NULL if place == CACHE_NOWHERE else cache_data(cache, place)


cdef inline bint cache_is_full(const WriteCache *cache) noexcept nogil:
    return cache.vacant == CACHE_NOWHERE


cdef inline char *cache_add(WriteCache *cache, uint32_t unit, uint32_t writer) noexcept nogil:
    """A place for a unit that is not here, in a cache that is not full: whoever asks fills it at once, or drops it."""
    cdef uint32_t place = cache.vacant
    cdef uint32_t bucket = cache_bucket(cache, unit)
    cache.vacant = cache.place[place].newer
    cache.added += 1
    cache.place[place] = CachePlace(unit, cache.newest, CACHE_NOWHERE, writer, cache.added)
    cache.written_by[writer] += 1
    if cache.newest == CACHE_NOWHERE:
        cache.oldest = place
    else:
        cache.place[cache.newest].newer = place
    cache.newest = place
    cache.buckets[bucket] = CacheBucket(unit, place)
    cache.held += 1
    return cache_data(cache, place)


cdef inline void cache_give_to(WriteCache *cache, uint32_t place, uint32_t writer) noexcept nogil:
    cache.written_by[cache.place[place].writer] -= 1
    cache.place[place].writer = writer
    cache.written_by[writer] += 1


cdef inline void cache_note_writer(WriteCache *cache, const char *data, uint32_t writer) noexcept nogil:
    """A unit that lies at `data` is written again, perhaps by somebody else: whoever flushes, flushes its own."""
    cdef uint32_t place
    if cache.written_by[writer] == cache.held:
        return
    place = <uint32_t>(<size_t>(data - cache.data) // cache.unit_bytes)
    if cache.place[place].writer != writer:
        cache_give_to(cache, place, CACHE_SEVERAL)


cdef inline bint cache_is_of(const WriteCache *cache, uint32_t place, uint32_t writer) noexcept nogil:
    """Has somebody written the unit at this place? 0: whoever it was."""
    return writer == 0 or cache.place[place].writer == writer or cache.place[place].writer == CACHE_SEVERAL


cdef inline uint32_t cache_held_of(const WriteCache *cache, uint32_t writer) noexcept nogil:
    return cache.written_by[writer] + cache.written_by[CACHE_SEVERAL] if writer else cache.held


cdef inline uint64_t cache_oldest_order(const WriteCache *cache, uint32_t writer) noexcept nogil:
    """Of the units that somebody has written (0: whoever it was); 0: there is none."""
    cdef uint32_t at = cache.oldest if cache_held_of(cache, writer) else <uint32_t>CACHE_NOWHERE
    while at != CACHE_NOWHERE and not cache_is_of(cache, at, writer):
        at = cache.place[at].newer
    return 0 if at == CACHE_NOWHERE else cache.place[at].order


cdef inline void cache_close_gap(WriteCache *cache, uint32_t gap) noexcept nogil:
    """Empty a bucket and move up what only lies further on because it was taken."""
    cdef uint32_t at = gap
    cdef uint32_t home
    while True:
        at = (at + 1) & cache.bucket_mask
        if cache.buckets[at].place == CACHE_NOWHERE:
            break
        home = cache_home(cache, cache.buckets[at].unit)
        if ((at - home) & cache.bucket_mask) >= ((at - gap) & cache.bucket_mask):
            cache.buckets[gap] = cache.buckets[at]
            gap = at
    cache.buckets[gap].place = CACHE_NOWHERE


cdef inline void cache_unlink(WriteCache *cache, uint32_t place) noexcept nogil:
    cdef CachePlace *leaving = &cache.place[place]
    if leaving.older == CACHE_NOWHERE:
        cache.oldest = leaving.newer
    else:
        cache.place[leaving.older].newer = leaving.newer
    if leaving.newer == CACHE_NOWHERE:
        cache.newest = leaving.older
    else:
        cache.place[leaving.newer].older = leaving.older


cdef inline bint cache_drop(WriteCache *cache, uint32_t unit) noexcept nogil:
    """Let a unit go. False: it was not here."""
    cdef uint32_t bucket = cache_bucket(cache, unit)
    cdef uint32_t place = cache.buckets[bucket].place
    if place == CACHE_NOWHERE:
        return False
    cache_close_gap(cache, bucket)
    cache_unlink(cache, place)
    cache.written_by[cache.place[place].writer] -= 1
    cache.place[place].newer = cache.vacant
    cache.vacant = place
    cache.held -= 1
    return True


cdef inline void cache_drop_range(WriteCache *cache, uint32_t first, uint32_t count) noexcept nogil:
    """Let all units of a range go, in the time that the smaller of range and cache takes."""
    cdef uint32_t at = cache.oldest
    cdef uint32_t newer
    cdef uint32_t i
    if count < cache.held:
        for i in range(count):
            cache_drop(cache, first + i)
        return
    while at != CACHE_NOWHERE:
        newer = cache.place[at].newer
        if cache.place[at].unit - first < count:
            cache_drop(cache, cache.place[at].unit)
        at = newer


cdef inline uint32_t cache_oldest(const WriteCache *cache, uint32_t limit, uint32_t *units, char **data) noexcept nogil:
    """Up to `limit` units that came first; returns how many. They stay until they are dropped."""
    cdef uint32_t at = cache.oldest
    cdef uint32_t count = 0
    while count < limit and at != CACHE_NOWHERE:
        units[count], data[count] = cache.place[at].unit, cache_data(cache, at)
        count += 1
        at = cache.place[at].newer
    return count


cdef inline void cache_wipe_vacant(WriteCache *cache) noexcept nogil:
    """Overwrite what is left in memory of units that were written out or dropped."""
    cdef uint32_t at = cache.vacant
    while at != CACHE_NOWHERE:
        memset(cache_data(cache, at), 0, cache.unit_bytes)
        at = cache.place[at].newer
