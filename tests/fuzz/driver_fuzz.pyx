# cython: language_level=3
"""A hostile driver at full speed: random chains in a ring that a real reactor serves, rewritten while it reads them.

The reactor (built with the sanitizers) is the one under test; this only writes guest memory and kicks.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t

from virtflash.engine.atomics cimport load_acquire_u16, store_release_u16
from virtflash.engine.system cimport monotonic_ns, write

cdef enum:
    PATIENCE_NS = 5000000
    RING_BYTES = 16384  # at the start of memory; buffers seldom lie over it, or every ring would die at once

cdef struct Attack:
    char *memory  # all of guest memory, one file
    uint64_t size  # bytes
    uint64_t base  # its first guest address
    char *descriptors
    char *available
    char *used
    uint16_t entries
    int kick
    uint64_t random


cdef uint64_t below(Attack *attack, uint64_t limit) noexcept nogil:
    cdef uint64_t x = attack.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    attack.random = x
    return x % limit


cdef void put_descriptor(
    Attack *attack, uint32_t entry, uint64_t address, uint32_t length, uint16_t flags
) noexcept nogil:
    cdef uint16_t following = <uint16_t>((entry + 1) % attack.entries)
    cdef char *at = attack.descriptors + 16 * (entry % attack.entries)
    (<uint64_t *>at)[0] = address
    (<uint32_t *>(at + 8))[0] = length
    (<uint16_t *>(at + 12))[0] = flags
    (<uint16_t *>(at + 14))[0] = following if below(attack, 5000) else <uint16_t>below(attack, 70000)


cdef uint64_t somewhere(Attack *attack) noexcept nogil:
    if below(attack, 2000) == 0:
        return attack.base + below(attack, 4 * attack.size)
    return attack.base + RING_BYTES + below(attack, attack.size - RING_BYTES)


cdef void put_chain(Attack *attack, uint32_t entry) noexcept nogil:
    """A request whose parts are mostly plausible: header, a data buffer, a status."""
    cdef uint64_t header = RING_BYTES + 16 * below(attack, (attack.size - RING_BYTES) // 16)
    cdef uint16_t direction = 2 * <uint16_t>below(attack, 2)
    cdef uint16_t odd = <uint16_t>below(attack, 8) if below(attack, 2000) == 0 else 0
    (<uint32_t *>(attack.memory + header))[0] = <uint32_t>below(attack, 15 if below(attack, 3) == 0 else 2)
    (<uint64_t *>(attack.memory + header + 8))[0] = below(attack, 2100)
    put_descriptor(attack, entry, attack.base + header, 16, 1 ^ odd)
    put_descriptor(attack, entry + 1, somewhere(attack), 512 * <uint32_t>below(attack, 40), 1 | direction)
    put_descriptor(attack, entry + 2, somewhere(attack), 1, 2)


cdef void scribble(Attack *attack) noexcept nogil:
    cdef uint64_t *words = <uint64_t *>(attack.memory + RING_BYTES)
    cdef uint32_t _i
    for _i in range(below(attack, 8)):
        words[below(attack, (attack.size - RING_BYTES) // 8)] = below(attack, ~<uint64_t>0)


cdef bint wait_for_room(Attack *attack, uint16_t index) noexcept nogil:
    """Until most of the ring is used again; False: the queue no longer moves, it was broken by what we did."""
    cdef uint64_t until_ns = 0
    while <uint16_t>(index - load_acquire_u16(attack.used + 2)) > attack.entries // 8:
        if until_ns == 0:
            until_ns = monotonic_ns() + PATIENCE_NS
        elif monotonic_ns() > until_ns:
            return False
    return True


cdef uint64_t play(Attack *attack, uint64_t until_ns) noexcept nogil:
    cdef uint64_t one = 1
    cdef uint64_t made = 0
    cdef uint16_t index = load_acquire_u16(attack.available + 2)
    cdef uint32_t head
    cdef uint32_t _i
    while monotonic_ns() < until_ns:
        for _i in range(1 + below(attack, 8)):
            head = 3 * (<uint32_t>made % (attack.entries // 3))
            put_chain(attack, head)
            if below(attack, 20000) == 0:
                head = <uint32_t>below(attack, 70000)  # any head: beyond the ring, or in flight already
            (<uint16_t *>(attack.available + 4))[index % attack.entries] = <uint16_t>head
            index += 1
            made += 1
        store_release_u16(attack.available + 2, index if below(attack, 50000) else <uint16_t>below(attack, 65536))
        write(attack.kick, &one, sizeof(one))
        if below(attack, 50) == 0:
            scribble(attack)
        if not wait_for_room(attack, index):
            break
    return made


def attack(
    uintptr_t memory, uint64_t size, uint64_t base, uint64_t descriptors, uint64_t available, uint64_t used,
    uint16_t entries, int kick, uint64_t seed, uint64_t milliseconds,
):
    """Play for a while; offsets of the ring's parts are from the start of memory. Returns the heads made available."""
    cdef Attack it
    cdef uint64_t made
    it.memory, it.size, it.base = <char *>memory, size, base
    it.descriptors, it.available, it.used = it.memory + descriptors, it.memory + available, it.memory + used
    it.entries, it.kick = entries, kick
    it.random = seed * 2654435761 + 88172645463325252
    with nogil:
        made = play(&it, monotonic_ns() + milliseconds * 1000000)
    return made
