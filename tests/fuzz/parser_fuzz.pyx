# cython: language_level=3
"""The compiled parser against random rings and memory tables: walks, translation and request checks, without I/O.

Guest memory is a few small regions of any size, each between pages that cannot be accessed, so one byte too far is a
fault; where they lie for the guest changes every few rings. A second thread rewrites all of it meanwhile: whatever was
checked must have been copied. After each parse the result is held against what the specification allows, and every byte
of it is touched.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect, munmap
from posix.uio cimport iovec

from virtflash.engine.atomics cimport load_relaxed_u32, store_release_u32
from virtflash.engine.block_request cimport PENDING, parse_request
from virtflash.engine.memory_table cimport ring_part
from virtflash.engine.split_chain cimport walk_chain
from virtflash.engine.state cimport (
    IOV_LIMIT,
    OP_COUNT,
    OP_DISCARD,
    OP_READ,
    OP_SECURE_ERASE,
    OP_WRITE,
    OP_WRITE_ZEROES,
    SEGMENT_LIMIT,
    BindingState,
    Chain,
    QueueState,
    Region,
    Slot,
    Table,
    TableUse,
)
from virtflash.engine.system cimport pthread_join, pthread_t, start_thread
from virtflash.engine.virtio cimport DESCRIPTOR_BYTES, SECTOR_BYTES

cdef enum:
    PAGE = 4096
    REGIONS = 6
    REGION_PAGES = 4
    RING_SIZE_MAX = 256

cdef struct World:
    char *memory[REGIONS]  # of REGION_PAGES pages each, between guard pages
    Region regions[REGIONS]
    Region *headers  # the region that is full of plausible headers
    Table table
    TableUse use
    BindingState binding
    QueueState queue
    Chain chain
    iovec scratch[IOV_LIMIT + 2]
    Slot slots[RING_SIZE_MAX]
    uint32_t not_lost
    uint32_t stop
    uint64_t random
    uint64_t parses
    uint64_t accepted
    uint64_t refused
    const char *violation


cdef uint64_t next_random(uint64_t *state) noexcept nogil:
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x


cdef uint64_t below(World *world, uint64_t limit) noexcept nogil:
    return next_random(&world.random) % limit


cdef bint make_memory(World *world) except False:
    cdef char *memory
    cdef uint32_t i
    for i in range(REGIONS):
        memory = <char *>mmap(NULL, (REGION_PAGES + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>memory == MAP_FAILED:
            raise MemoryError
        mprotect(memory + PAGE, REGION_PAGES * PAGE, PROT_READ | PROT_WRITE)
        world.memory[i] = memory + PAGE
    world.table.regions = world.regions
    world.use.table = &world.table
    return True


cdef void make_table(World *world) noexcept nogil:
    """One to all of the regions, of any size, up to the guard page behind them; for the guest they touch, or do not,
    and now and then the last one ends at the top of all memory."""
    cdef uint64_t[4] gaps = [0, 0, 1, 0x10000]
    cdef uint64_t guest = next_random(&world.random) >> (1 + below(world, 60))
    cdef Region *region
    cdef uint32_t i
    world.table.count = 1 + <uint32_t>below(world, REGIONS)
    world.use.hint = <uint32_t>below(world, REGIONS + 2)  # of the table before, which may have been longer
    for i in range(world.table.count):
        region = &world.regions[i]
        region.size = REGION_PAGES * PAGE - 16 * below(world, 600) if below(world, 4) else 64 + below(world, 9000)
        region.host = world.memory[i] + REGION_PAGES * PAGE - region.size
        region.lost = &world.not_lost
        if i + 1 == world.table.count and below(world, 4) == 0:
            guest = ~<uint64_t>0 - region.size
        region.guest = guest
        region.user = guest ^ (<uint64_t>1 << 62)
        guest += region.size + gaps[below(world, 4)]


cdef Region *any_region(World *world) noexcept nogil:
    return &world.regions[below(world, world.table.count)]


cdef uint64_t random_address(World *world) noexcept nogil:
    """Mostly guest memory, often close to a border, sometimes anything at all."""
    cdef Region *region = any_region(world)
    cdef uint64_t kind = below(world, 16)
    if kind < 10:
        return region.guest + below(world, region.size)
    if kind < 14:
        return region.guest + region.size - below(world, 600)
    if kind < 15:
        return region.guest - below(world, 600)
    return next_random(&world.random)


cdef uint32_t random_length(World *world) noexcept nogil:
    cdef uint64_t kind = below(world, 16)
    if kind < 4:
        return 16
    if kind < 8:
        return 512 * <uint32_t>below(world, 9)
    if kind < 11:
        return 1
    if kind < 14:
        return <uint32_t>below(world, 700)
    return 0 if kind < 15 else <uint32_t>next_random(&world.random)


cdef void write_descriptor(World *world, char *at, uint32_t entries) noexcept nogil:
    cdef uint16_t flags = <uint16_t>below(world, 4)
    if below(world, 12) == 0:
        flags |= 4
    (<uint64_t *>at)[0] = random_address(world)
    (<uint32_t *>(at + 8))[0] = random_length(world)
    (<uint16_t *>(at + 12))[0] = flags if below(world, 64) else <uint16_t>next_random(&world.random)
    (<uint16_t *>(at + 14))[0] = <uint16_t>below(world, entries + 1)


cdef void write_header(World *world, char *at) noexcept nogil:
    cdef uint32_t kind = <uint32_t>(below(world, 17) if below(world, 2) else below(world, 2))
    cdef uint64_t sector = below(world, 4096) if below(world, 4) else next_random(&world.random)
    memcpy(at, &kind, sizeof(kind))
    memcpy(at + 8, &sector, sizeof(sector))


cdef void scatter_headers(World *world) noexcept nogil:
    """Plausible headers and ranges where descriptors may point, so that parsing gets past the first check."""
    cdef uint64_t i
    world.headers = any_region(world)
    for i in range(world.headers.size // 16):
        write_header(world, world.headers.host + 16 * i)


cdef void set_descriptor(
    char *at, uint64_t address, uint32_t length, uint16_t flags, uint16_t following
) noexcept nogil:
    (<uint64_t *>at)[0] = address
    (<uint32_t *>(at + 8))[0] = length
    (<uint16_t *>(at + 12))[0] = flags
    (<uint16_t *>(at + 14))[0] = following


cdef void write_plausible_chain(World *world, char *table, uint32_t first) noexcept nogil:
    """Header, one data buffer in either direction, status: most of it right, so that requests are accepted."""
    cdef Region *region = world.headers
    cdef uint16_t direction = 2 if below(world, 2) else 0
    cdef uint32_t length = 512 * <uint32_t>below(world, 20)
    if below(world, 3) == 0:
        length = 16 * (1 + <uint32_t>below(world, 4))
    set_descriptor(table + 16 * first, region.guest + 16 * below(world, region.size // 16), 16, 1, first + 1)
    set_descriptor(table + 16 * (first + 1), random_address(world), length, 1 | direction, first + 2)
    set_descriptor(table + 16 * (first + 2), random_address(world), 1, 2, 0)


cdef void make_ring(World *world) noexcept nogil:
    """As large a ring as the region takes, or a smaller one, at its end."""
    cdef Region *region = any_region(world)
    cdef uint32_t size = 1 << below(world, 9)
    cdef uint64_t bytes
    cdef uint32_t i
    while size * DESCRIPTOR_BYTES + 15 > region.size:
        size //= 2
    bytes = size * DESCRIPTOR_BYTES
    world.queue.ring.size = size
    world.queue.ring.descriptors = <char *>((<uintptr_t>region.host + region.size - bytes) & ~<uintptr_t>15)
    for i in range(size):
        write_descriptor(world, world.queue.ring.descriptors + DESCRIPTOR_BYTES * i, size)
    for i in range(0, size - size % 3, 3):
        if below(world, 2):
            write_plausible_chain(world, world.queue.ring.descriptors, i)


cdef void make_binding(World *world) noexcept nogil:
    cdef BindingState *binding = &world.binding
    cdef uint32_t i
    binding.capacity = below(world, 5000) if below(world, 8) else next_random(&world.random) >> 10
    binding.operations = <uint32_t>next_random(&world.random)
    binding.indirect = below(world, 4) != 0
    binding.read_only = below(world, 8) == 0
    binding.max_segments = 1 + <uint32_t>below(world, SEGMENT_LIMIT)
    binding.secure_erase_alignment = 1 + <uint32_t>below(world, 9)
    for i in range(OP_COUNT):
        binding.max_sectors[i] = <uint32_t>below(world, 5000)


cdef bint inside_guest(World *world, const void *start, uint64_t length) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t offset
    for i in range(world.table.count):
        offset = <uint64_t><uintptr_t>start - <uint64_t><uintptr_t>world.regions[i].host
        if offset < world.regions[i].size and length <= world.regions[i].size - offset:
            return True
    return False


cdef uint64_t check_buffers(World *world, Slot *slot) noexcept nogil:
    """Every piece lies inside guest memory; touch it. Returns the bytes of all."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(slot.iov_count):
        if not inside_guest(world, slot.iov[i].iov_base, slot.iov[i].iov_len):
            world.violation = b"a buffer outside guest memory"
            return 0
        if slot.operation == OP_READ:
            memset(slot.iov[i].iov_base, 0x5a, slot.iov[i].iov_len)
        total += slot.iov[i].iov_len
    return total


cdef bint range_fits(const BindingState *binding, uint64_t sector, uint64_t sectors) noexcept nogil:
    return sectors <= binding.capacity and sector <= binding.capacity - sectors


cdef void check_pending(World *world, Slot *slot) noexcept nogil:
    """What was accepted for I/O must be inside the volume and inside guest memory."""
    cdef uint64_t total = check_buffers(world, slot)
    cdef uint32_t i
    if world.violation != NULL:
        return
    if slot.operation == OP_READ or slot.operation == OP_WRITE:
        if total != slot.length or slot.length % SECTOR_BYTES or slot.length == 0:
            world.violation = b"a transfer whose buffers are not its length"
        if not range_fits(&world.binding, slot.offset // SECTOR_BYTES, slot.length // SECTOR_BYTES):
            world.violation = b"a transfer beyond the volume"
        if slot.operation == OP_WRITE and world.binding.read_only:
            world.violation = b"a write to a read-only volume"
    elif slot.operation == OP_DISCARD or slot.operation == OP_WRITE_ZEROES or slot.operation == OP_SECURE_ERASE:
        if slot.segment_count == 0 or slot.segment_count > world.binding.max_segments:
            world.violation = b"more ranges than are allowed"
        for i in range(slot.segment_count):
            if not range_fits(&world.binding, slot.segments[i].sector, slot.segments[i].count):
                world.violation = b"a range beyond the volume"


cdef void parse_head(World *world, uint16_t head) noexcept nogil:
    cdef Slot *slot = &world.slots[head]
    cdef uint32_t status = 0
    cdef int fault
    slot.head = head
    slot.queue = &world.queue
    world.chain.iov = world.scratch
    world.parses += 1
    fault = walk_chain(&world.queue.ring, &world.use, head, world.binding.indirect, &world.chain)
    if not fault:
        status = parse_request(&world.queue, slot, &world.chain, &fault)
    if fault:
        world.refused += 1
        return
    if not inside_guest(world, slot.status, 1):
        world.violation = b"a status outside guest memory"
        return
    slot.status[0] = <uint8_t>status
    if status == PENDING:
        world.accepted += 1
        check_pending(world, slot)


cdef void *rewrite(void *argument) noexcept nogil:
    """The other vCPU: changes descriptors and headers while they are parsed."""
    cdef World *world = <World *>argument
    cdef uint64_t random = 88172645463325252
    cdef uint64_t *memory
    while not load_relaxed_u32(&world.stop):
        memory = <uint64_t *>world.memory[next_random(&random) % REGIONS]
        memory[next_random(&random) % (REGION_PAGES * PAGE // 8)] = next_random(&random)
    return NULL


cdef void look_for_ring_parts(World *world) noexcept nogil:
    """By front-end addresses in and around a region: what is found lies wholly in it."""
    cdef Region *region = any_region(world)
    cdef uint64_t length = below(world, 2 * region.size) if below(world, 8) else next_random(&world.random)
    cdef char *part
    part = ring_part(&world.table, region.user + below(world, 2 * region.size) - region.size // 2, length)
    if part != NULL and not inside_guest(world, part, length):
        world.violation = b"a part of a ring outside guest memory"


cdef void play(World *world, uint32_t rounds) noexcept nogil:
    cdef uint32_t _round
    cdef uint32_t head
    for _round in range(rounds):
        if _round % 4 == 0:
            make_table(world)
        look_for_ring_parts(world)
        make_binding(world)
        scatter_headers(world)
        make_ring(world)
        for head in range(world.queue.ring.size):
            parse_head(world, head)
            if world.violation != NULL:
                return


def run(uint64_t seed, uint32_t rounds):
    """Play `rounds` random rings. Returns (parses, accepted, refused). AssertionError: a promise was broken."""
    cdef World *world = <World *>calloc(1, sizeof(World))
    cdef pthread_t rewriter
    cdef uint32_t i
    if world == NULL:
        raise MemoryError
    world.random = seed * 2654435761 + 88172645463325252
    world.queue.binding = &world.binding
    world.queue.use = &world.use
    world.queue.slots = world.slots
    world.queue.iov_pool = <iovec *>calloc(RING_SIZE_MAX * IOV_LIMIT, sizeof(iovec))
    make_memory(world)
    make_table(world)
    start_thread(&rewriter, rewrite, world)
    with nogil:
        play(world, rounds)
        store_release_u32(&world.stop, 1)
        pthread_join(rewriter, NULL)
    result = (world.parses, world.accepted, world.refused)
    violation = None if world.violation == NULL else world.violation.decode()
    for i in range(REGIONS):
        munmap(world.memory[i] - PAGE, (REGION_PAGES + 2) * PAGE)
    free(world.queue.iov_pool)
    free(world)
    assert violation is None, f"seed {seed}: {violation}"
    return result
