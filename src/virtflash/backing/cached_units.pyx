"""The write cache by itself, for tests and measurements; served from `flash_target`."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy
from libc.time cimport clock, clock_t

from virtflash.backing.write_cache cimport (
    WriteCache,
    cache_add,
    cache_drop,
    cache_drop_range,
    cache_empty,
    cache_find,
    cache_free,
    cache_is_full,
    cache_make,
    cache_oldest,
    cache_wipe_vacant,
)

cdef extern from "<time.h>" nogil:
    clock_t CLOCKS_PER_SEC

cdef enum:
    LIMIT = 64  # of units taken out at once


cdef class CachedUnits:
    """See cached_units.pyi."""

    cdef WriteCache cache

    def __init__(self, uint32_t unit_bytes, uint32_t places):
        cache_free(&self.cache)
        if not cache_make(&self.cache, unit_bytes, places):
            raise MemoryError

    def __dealloc__(self):
        cache_free(&self.cache)

    def __len__(self):
        return self.cache.held

    @property
    def full(self):
        return bool(cache_is_full(&self.cache))

    def find(self, uint32_t unit):
        cdef char *data = cache_find(&self.cache, unit)
        return None if data == NULL else <bytes>data[: self.cache.unit_bytes]

    def put(self, uint32_t unit, bytes content not None):
        cdef char *data = cache_find(&self.cache, unit)
        if len(content) != self.cache.unit_bytes or (data == NULL and cache_is_full(&self.cache)):
            raise ValueError("no room, or not the bytes of a unit")
        if data == NULL:
            data = cache_add(&self.cache, unit, 0)
        memcpy(data, <const char *>content, self.cache.unit_bytes)

    def drop(self, uint32_t unit):
        return bool(cache_drop(&self.cache, unit))

    def drop_range(self, uint32_t first, uint32_t count):
        cache_drop_range(&self.cache, first, count)

    def empty(self):
        cache_empty(&self.cache)

    def wipe_vacant(self):
        cache_wipe_vacant(&self.cache)

    def oldest(self, uint32_t limit):
        cdef uint32_t units[LIMIT]
        cdef char *data[LIMIT]
        cdef uint32_t count = cache_oldest(&self.cache, min(limit, LIMIT), units, data)
        return [(units[i], <bytes>data[i][: self.cache.unit_bytes]) for i in range(count)]

    def memory(self):
        return <bytes>self.cache.data[: <uint64_t>self.cache.places * self.cache.unit_bytes]

    def lookup_ns(self, uint64_t times, uint32_t units):
        """Mean time of a lookup of pseudo-random units below `units`, in nanoseconds of processor time."""
        cdef uint64_t found = 0
        cdef uint32_t unit = 1
        cdef clock_t start = clock()
        for _ in range(times):
            unit = unit * <uint32_t>1664525 + <uint32_t>1013904223
            found += cache_find(&self.cache, (<uint64_t>unit * units) >> 32) != NULL
        return 1e9 * (clock() - start) / CLOCKS_PER_SEC / times, found
