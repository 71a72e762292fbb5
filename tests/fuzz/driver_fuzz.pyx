# cython: language_level=3
"""A hostile driver at full speed: random chains in a ring that a real reactor serves, rewritten while it reads them.

The reactor (built with the sanitizers) is the one under test; this only writes guest memory and kicks. Most of what it
does makes sense, so that the reactor gets past the first check; each rule is broken now and then. Guest memory may be
truncated meanwhile: this side of it is guarded as the reactor's is.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

from virtflash.engine.atomics cimport load_acquire_u16, load_relaxed_u32, store_release_u16, store_release_u32
from virtflash.engine.sigbus_guard cimport guard_add, guard_remove
from virtflash.engine.system cimport monotonic_ns, write

cdef enum:
    PATIENCE_NS = 3000000  # until what does not come back is taken as lost
    PLACES = 8
    PIECES = 8
    NEXT = 1
    WRITE = 2
    INDIRECT = 4

# A region of guest memory, and where it lies in its file.
cdef struct Place:
    uint64_t guest
    uint64_t size
    uint64_t offset

cdef struct Piece:
    uint64_t address
    uint32_t length
    uint16_t flags

cdef struct Attack:
    char *memory  # the file
    uint64_t size  # bytes
    uint64_t payload  # offset of what lies behind the ring and the indirect tables
    uint64_t tables  # offset of the indirect tables, one of PIECES descriptors for each head
    Place places[PLACES]
    uint32_t place_count
    char *descriptors
    char *available
    char *used
    uint32_t entries
    uint32_t stride  # descriptors between two heads
    uint64_t sectors
    bint indirect
    int kick
    uint64_t random
    uint16_t index
    uint16_t lost  # heads that will not come back
    uint64_t made
    uint32_t wrong  # one in so many things is wrong
    uint32_t stop


cdef uint64_t below(Attack *attack, uint64_t limit) noexcept nogil:
    cdef uint64_t x = attack.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    attack.random = x
    return x % limit


cdef bint goes_wrong(Attack *attack) noexcept nogil:
    return below(attack, attack.wrong) == 0


cdef uint64_t guest_address(Attack *attack, uint64_t offset) noexcept nogil:
    """Of a place in the file; of a hole, what would be there."""
    cdef uint32_t i
    for i in range(attack.place_count):
        if offset - attack.places[i].offset < attack.places[i].size:
            return attack.places[i].guest + offset - attack.places[i].offset
    return attack.places[0].guest + attack.size


cdef uint64_t somewhere(Attack *attack) noexcept nogil:
    """An address for data: often across the border of two regions."""
    cdef Place *place
    if goes_wrong(attack):
        return below(attack, ~<uint64_t>0)
    if below(attack, 6) == 0:
        place = &attack.places[below(attack, attack.place_count)]
        return place.guest + place.size - below(attack, 1024)
    return guest_address(attack, attack.payload + below(attack, attack.size - attack.payload))


cdef uint64_t room_for(Attack *attack, uint32_t length) noexcept nogil:
    """Offset of so many bytes in the payload, at any alignment."""
    return attack.payload + below(attack, attack.size - attack.payload - length)


cdef void put(char *at, uint64_t value, size_t size) noexcept nogil:
    """A little-endian number at any alignment."""
    memcpy(at, &value, size)


cdef uint32_t any_type(Attack *attack) noexcept nogil:
    cdef uint32_t[8] types = [0, 1, 0, 1, 4, 8, 11, 13]
    return <uint32_t>below(attack, 30) if below(attack, 8) == 0 else types[below(attack, 8)]


cdef uint64_t put_header(Attack *attack, uint32_t kind) noexcept nogil:
    """Write a header; its guest address."""
    cdef uint64_t at = room_for(attack, 16)
    put(attack.memory + at, kind, 4)
    put(attack.memory + at + 8, below(attack, ~<uint64_t>0 if goes_wrong(attack) else attack.sectors), 8)
    return guest_address(attack, at)


cdef uint64_t put_ranges(Attack *attack, uint32_t count) noexcept nogil:
    cdef uint64_t at = room_for(attack, 16 * count)
    cdef uint32_t i
    for i in range(count):
        put(attack.memory + at + 16 * i, below(attack, attack.sectors), 8)
        put(attack.memory + at + 16 * i + 8, below(attack, 64), 4)
        put(attack.memory + at + 16 * i + 12, below(attack, 9) // 8, 4)
    return guest_address(attack, at)


cdef uint32_t add_piece(
    Attack *attack, Piece *pieces, uint32_t count, uint64_t address, uint32_t length, uint16_t flags
) noexcept nogil:
    """Append a buffer, sometimes in two descriptors; returns how many there are now."""
    cdef uint32_t cut = <uint32_t>below(attack, length + 1) if below(attack, 4) == 0 else 0
    if cut and count + 1 < PIECES:
        pieces[count] = Piece(address, cut, flags)
        count += 1
        address += cut
        length -= cut
    if count < PIECES:
        pieces[count] = Piece(address, length, flags ^ (WRITE if goes_wrong(attack) else 0))
        count += 1
    return count


cdef uint32_t make_request(Attack *attack, Piece *pieces) noexcept nogil:
    """Header, data, status, all of it more or less as it should be; returns the number of pieces."""
    cdef uint32_t kind = any_type(attack)
    cdef uint32_t count = add_piece(attack, pieces, 0, put_header(attack, kind), 16, 0)
    cdef uint32_t ranges = 1 + <uint32_t>below(attack, 4)
    cdef uint32_t length = 512 * <uint32_t>below(attack, 20)
    if below(attack, 40) == 0:
        length = 65536 * <uint32_t>below(attack, 8)
    if goes_wrong(attack):
        length = <uint32_t>below(attack, 1 << 32)
    if kind == 11 or kind == 13 or kind == 14:
        count = add_piece(attack, pieces, count, put_ranges(attack, ranges), 16 * ranges, 0)
    elif kind == 1:
        count = add_piece(attack, pieces, count, somewhere(attack), length, 0)
    else:
        count = add_piece(attack, pieces, count, somewhere(attack), length, WRITE)
    return add_piece(attack, pieces, count, somewhere(attack), 1, WRITE)


cdef void put_descriptor(char *at, const Piece *piece, uint16_t flags, uint16_t following) noexcept nogil:
    (<uint64_t *>at)[0] = piece.address
    (<uint32_t *>(at + 8))[0] = piece.length
    (<uint16_t *>(at + 12))[0] = piece.flags | flags
    (<uint16_t *>(at + 14))[0] = following


cdef void put_table(Attack *attack, char *table, const Piece *pieces, uint32_t first, uint32_t count) noexcept nogil:
    """Linked descriptors from `first` on; the table is the ring's or an indirect one."""
    cdef uint32_t i
    cdef uint16_t following
    for i in range(count):
        following = <uint16_t>(first + i + 1)
        if goes_wrong(attack):
            following = <uint16_t>below(attack, 70000)
        put_descriptor(table + 16 * (first + i), &pieces[i], 0 if i + 1 == count else NEXT, following)


cdef void put_chain(Attack *attack, uint32_t head) noexcept nogil:
    cdef Piece pieces[PIECES]
    cdef Piece outer
    cdef uint32_t count = make_request(attack, pieces)
    cdef uint64_t table = attack.tables + 16 * PIECES * head
    if attack.stride >= PIECES and (not attack.indirect or below(attack, 2)):
        put_table(attack, attack.descriptors, pieces, head, count)
        return
    put_table(attack, attack.memory + table, pieces, 0, count)
    outer = Piece(guest_address(attack, table), 16 * count, INDIRECT | (2 * <uint16_t>below(attack, 2)))
    if goes_wrong(attack):
        outer.length += 1 + <uint32_t>below(attack, 40)
    put_descriptor(attack.descriptors + 16 * head, &outer, NEXT if goes_wrong(attack) else 0, 0)


cdef void scribble(Attack *attack) noexcept nogil:
    """Change anything but the indices, while it is looked at."""
    cdef uint64_t at
    cdef uint32_t _i
    for _i in range(below(attack, 8)):
        at = attack.tables if below(attack, 4) == 0 else attack.payload
        put(attack.memory + at + below(attack, attack.size - at - 8), below(attack, ~<uint64_t>0), 8)
    if goes_wrong(attack):
        (<uint64_t *>attack.descriptors)[below(attack, 2 * attack.entries)] = below(attack, ~<uint64_t>0)


cdef bint wait_for_room(Attack *attack) noexcept nogil:
    """Until most heads came back. Those of a queue that broke never do: then they are forgotten. False: it is over."""
    cdef uint64_t until_ns = 0
    cdef uint16_t allowed = <uint16_t>(attack.entries // attack.stride // 2)
    while <uint16_t>(attack.index - load_acquire_u16(attack.used + 2) - attack.lost) > allowed:
        if load_relaxed_u32(&attack.stop):
            return False
        if until_ns == 0:
            until_ns = monotonic_ns() + PATIENCE_NS
        elif monotonic_ns() > until_ns:
            attack.lost = attack.index - load_acquire_u16(attack.used + 2)
    return True


cdef void offer(Attack *attack) noexcept nogil:
    cdef uint32_t head = attack.stride * <uint32_t>(attack.made % (attack.entries // attack.stride))
    put_chain(attack, head)
    if goes_wrong(attack):
        head = <uint32_t>below(attack, 70000)  # any head: beyond the ring, or in flight already
    (<uint16_t *>(attack.available + 4))[attack.index % attack.entries] = <uint16_t>head
    attack.index += 1
    attack.made += 1


cdef void play(Attack *attack) noexcept nogil:
    cdef uint64_t one = 1
    cdef uint32_t _i
    while not load_relaxed_u32(&attack.stop) and wait_for_room(attack):
        for _i in range(1 + below(attack, attack.entries // attack.stride // 4 + 1)):
            offer(attack)
        if below(attack, 200 * <uint64_t>attack.wrong) == 0:
            attack.index += <uint16_t>below(attack, 65536)
        (<uint16_t *>attack.available)[0] = <uint16_t>below(attack, 2)
        (<uint16_t *>(attack.available + 4))[attack.entries] = attack.index - <uint16_t>below(attack, 4)
        store_release_u16(attack.available + 2, attack.index)
        if below(attack, 3):
            write(attack.kick, &one, sizeof(one))
        if below(attack, 20) == 0:
            scribble(attack)


cdef class Driver:
    """`places`: (guest address, bytes, offset in the file) of each region. The ring's parts are offsets in the file."""

    cdef Attack it
    cdef int guard
    cdef uint32_t lost_mark

    def __cinit__(
        self,
        uintptr_t memory,
        uint64_t size,
        places,
        uint64_t descriptors,
        uint64_t available,
        uint64_t used,
        uint64_t tables,
        uint64_t payload,
        *,
        uint32_t entries,
        uint64_t sectors,
        bint indirect,
        uint16_t base,
        int kick,
        uint64_t seed,
        uint32_t wrong,
    ):
        cdef Attack *it = &self.it
        it.memory, it.size, it.tables, it.payload = <char *>memory, size, tables, payload
        it.descriptors, it.available, it.used = it.memory + descriptors, it.memory + available, it.memory + used
        it.entries, it.sectors, it.indirect, it.kick, it.index = entries, sectors, indirect, kick, base
        it.stride = PIECES if entries >= 2 * PIECES else 1
        it.random = seed * 2654435761 + 88172645463325252
        it.wrong = wrong
        it.place_count = len(places)
        for i, (guest, length, offset) in enumerate(places):
            it.places[<int>i] = Place(guest, length, offset)
        self.guard = guard_add(it.memory, size, 4096, &self.lost_mark)

    def play(self):
        """Until `end`, from any thread. Returns the heads made available."""
        with nogil:
            play(&self.it)
        return self.it.made

    def end(self):
        store_release_u32(&self.it.stop, 1)

    @property
    def index(self):
        """Where the next start of the queue should begin."""
        return load_acquire_u16(self.it.available + 2)

    def __dealloc__(self):
        if self.guard >= 0:
            guard_remove(self.guard)
