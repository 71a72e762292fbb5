"""The orderings of `atomics.h`, for Cython."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef extern from "atomics.h" nogil:
    uint16_t load_relaxed_u16(const void *p)
    uint16_t load_acquire_u16(const void *p)
    void store_relaxed_u16(void *p, uint16_t value)
    void store_release_u16(void *p, uint16_t value)
    uint32_t load_relaxed_u32(const void *p)
    void store_relaxed_u32(void *p, uint32_t value)
    uint32_t load_acquire_u32(const void *p)
    void store_release_u32(void *p, uint32_t value)
    uint32_t exchange_u32(void *p, uint32_t value)
    uint64_t load_relaxed_u64(const void *p)
    void store_relaxed_u64(void *p, uint64_t value)
    void add_relaxed_u64(void *p, uint64_t value)
    void count_u64(void *p, uint64_t more)
    void count_u32(void *p, uint32_t more)
    void fence_full()
    void copy_once(void *destination, const void *source, size_t size)
    bint event_passed(uint16_t event, uint16_t new_index, uint16_t old)
