"""The load loop: random requests on one started queue, as many in flight as asked for, without the GIL.

The chains lie ready in guest memory (see `load_queue.py`); for each request only its header, the direction of its data
and the rings are touched. Every request has a slot: its line of 64 bytes (header, then status), its data, its chain.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from virtflash.engine.atomics cimport (
    count_u64,
    event_passed,
    fence_full,
    load_acquire_u16,
    load_relaxed_u16,
    load_relaxed_u32,
    load_relaxed_u64,
    store_relaxed_u16,
    store_release_u16,
    store_release_u32,
)
from virtflash.engine.system cimport POLLIN, cpu_relax, monotonic_ns, poll, pollfd, read, write
from virtflash.engine.virtio cimport (
    AVAIL_F_NO_INTERRUPT,
    BLK_S_OK,
    BLK_T_IN,
    BLK_T_OUT,
    DESC_F_NEXT,
    DESC_F_WRITE,
    REQUEST_HEADER_BYTES,
    RING_HEADER_BYTES,
    SECTOR_BYTES,
    USED_ELEMENT_BYTES,
    USED_F_NO_NOTIFY,
)

from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, QueueStoppedError

cdef extern from *:
    int __builtin_clzll(unsigned long long) nogil

cdef enum:
    SLOT_BYTES = 64
    STATUS_OFFSET = REQUEST_HEADER_BYTES
    INDEX_OFFSET = 2  # of idx, behind le16 flags, in both rings
    SUB_BITS = 5  # 32 buckets to each doubling: a percentile is off by 3 % at most
    FIRST_BIT = 8  # everything below 256 ns is one bucket
    BUCKETS = ((36 - FIRST_BIT) << SUB_BITS) + 1  # up to 69 s
    SLEEP_MS = 200  # between two looks whether there is still a point in waiting

cdef enum Ending:
    DONE
    STALLED
    QUEUE_STOPPED
    HUNG_UP
    USED_JUMP
    USED_STRANGE

cdef struct SlotState:
    uint64_t started_ns
    uint64_t sector
    bint writes
    bint busy

cdef struct State:
    char *descriptor_flags  # of the first slot's data
    char *available
    char *used
    char *slot_lines
    char *data
    uint32_t descriptor_flags_stride
    uint32_t head_stride
    uint32_t depth
    uint32_t block_bytes
    uint16_t size
    uint16_t next_available
    uint16_t published_available
    uint16_t last_used
    uint64_t first_block
    uint64_t blocks
    uint64_t next_sequential
    uint64_t random
    uint32_t write_percent
    bint sequential  # every block once, then the end
    bint verify
    bint event_idx
    int64_t spin_ns  # before sleeping; below 0: never sleep
    uint64_t stall_ns
    int kick_fd
    int call_fd
    int error_fd
    int peer_fd
    uint64_t begin_ns
    uint64_t end_ns
    uint32_t stop  # shared
    uint32_t in_flight
    SlotState *slots
    # shared, written by the loop alone
    uint64_t completed
    uint64_t drained  # after the end, to leave nothing in flight
    uint64_t failed
    uint64_t mismatched
    uint64_t kicks
    uint64_t interrupts
    uint64_t latency[BUCKETS]


cdef inline uint32_t bucket(uint64_t ns) noexcept nogil:
    cdef uint32_t top
    cdef uint32_t found
    if ns < (1 << FIRST_BIT):
        return 0
    top = 63 - __builtin_clzll(ns)
    found = ((top - FIRST_BIT) << SUB_BITS) + ((ns >> (top - SUB_BITS)) & ((1 << SUB_BITS) - 1)) + 1
    return found if found < BUCKETS else BUCKETS - 1


def bucket_bounds() -> list[int]:
    """Nanoseconds: bucket i counts what took less than `bounds[i]` and not less than `bounds[i - 1]`."""
    bounds = [1 << FIRST_BIT]
    for i in range(BUCKETS - 1):
        bounds.append(bounds[i] + (1 << (FIRST_BIT + (i >> SUB_BITS) - SUB_BITS)))
    return bounds


cdef inline uint64_t next_random(State *state) noexcept nogil:
    """xorshift64* (Marsaglia, Vigna)."""
    state.random ^= state.random >> 12
    state.random ^= state.random << 25
    state.random ^= state.random >> 27
    return state.random * <uint64_t>0x2545F4914F6CDD1D


# What a sector holds where the run verifies: its own number, so that a sector from elsewhere is found out.

cdef inline void stamp(State *state, SlotState *slot, char *data) noexcept nogil:
    cdef uint32_t i
    for i in range(state.block_bytes // SECTOR_BYTES):
        (<uint64_t *>(data + i * SECTOR_BYTES))[0] = slot.sector + i


cdef inline bint stamped(State *state, SlotState *slot, char *data) noexcept nogil:
    cdef uint32_t i
    for i in range(state.block_bytes // SECTOR_BYTES):
        if (<uint64_t *>(data + i * SECTOR_BYTES))[0] != slot.sector + i:
            return False
    return True


# The driver's side of the ring (virtio 1.4 §2.7.13, §2.7.14)

cdef inline void prepare(State *state, uint32_t index) noexcept nogil:
    """Choose the slot's next request and write its header."""
    cdef SlotState *slot = &state.slots[index]
    cdef uint32_t *header = <uint32_t *>(state.slot_lines + index * SLOT_BYTES)
    cdef char *data = state.data + <uint64_t>index * state.block_bytes
    cdef uint64_t block
    if state.sequential:
        block = state.next_sequential
        state.next_sequential += 1
    else:
        block = next_random(state) % state.blocks
    slot.sector = (state.first_block + block) * (state.block_bytes // SECTOR_BYTES)
    slot.writes = state.write_percent != 0 and (next_random(state) >> 32) % 100 < state.write_percent
    header[0] = BLK_T_OUT if slot.writes else BLK_T_IN
    (<uint64_t *>(header + 2))[0] = slot.sector
    store_relaxed_u16(
        state.descriptor_flags + index * state.descriptor_flags_stride,
        DESC_F_NEXT if slot.writes else DESC_F_NEXT | DESC_F_WRITE,
    )
    if state.verify and slot.writes:
        stamp(state, slot, data)
    (<uint8_t *>header)[STATUS_OFFSET] = 0xFF


cdef inline void submit(State *state, uint32_t index, uint64_t now) noexcept nogil:
    """Put the slot's next request in the available ring; `publish` shows it."""
    cdef uint16_t entry = state.next_available & (state.size - 1)
    prepare(state, index)
    state.slots[index].started_ns = now
    state.slots[index].busy = True
    store_relaxed_u16(state.available + RING_HEADER_BYTES + 2 * entry, <uint16_t>(index * state.head_stride))
    state.next_available += 1
    state.in_flight += 1


cdef inline bint wants_kick(State *state, uint16_t old) noexcept nogil:
    cdef uint16_t event
    fence_full()  # the index must be visible before the device's wish is read, or both sides may sleep
    if not state.event_idx:
        return not (load_relaxed_u16(state.used) & USED_F_NO_NOTIFY)
    event = load_relaxed_u16(state.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * state.size)
    return event_passed(event, state.next_available, old)


cdef inline void publish(State *state) noexcept nogil:
    """Show the device what was submitted, and kick it if it wants that."""
    cdef uint16_t old = state.published_available
    cdef uint64_t one = 1
    if old == state.next_available:
        return
    store_release_u16(state.available + INDEX_OFFSET, state.next_available)
    state.published_available = state.next_available
    if wants_kick(state, old):
        count_u64(&state.kicks, 1)
        write(state.kick_fd, &one, sizeof(one))  # a full eventfd is a kick that was not taken yet


cdef inline uint16_t fresh(State *state) noexcept nogil:
    return <uint16_t>(load_acquire_u16(state.used + INDEX_OFFSET) - state.last_used)


cdef inline void forbid_interrupts(State *state) noexcept nogil:
    """With EVENT_IDX, an index that was passed already says it."""
    if not state.event_idx:
        store_relaxed_u16(state.available, AVAIL_F_NO_INTERRUPT)


cdef inline bint allow_interrupts(State *state) noexcept nogil:
    """Ask for an interrupt with the next completion. True: there is one already, do not sleep."""
    if state.event_idx:
        store_relaxed_u16(state.available + RING_HEADER_BYTES + 2 * state.size, state.last_used)
    else:
        store_relaxed_u16(state.available, 0)
    fence_full()  # our wish must be visible before we look for the last time
    return fresh(state) != 0


# The loop

cdef inline void finish(State *state, uint32_t index, uint64_t now, bint counted) noexcept nogil:
    cdef SlotState *slot = &state.slots[index]
    cdef uint8_t status = (<uint8_t *>state.slot_lines + index * SLOT_BYTES)[STATUS_OFFSET]
    slot.busy = False
    state.in_flight -= 1
    if status != BLK_S_OK:
        count_u64(&state.failed, 1)
    elif state.verify and not slot.writes and not stamped(
        state, slot, state.data + <uint64_t>index * state.block_bytes
    ):
        count_u64(&state.mismatched, 1)
    elif counted:
        count_u64(&state.completed, 1)
        count_u64(&state.latency[bucket(now - slot.started_ns)], 1)
    else:
        count_u64(&state.drained, 1)


cdef inline int64_t take_used(State *state) noexcept nogil:
    """The slot that came back next, or -1: the device gave back what it was not given."""
    cdef char *element = (
        state.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * (state.last_used & (state.size - 1))
    )
    cdef uint32_t head = load_relaxed_u32(element)
    cdef uint32_t index = head // state.head_stride
    state.last_used += 1
    if index >= state.depth or head % state.head_stride or not state.slots[index].busy:
        return -1
    return index


cdef inline bint goes_on(State *state, uint64_t now) noexcept nogil:
    if load_relaxed_u32(&state.stop):
        return False
    return state.next_sequential < state.blocks if state.sequential else now < state.end_ns


cdef int harvest(State *state, uint16_t count, uint64_t now) noexcept nogil:
    """Take what came back and put new requests in its place."""
    cdef int64_t index
    cdef bint counted = state.sequential or now < state.end_ns
    if count > state.in_flight:
        return USED_JUMP
    while count:
        count -= 1
        index = take_used(state)
        if index < 0:
            return USED_STRANGE
        finish(state, <uint32_t>index, now, counted)
        if goes_on(state, now):
            submit(state, <uint32_t>index, now)
    return DONE


cdef uint16_t spin(State *state, uint64_t now) noexcept nogil:
    """Look for completions for a while; how many there are."""
    cdef uint64_t until = now + state.spin_ns if state.spin_ns >= 0 else now + SLEEP_MS * 1000000
    cdef uint32_t _turn
    while True:
        for _turn in range(64):
            if fresh(state):
                return fresh(state)
            cpu_relax()
        if monotonic_ns() >= until:
            return 0


cdef int sleep_until_interrupt(State *state) noexcept nogil:
    cdef pollfd waited[3]
    cdef uint64_t interrupts
    waited[0].fd, waited[1].fd, waited[2].fd = state.call_fd, state.error_fd, state.peer_fd
    waited[0].events = waited[1].events = POLLIN
    waited[2].events = 0  # a hang-up is told without being asked for
    if poll(waited, 3, SLEEP_MS) <= 0:
        return DONE
    if waited[0].revents:
        count_u64(&state.interrupts, 1)
        read(state.call_fd, &interrupts, sizeof(interrupts))
        return DONE
    return QUEUE_STOPPED if waited[1].revents else HUNG_UP


cdef int wait_for_some(State *state, uint64_t now) noexcept nogil:
    """Return when something came back, or after a while."""
    cdef int ending
    if state.spin_ns != 0 and spin(state, now):
        return DONE
    # Also who never sleeps for long asks now and then whether the other side is still there.
    if allow_interrupts(state):
        forbid_interrupts(state)
        return DONE
    ending = sleep_until_interrupt(state)
    forbid_interrupts(state)
    return ending


cdef int run_loop(State *state) noexcept nogil:
    cdef uint64_t now = state.begin_ns
    cdef uint64_t progress_ns = now
    cdef uint32_t index
    cdef uint16_t count
    cdef int ending = DONE
    forbid_interrupts(state)
    for index in range(state.depth):
        if goes_on(state, now):
            submit(state, index, now)
    while ending == DONE:
        publish(state)
        if state.in_flight == 0:
            break
        count = fresh(state)
        now = monotonic_ns()
        if count:
            progress_ns = now
            ending = harvest(state, count, now)
        elif now - progress_ns > state.stall_ns:
            ending = STALLED
        else:
            ending = wait_for_some(state, now)
    return ending


cdef class Load:
    """Requests on one queue, run by one thread.

    `memory` is a region of guest memory; everything that lies in it is named by its offset there, in bytes: `available`
    and `used` rings, `slot_lines` (64 bytes for each of `depth` slots), `data` (`block_bytes` for each), and
    `descriptor_flags`, the le16 of the first slot's data descriptor, with the distance to the next slot's. The head of
    slot i is `head_stride` * i. Blocks (of `block_bytes`) are chosen from `first_block` on, `blocks` of them.

    `sequential`: each block once, however long it takes. `verify`: stamp what is written, check what is read.
    `spin_ns`: how long to look for completions before sleeping; -1: for ever. `stall_ns`: give up without progress.
    """

    cdef State state
    cdef Py_buffer buffer
    cdef double ran_seconds

    def __cinit__(
        self,
        memory: bytearray | memoryview,
        *,
        size: int,
        available: int,
        used: int,
        slot_lines: int,
        data: int,
        descriptor_flags: int,
        descriptor_flags_stride: int,
        head_stride: int,
        depth: int,
        block_bytes: int,
        first_block: int,
        blocks: int,
        write_percent: int,
        event_idx: bool,
        kick_fd: int,
        call_fd: int,
        error_fd: int,
        peer_fd: int,
        sequential: bool = False,
        verify: bool = False,
        spin_ns: int = 0,
        stall_ns: int = 10_000_000_000,
        seed: int = 1,
    ) -> None:
        cdef State *state = &self.state
        PyObject_GetBuffer(memory, &self.buffer, PyBUF_WRITABLE)
        base = <char *>self.buffer.buf
        state.available, state.used = base + <size_t>available, base + <size_t>used
        state.slot_lines, state.data = base + <size_t>slot_lines, base + <size_t>data
        state.descriptor_flags = base + <size_t>descriptor_flags
        state.descriptor_flags_stride, state.head_stride = descriptor_flags_stride, head_stride
        state.size, state.depth, state.block_bytes = size, depth, block_bytes
        state.first_block, state.blocks, state.write_percent = first_block, blocks, write_percent
        state.sequential, state.verify, state.event_idx = sequential, verify, event_idx
        state.spin_ns, state.stall_ns, state.random = spin_ns, stall_ns, seed * 2 + 1
        state.kick_fd, state.call_fd, state.error_fd, state.peer_fd = kick_fd, call_fd, error_fd, peer_fd
        state.slots = <SlotState *>calloc(depth, sizeof(SlotState))
        if state.slots == NULL:
            raise MemoryError(f"{depth} slots")

    def __dealloc__(self) -> None:
        free(self.state.slots)
        PyBuffer_Release(&self.buffer)

    def run(self, seconds: float) -> None:
        """Run for `seconds`, then wait for what is in flight. The ring must be idle, and nobody else may touch it.

        DeadlineError, QueueStoppedError, ClosedError, FrontEndError: see SplitQueue.
        """
        cdef State *state = &self.state
        cdef int ending
        state.next_available = state.published_available = load_acquire_u16(state.available + INDEX_OFFSET)
        state.last_used = load_acquire_u16(state.used + INDEX_OFFSET)
        state.begin_ns = monotonic_ns()
        state.end_ns = state.begin_ns + <uint64_t>(seconds * 1e9)
        with nogil:
            ending = run_loop(state)
        self.ran_seconds = (monotonic_ns() - state.begin_ns) / 1e9
        self.tell(ending)

    cdef tell(self, int ending):
        if ending == STALLED:
            waiting = self.state.in_flight
            raise DeadlineError(f"no request came back for {self.state.stall_ns / 1e9:g} s; {waiting} are in flight")
        if ending == QUEUE_STOPPED:
            raise QueueStoppedError("the device signalled an error on a queue and serves it no more")
        if ending == HUNG_UP:
            raise ClosedError("the back end closed the connection")
        if ending == USED_JUMP:
            raise FrontEndError("the device gave back more requests than were in flight")
        if ending == USED_STRANGE:
            raise FrontEndError("the device gave back a request that was not in flight")

    def stop(self) -> None:
        """Let run() end early. From any thread."""
        store_release_u32(&self.state.stop, 1)

    @property
    def completed(self) -> int:
        """Requests that succeeded so far. From any thread, while it runs too; so are the other counters."""
        return load_relaxed_u64(&self.state.completed)

    @property
    def drained(self) -> int:
        """Requests that succeeded after the end of the time and are not in `completed` nor in the histogram."""
        return load_relaxed_u64(&self.state.drained)

    @property
    def failed(self) -> int:
        """Requests that failed, and so are in no other figure; nor are those that are in `mismatched`."""
        return load_relaxed_u64(&self.state.failed)

    @property
    def mismatched(self) -> int:
        """Reads that gave another sector than the one asked for."""
        return load_relaxed_u64(&self.state.mismatched)

    @property
    def kicks(self) -> int:
        return load_relaxed_u64(&self.state.kicks)

    @property
    def interrupts(self) -> int:
        """Times that the loop slept and was woken."""
        return load_relaxed_u64(&self.state.interrupts)

    @property
    def seconds(self) -> float:
        """How long the last run took, with what it waited for at the end."""
        return self.ran_seconds

    def latency(self) -> list[int]:
        """Requests in each bucket of `bucket_bounds`."""
        return [load_relaxed_u64(&self.state.latency[i]) for i in range(BUCKETS)]
