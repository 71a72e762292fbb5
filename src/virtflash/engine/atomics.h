/* Every ordering that the two sides of a ring rely on, in one place, as C11 atomics (virtio 1.4 §2.7.13, §2.7.14).
 *
 * The other side is a driver that runs at the same time, on a CPU that may reorder. Three rules cover a split ring:
 *   1. An index is read with acquire before what it announces is read, and written with release after what it
 *      announces was written.
 *   2. Between publishing an index and looking at the other side's event index stands a full barrier; a store and a
 *      later load may otherwise pass each other, on x86 too, and both sides sleep.
 *   3. Whatever else the other side can write is copied once and then only the copy is used.
 *
 * Ring fields are little-endian. The rest of the data plane reads them as they are, so a big-endian host is refused here.
 */
#ifndef VIRTFLASH_ATOMICS_H
#define VIRTFLASH_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "virtflash: this data plane runs on little-endian machines only"
#endif

static inline uint16_t load_relaxed_u16(const void *p)
{
    return atomic_load_explicit((const _Atomic uint16_t *)p, memory_order_relaxed);
}

static inline uint16_t load_acquire_u16(const void *p)
{
    return atomic_load_explicit((const _Atomic uint16_t *)p, memory_order_acquire);
}

static inline void store_relaxed_u16(void *p, uint16_t value)
{
    atomic_store_explicit((_Atomic uint16_t *)p, value, memory_order_relaxed);
}

static inline void store_release_u16(void *p, uint16_t value)
{
    atomic_store_explicit((_Atomic uint16_t *)p, value, memory_order_release);
}

static inline uint32_t load_relaxed_u32(const void *p)
{
    return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_relaxed);
}

static inline void store_relaxed_u32(void *p, uint32_t value)
{
    atomic_store_explicit((_Atomic uint32_t *)p, value, memory_order_relaxed);
}

static inline uint32_t load_acquire_u32(const void *p)
{
    return atomic_load_explicit((const _Atomic uint32_t *)p, memory_order_acquire);
}

static inline void store_release_u32(void *p, uint32_t value)
{
    atomic_store_explicit((_Atomic uint32_t *)p, value, memory_order_release);
}

static inline uint32_t exchange_u32(void *p, uint32_t value)
{
    return atomic_exchange_explicit((_Atomic uint32_t *)p, value, memory_order_acq_rel);
}

static inline uint64_t load_relaxed_u64(const void *p)
{
    return atomic_load_explicit((const _Atomic uint64_t *)p, memory_order_relaxed);
}

static inline void store_relaxed_u64(void *p, uint64_t value)
{
    atomic_store_explicit((_Atomic uint64_t *)p, value, memory_order_relaxed);
}

static inline void add_relaxed_u64(void *p, uint64_t value)
{
    atomic_fetch_add_explicit((_Atomic uint64_t *)p, value, memory_order_relaxed);
}

/* A counter that one thread writes and others read: a plain addition that never tears. */
static inline void count_u64(void *p, uint64_t more)
{
    store_relaxed_u64(p, load_relaxed_u64(p) + more);
}

static inline void count_u32(void *p, uint32_t more)
{
    store_relaxed_u32(p, load_relaxed_u32(p) + more);
}

static inline void fence_full(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}

/* Copy what the other side may be rewriting. After it the compiler may not go back to the source for a second look. */
static inline void copy_once(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Has an event index been passed by moving from `old` to `new_index`? All three wrap at 2^16 (virtio 1.4 §2.7.7.2). */
static inline int event_passed(uint16_t event, uint16_t new_index, uint16_t old)
{
    return (uint16_t)(new_index - event - 1) < (uint16_t)(new_index - old);
}

#endif
