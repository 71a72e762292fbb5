# cython: language_level=3
"""The compiled data plane as Python sees it; the types and errors are described in `reactor.pyi`.

Here the control plane's objects own what the reactor threads use: memory tables, rings, slots. Everything a reactor
touches while it runs is in the `.pxd` files beside this one, without Python.
"""

import _thread
import errno as errno_names
import os
import stat
from time import sleep

from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset, strncpy
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from posix.uio cimport iovec

from virtflash.backing.target cimport TARGET_MORE, TARGET_ROOM, TARGET_SYNC, Call, Target
from virtflash.engine.admission cimport Allowance
from virtflash.engine.atomics cimport (
    exchange_u32,
    load_acquire_u16,
    load_acquire_u32,
    load_relaxed_u32,
    load_relaxed_u64,
    store_relaxed_u64,
    store_release_u32,
)
from virtflash.engine.bell cimport bell_unmake, ringer_make
from virtflash.engine.blocking_io cimport sync_file
from virtflash.engine.bounce cimport bounce_unmake
from virtflash.engine.completion cimport raise_event
from virtflash.engine.mailbox cimport mailbox_ask, mailbox_init
from virtflash.engine.memory_table cimport ring_part
from virtflash.engine.reactor_loop cimport serve
from virtflash.engine.sigbus_guard cimport guard_add, guard_install, guard_remove
from virtflash.engine.state cimport *  # every structure and constant: this is their home in Python
from virtflash.engine.statistics cimport LATENCY_FIRST_BIT, LATENCY_SUB_BITS
from virtflash.engine.system cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EOPNOTSUPP,
    F_DUPFD_CLOEXEC,
    F_GETFL,
    F_SETFL,
    O_NONBLOCK,
    PR_SET_NAME,
    PR_SET_TIMERSLACK,
    close,
    eventfd,
    fcntl,
    memory_page_bytes,
    monotonic_ns,
    prctl,
    pthread_join,
    read,
    sem_init,
    sem_post,
    sem_wait,
    start_thread,
)
from virtflash.engine.target_requests cimport host_latch
from virtflash.engine.uring cimport (
    IORING_OP_FSYNC,
    IORING_OP_READ,
    IORING_OP_WRITEV,
    IORING_SETUP_CLAMP,
    IORING_SETUP_CQSIZE,
    IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SINGLE_ISSUER,
    IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_TASKRUN_FLAG,
    io_uring_free_probe,
    io_uring_get_probe_ring,
    io_uring_opcode_supported,
    io_uring_params,
    io_uring_probe,
    io_uring_queue_exit,
    io_uring_queue_init_params,
    io_uring_register_files_sparse,
)
from virtflash.engine.virtio cimport (
    BLK_F_DISCARD,
    BLK_F_LIFETIME,
    BLK_F_SECURE_ERASE,
    BLK_F_WRITE_ZEROES,
    DESCRIPTOR_BYTES,
    RING_F_EVENT_IDX,
    RING_F_INDIRECT_DESC,
    RING_HEADER_BYTES,
    USED_ELEMENT_BYTES,
)
from virtflash.engine.worker_pool cimport pool_close, pool_init

cdef extern from *:
    """
    #define VIRTFLASH_COMPILER __VERSION__
    #ifndef VIRTFLASH_CYTHON
    #define VIRTFLASH_CYTHON "unknown"
    #endif
    #ifndef VIRTFLASH_LIBURING
    #define VIRTFLASH_LIBURING "unknown"
    #endif
    """
    const char *COMPILER "VIRTFLASH_COMPILER"
    const char *CYTHON "VIRTFLASH_CYTHON"
    const char *LIBURING "VIRTFLASH_LIBURING"

cdef enum:
    RING_ENTRIES = 256  # submissions between two system calls
    SYNC_ROUNDS = 100  # times that a target may ask for a sync before one flush
    COMPLETION_ENTRIES = 4096  # requests in flight without the kernel having to keep a list of its own

OPERATIONS = ("read", "write", "flush", "discard", "write_zeroes", "secure_erase", "get_id", "lifetime", "unknown")
LATENCY_NAMES = ("read", "write", "flush", "other")
EVENT_NAMES = ("queue-broken", "malformed", "io-error", "sync-failed", "memory-lost", "kick-lost", "budget-spent",
               "budget-restored")
FAULT_WORDS = (
    "nothing",
    "the available index jumped by more than the ring holds",
    "a head beyond the ring",
    "a head that is in flight already",
    "a descriptor index beyond the table",
    "a chain that loops",
    "a request of too many pieces",
    "an indirect descriptor although none was negotiated",
    "an indirect descriptor inside an indirect table",
    "an indirect descriptor with NEXT",
    "an indirect table of no or an odd length",
    "an address that is not guest memory",
    "a device-readable buffer behind a device-writable one",
    "no byte for the status",
    "guest memory was truncated by its owner",
    "a request that is out of bounds, of odd length, or asks for what is not offered",
)
IO_PATHS = {IO_URING_DEFERRED: "io_uring", IO_URING_PLAIN: "io_uring-plain", IO_THREADS: "threads"}
IO_NAMES = {"auto": IO_AUTO, **{name: path for path, name in IO_PATHS.items()}}

if guard_install():
    raise OSError(errno, "cannot install the SIGBUS handler that guards guest memory")


def versions():
    return {
        "cython": CYTHON.decode(),
        "liburing": LIBURING.decode(),
        "compiler": COMPILER.decode(),
    }


def latency_bounds():
    """Upper bounds of the latency buckets in nanoseconds; the last one holds everything above."""
    octaves = range((LATENCY_BUCKETS >> LATENCY_SUB_BITS) + 1)
    first = 1 << LATENCY_FIRST_BIT
    bounds = [first] + [(first << octave) * (5 + quarter) // 4 for octave in octaves for quarter in range(4)]
    return bounds[: LATENCY_BUCKETS]


LATENCY_BOUNDS = latency_bounds()
QUEUE_ENTRIES_MAX = QUEUE_SIZE_MAX


cdef class Mapping:
    cdef readonly uint64_t guest_address
    cdef readonly uint64_t size
    cdef readonly uint64_t user_address
    cdef readonly uint64_t offset
    cdef char *base  # of the mapping; the region begins inside it, as pages may be large
    cdef uint64_t mapped_bytes
    cdef char *host
    cdef uint32_t lost_mark
    cdef int guard

    def __cinit__(self):
        self.base = NULL
        self.guard = -1

    def __init__(self, int fd, *, uint64_t guest_address, uint64_t size, uint64_t user_address, uint64_t offset):
        cdef uint64_t page
        cdef uint64_t skip
        cdef void *base
        if self.base != NULL:
            raise ValueError("a mapping is made once")
        page = self._page_bytes(fd)
        self._check(fd, guest_address, size, user_address, offset)
        skip = offset % page
        self.mapped_bytes = (size + skip + page - 1) // page * page
        with nogil:
            base = mmap(NULL, self.mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, offset - skip)
        if base == MAP_FAILED:
            raise ValueError(f"guest memory cannot be mapped: {os.strerror(errno)}")
        self.base = <char *>base
        self.host = self.base + skip
        self.guest_address, self.size, self.user_address, self.offset = guest_address, size, user_address, offset
        self.guard = guard_add(self.base, self.mapped_bytes, page, &self.lost_mark)
        if self.guard < 0:
            raise ValueError("more regions of guest memory than this server guards")

    cdef uint64_t _page_bytes(self, int fd) except 0:
        """Asked without Python's lock: a file system may let one wait for the answer."""
        cdef long page
        with nogil:
            page = memory_page_bytes(fd)
        if page < 0:
            raise OSError(-page, os.strerror(-page))
        if page == 0:
            raise ValueError("guest memory lies on a FUSE file system, whose server may withhold it")
        return page

    @staticmethod
    def _check(fd, guest_address, size, user_address, offset):
        top = 2**64 - 1  # a region that ends at the very top is refused too: the address behind it would be 0
        if size == 0:
            raise ValueError("a region of guest memory is empty")
        if max(guest_address, user_address) + size > top or offset + size > 2**63 - 1:
            raise ValueError(f"a region of guest memory wraps: {size:#x} bytes at {guest_address:#x}")
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode) and offset + size > status.st_size:
            raise ValueError(f"a region of {offset + size} bytes in a memory file of {status.st_size}")

    @property
    def lost(self):
        return load_acquire_u32(&self.lost_mark) != 0

    def __dealloc__(self):
        if self.guard >= 0:
            guard_remove(self.guard)
        if self.base != NULL:
            munmap(self.base, self.mapped_bytes)


cdef class MemoryTable:
    cdef readonly tuple mappings
    cdef Table table

    def __init__(self, mappings):
        cdef Mapping mapping
        cdef uint32_t i
        if self.table.regions != NULL:
            raise ValueError("a table is made once")
        self.mappings = tuple(sorted(mappings, key=lambda mapping: mapping.guest_address))
        self._check_disjoint("guest_address")
        self._check_disjoint("user_address")
        self.table.regions = <Region *>calloc(max(len(self.mappings), 1), sizeof(Region))
        if self.table.regions == NULL:
            raise MemoryError
        for i, mapping in enumerate(self.mappings):
            self.table.regions[i] = Region(
                mapping.guest_address, mapping.size, mapping.user_address, mapping.host, &mapping.lost_mark
            )
        self.table.count = len(self.mappings)

    def _check_disjoint(self, address):
        end = 0
        for mapping in sorted(self.mappings, key=lambda mapping: getattr(mapping, address)):
            start = getattr(mapping, address)
            if start < end:
                raise ValueError(f"two regions of guest memory overlap at {address.replace('_', ' ')} {start:#x}")
            end = start + mapping.size

    def __dealloc__(self):
        free(self.table.regions)


# Of a target that is to be synced by another thread: what its own thread found.
cdef struct SyncStep:
    BindingState *binding
    uint64_t mark
    uint64_t flush_mark
    uint64_t busy_ns  # until when the real part would be at work
    int32_t result


cdef void flush_target(void *argument) noexcept nogil:
    cdef SyncStep *step = <SyncStep *>argument
    cdef Target *target = step.binding.target
    target.now_ns, target.gentle, target.flush_mark = monotonic_ns(), True, &step.flush_mark
    step.result = target.flush(target.self)
    step.mark = target.sync_begins(target.self)
    step.busy_ns = target.busy_ns(target.self) if target.busy_ns != NULL else 0


cdef void tell_synced(void *argument) noexcept nogil:
    cdef SyncStep *step = <SyncStep *>argument
    cdef Target *target = step.binding.target
    if not load_relaxed_u32(host_latch(step.binding)):
        target.synced(target.self, step.mark)


cdef class Binding:
    cdef BindingState state
    cdef list queues  # that run, or are about to
    cdef readonly object target
    cdef readonly object allowance
    cdef Reactor owner  # the one reactor that may call the target

    def __cinit__(self):
        memset(&self.state, 0, sizeof(BindingState))
        self.state.event_fd = -1

    def __init__(
        self,
        int fd,
        uint64_t capacity_sectors,
        *,
        int fd_unaligned=-1,
        bint block_device=False,
        bint read_only=False,
        bint in_memory=False,
        uint32_t memory_alignment=1,
        uint32_t offset_alignment=1,
        bytes serial=b"",
        bint discard=False,
        bint write_zeroes=False,
        bint zero_range=False,
        bint secure_erase=False,
        uint32_t max_segments=1,
        uint32_t max_discard_sectors=0,
        uint32_t max_write_zeroes_sectors=0,
        uint32_t max_secure_erase_sectors=0,
        uint32_t secure_erase_alignment_sectors=1,
        int life_time_fd=-1,
        int pre_eol_fd=-1,
        target=None,
        bint lifetime=False,
        allowance=None,
        bint critical=False,
    ):
        cdef BindingState *state = &self.state
        if state.event_fd >= 0:
            raise ValueError("a binding is made once")
        self._check(memory_alignment, offset_alignment, max_segments, secure_erase_alignment_sectors, capacity_sectors)
        if offset_alignment > 1 and fd_unaligned < 0:
            raise ValueError("a second descriptor must take the requests that are not aligned")
        self.queues = []
        if target is not None:
            fd = self._take_target(target, fd)
        if lifetime and (target is None or state.target.lifetime == NULL):
            raise ValueError("a lifetime is offered of a target that tells it")
        if allowance is not None:
            self._take_allowance(allowance)
        if critical and target is None:
            raise ValueError("only volumes of a target can be critical: those share a reactor")
        state.critical = critical
        state.fd, state.fd_unaligned = fd, fd_unaligned
        state.capacity = capacity_sectors
        state.block_device, state.read_only, state.zero_range = block_device, read_only, zero_range
        state.in_memory = in_memory
        state.memory_mask, state.offset_mask = memory_alignment - 1, offset_alignment - 1
        state.max_segments = max_segments
        state.max_sectors[OP_DISCARD] = max_discard_sectors
        state.max_sectors[OP_WRITE_ZEROES] = max_write_zeroes_sectors
        state.max_sectors[OP_SECURE_ERASE] = max_secure_erase_sectors
        state.secure_erase_alignment = secure_erase_alignment_sectors
        state.life_time_fd, state.pre_eol_fd = life_time_fd, pre_eol_fd
        padded = serial[:20].ljust(20, b"\0")
        memcpy(state.serial, <char *>padded, 20)
        state.supported = (
            1 << OP_GET_ID
            | (discard << OP_DISCARD)
            | (write_zeroes << OP_WRITE_ZEROES)
            | (secure_erase << OP_SECURE_ERASE)
            | ((lifetime or (life_time_fd >= 0 and pre_eol_fd >= 0)) << OP_LIFETIME)
        )
        state.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if state.event_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self.negotiate(0)

    cdef int _take_target(self, target, int fd) except -2:
        """Serve a target; returns the descriptor of the file that holds what it keeps, or -1."""
        cdef Target *calls = <Target *>PyCapsule_GetPointer(target.capsule, "virtflash.backing.Target")
        if fd >= 0 and fd != calls.sync_fd:
            raise ValueError("a target is served instead of a file")
        self.target = target
        self.state.target = calls
        return calls.sync_fd

    cdef int _take_allowance(self, allowance) except -1:
        if self.state.target == NULL:
            raise ValueError("an allowance is of a target: only those have all of their queues on one reactor")
        self.state.allowance = <Allowance *>PyCapsule_GetPointer(allowance.capsule, "virtflash.engine.Allowance")
        self.allowance = allowance
        return 0

    cdef _take_owner(self, Reactor reactor):
        """Of a target, the first reactor that has a queue of it makes all calls."""
        if self.state.target == NULL:
            return
        if self.owner is not None and self.owner.running and self.owner is not reactor:
            raise ValueError(f"all queues of a target run on one reactor: these on {self.owner.name}")
        self.owner = reactor

    cdef _on_owner(self, void (*function)(void *argument) noexcept nogil, SyncStep *step):
        cdef Call call
        call.function, call.argument = function, step
        if self.owner is not None and self.owner.running:
            self.owner._run(&call)
        else:
            with nogil:
                function(step)

    cdef int _sync_target(self) except 1:
        """Flush on the thread that owns the target, sync here, and tell; 0 or -errno."""
        cdef SyncStep step
        cdef int result
        memset(&step, 0, sizeof(step))
        step.binding = &self.state
        for _ in range(SYNC_ROUNDS):
            self._flush_target(&step)
            if step.result < 0:
                return step.result
            result = self._sync_host(&step)
            if result or step.result != TARGET_SYNC:
                return result
        return -errno_names.EIO

    cdef _flush_target(self, SyncStep *step):
        """Part by part, each when the real part would be done with the one before: it is nobody's request, and those of
        other volumes have their turn in between."""
        cdef uint64_t now
        self._on_owner(flush_target, step)
        while step.result == TARGET_MORE or step.result == TARGET_ROOM:
            now = monotonic_ns()
            if step.busy_ns > now:
                sleep((step.busy_ns - now) / 1e9)  # nothing tells when it would be done: it is only emulated
            self._on_owner(flush_target, step)

    cdef int _sync_host(self, SyncStep *step) except 1:
        cdef int result = 0
        if self.state.fd >= 0:
            with nogil:
                result = sync_file(&self.state)
        if result:
            exchange_u32(host_latch(&self.state), 1)
            return result
        self._on_owner(tell_synced, step)
        return -errno_names.EIO if load_relaxed_u32(host_latch(&self.state)) else 0

    @staticmethod
    def _check(memory_alignment, offset_alignment, max_segments, secure_erase_alignment, capacity):
        for alignment in (memory_alignment, offset_alignment):
            if alignment == 0 or alignment & (alignment - 1):
                raise ValueError(f"an alignment of {alignment} bytes is no power of two")
        if not 1 <= max_segments <= SEGMENT_LIMIT:
            raise ValueError(f"{max_segments} ranges in a request: 1 to {SEGMENT_LIMIT} are possible")
        if secure_erase_alignment == 0:
            raise ValueError("a secure erase alignment of 0 sectors")
        Binding._check_capacity(capacity)

    @staticmethod
    def _check_capacity(capacity):
        if capacity >= 2**54:  # 2^63 bytes: what a file offset can say
            raise ValueError(f"a capacity of {capacity} sectors")

    @property
    def capacity_sectors(self):
        return load_relaxed_u64(&self.state.capacity)

    @capacity_sectors.setter
    def capacity_sectors(self, uint64_t sectors):
        if sectors < self.state.capacity:
            raise ValueError("a volume that is served may only grow")
        self._check_capacity(sectors)
        store_relaxed_u64(&self.state.capacity, sectors)

    @property
    def write_through(self):
        return load_acquire_u32(&self.state.write_through) != 0

    @write_through.setter
    def write_through(self, bint value):
        """Returns when every reactor that serves this volume has seen the new mode in a turn of its loop."""
        store_release_u32(&self.state.write_through, value)
        self._await_turn()

    def set_gate(self, refused=(), *, bint durable=False, bint frozen=False):
        """Returns when every reactor that serves this volume has seen it in a turn of its loop."""
        cdef uint32_t bits = 0
        for name in refused:
            if name not in OPERATIONS:
                raise ValueError(f"no kind of request is called {name!r}: one of {', '.join(OPERATIONS)}")
            bits |= 1 << OPERATIONS.index(name)
        store_release_u32(&self.state.gate.durable, durable)
        store_release_u32(&self.state.gate.refused, bits)
        store_release_u32(&self.state.gate.frozen, frozen)
        self._await_turn()

    def _await_turn(self):
        for reactor in {queue.reactor for queue in list(self.queues)}:
            (<Reactor>reactor).round()

    @property
    def gate(self):
        bits = load_acquire_u32(&self.state.gate.refused)
        refused = {name for number, name in enumerate(OPERATIONS) if bits >> number & 1}
        return refused, load_acquire_u32(&self.state.gate.durable) != 0, load_acquire_u32(&self.state.gate.frozen) != 0

    @property
    def critical(self):
        return self.state.critical

    @property
    def foreign_most(self):
        return load_relaxed_u64(&self.state.foreign_most)

    @property
    def sync_failed(self):
        return load_acquire_u32(&self.state.sync_failed) != 0

    @property
    def event_fd(self):
        return self.state.event_fd

    def negotiate(self, uint64_t features):
        cdef uint32_t negotiated = 1 << OP_GET_ID
        negotiated |= (1 << OP_DISCARD) if features & BLK_F_DISCARD else 0
        negotiated |= (1 << OP_WRITE_ZEROES) if features & BLK_F_WRITE_ZEROES else 0
        negotiated |= (1 << OP_SECURE_ERASE) if features & BLK_F_SECURE_ERASE else 0
        negotiated |= (1 << OP_LIFETIME) if features & BLK_F_LIFETIME else 0
        store_release_u32(&self.state.operations, self.state.supported & negotiated)
        store_release_u32(&self.state.indirect, (features & RING_F_INDIRECT_DESC) != 0)

    def sync(self):
        cdef int result = -<int>load_relaxed_u32(&self.state.injected[OP_FLUSH])
        if load_acquire_u32(&self.state.gate.frozen):
            self._sync_frozen()
            return
        if result == 0 and self.state.target != NULL and not self.state.read_only:
            result = self._sync_target()
        elif result == 0 and self.state.fd >= 0 and not self.state.read_only:
            with nogil:
                result = sync_file(&self.state)
        if result and exchange_u32(&self.state.sync_failed, 1) == 0:
            raise_event(&self.state, EVENT_SYNC_FAILED, 0, -result)
        if self.sync_failed:
            raise OSError(-result or errno_names.EIO, "a write or a sync of this volume has failed")

    cdef _sync_frozen(self):
        """As a guest's flush: it does nothing, and succeeds where there is nothing to be done. Nothing has failed."""
        if self.sync_failed:
            raise OSError(errno_names.EIO, "a write or a sync of this volume has failed")
        if load_acquire_u32(&self.state.gate.refused) >> OP_FLUSH & 1:
            raise OSError(errno_names.EROFS, "frozen: what was accepted is not to be written now")

    def take_events(self):
        cdef uint64_t ignored
        cdef uint64_t count
        cdef int kind
        read(self.state.event_fd, &ignored, sizeof(ignored))
        exchange_u32(&self.state.events_pending, 0)
        events = []
        for kind in range(EVENT_KINDS):
            count = load_relaxed_u64(&self.state.events[kind].count)
            fresh = count - self.state.events[kind].told
            self.state.events[kind].told = count
            if fresh:
                events.append(self._event(kind, fresh))
        return events

    cdef dict _event(self, int kind, uint64_t fresh):
        cdef uint32_t detail = load_relaxed_u32(&self.state.events[kind].detail)
        faults = kind == EVENT_QUEUE_BROKEN or kind == EVENT_MALFORMED or kind == EVENT_MEMORY_LOST
        words = FAULT_WORDS[detail] if faults else os.strerror(detail) if detail else "end of file"
        queue = load_relaxed_u32(&self.state.events[kind].queue)
        return {"kind": EVENT_NAMES[kind], "queue": queue, "count": fresh, "detail": words}

    def inject_fault(self, kind, uint32_t error):
        kinds = {
            "read": (OP_READ,),
            "write": (OP_WRITE, OP_WRITE_ZEROES),
            "sync": (OP_FLUSH,),
            "discard": (OP_DISCARD, OP_SECURE_ERASE),
        }
        if kind not in kinds:
            raise ValueError(f"no fault is called {kind!r}: one of {', '.join(kinds)}")
        for operation in kinds[kind]:
            exchange_u32(&self.state.injected[<int>operation], error)

    def __dealloc__(self):
        if self.state.event_fd >= 0:
            close(self.state.event_fd)


cdef int make_ring(ReactorState *reactor, uint32_t flags) noexcept nogil:
    cdef io_uring_params params
    memset(&params, 0, sizeof(params))
    params.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP
    params.cq_entries = COMPLETION_ENTRIES
    return io_uring_queue_init_params(RING_ENTRIES, &reactor.ring, &params)


cdef bint ring_suffices(ReactorState *reactor) noexcept nogil:
    """Does this kernel know the operations that the data plane uses?"""
    cdef io_uring_probe *probe = io_uring_get_probe_ring(&reactor.ring)
    cdef bint enough
    if probe == NULL:
        return False
    enough = (
        io_uring_opcode_supported(probe, IORING_OP_READ)
        and io_uring_opcode_supported(probe, IORING_OP_WRITEV)
        and io_uring_opcode_supported(probe, IORING_OP_FSYNC)
    )
    io_uring_free_probe(probe)
    return enough


cdef bint try_path(ReactorState *reactor, int path) noexcept nogil:
    cdef uint32_t deferred = (
        IORING_SETUP_SUBMIT_ALL
        | IORING_SETUP_SINGLE_ISSUER
        | IORING_SETUP_DEFER_TASKRUN
        | IORING_SETUP_TASKRUN_FLAG
    )
    cdef int result
    if path != IO_THREADS:
        result = make_ring(reactor, deferred if path == IO_URING_DEFERRED else 0)
        if result == 0 and not ring_suffices(reactor):
            io_uring_queue_exit(&reactor.ring)
            result = -EOPNOTSUPP
        if result < 0:
            reactor.setup_error = -result
            return False
        reactor.files_registered = io_uring_register_files_sparse(&reactor.ring, REGISTERED_FILES) == 0
    reactor.io_path = path
    return True


cdef void set_up(ReactorState *reactor) noexcept nogil:
    """Take the I/O path that was asked for, or with IO_AUTO the best that the kernel allows."""
    cdef int wanted = reactor.io_path
    reactor.io_path = IO_AUTO
    if wanted != IO_AUTO:
        try_path(reactor, wanted)
        return
    if try_path(reactor, IO_URING_DEFERRED) or try_path(reactor, IO_URING_PLAIN):
        return
    try_path(reactor, IO_THREADS)


cdef void *reactor_main(void *argument) noexcept nogil:
    """The thread: it makes its own ring, since only the one that made it may submit to it (SINGLE_ISSUER)."""
    cdef ReactorState *reactor = <ReactorState *>argument
    prctl(PR_SET_NAME, reactor.name)
    prctl(PR_SET_TIMERSLACK, 1)  # ns: emulated operations end on time
    set_up(reactor)
    sem_post(&reactor.started)
    if reactor.io_path == IO_AUTO:
        return NULL
    ringer_make(&reactor.ringer, reactor.mailbox.event_fd, reactor.io_path != IO_THREADS)
    serve(reactor)
    pool_close(&reactor.pool)
    if reactor.io_path != IO_THREADS:
        io_uring_queue_exit(&reactor.ring)
    bounce_unmake(reactor)
    return NULL


cdef class Reactor:
    cdef ReactorState *state
    cdef bint running
    cdef uint32_t attached  # queues that run here, or are about to
    cdef readonly str name

    def __cinit__(self):
        self.state = <ReactorState *>calloc(1, sizeof(ReactorState))
        if self.state == NULL:
            raise MemoryError
        self.state.mailbox.event_fd = self.state.pool.event_fd = -1

    def __init__(self, str name, *, str io="auto"):
        cdef ReactorState *state = self.state
        cdef bytes short_name = name.encode()[:15]
        if io not in IO_NAMES:
            raise ValueError(f"no I/O path is called {io!r}: one of {', '.join(IO_NAMES)}")
        if self.running:
            raise ValueError("a reactor is started once")
        self.name = name
        strncpy(state.name, <char *>short_name, 15)
        state.io_path = IO_NAMES[io]
        state.poll_credit = 1
        mailbox_init(&state.mailbox, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))
        pool_init(&state.pool, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))
        if state.mailbox.event_fd < 0 or state.pool.event_fd < 0:
            raise OSError(errno_names.EMFILE, os.strerror(errno_names.EMFILE))
        self._start(io)

    cdef _start(self, str io):
        cdef ReactorState *state = self.state
        sem_init(&state.started, 0, 0)
        result = start_thread(&state.thread, reactor_main, state)
        if result:
            raise OSError(result, os.strerror(result))
        with nogil:
            while sem_wait(&state.started):
                continue
        if state.io_path == IO_AUTO:
            pthread_join(state.thread, NULL)
            raise OSError(state.setup_error, f"the I/O path {io} is not to be had: {os.strerror(state.setup_error)}")
        self.running = True

    @property
    def io_path(self):
        return IO_PATHS[self.state.io_path]

    @property
    def io_reason(self):
        return "" if self.state.setup_error == 0 else f"io_uring: {os.strerror(self.state.setup_error)}"

    @property
    def wakeups(self):
        return load_relaxed_u64(&self.state.wakeups)

    cdef void _ask(self, Command *command) noexcept:
        with nogil:
            mailbox_ask(&self.state.mailbox, command)

    cdef attach(self):
        """Make room for a queue."""
        if not self.running:
            raise ValueError(f"the reactor {self.name} is closed")
        if self.attached == QUEUES_PER_REACTOR:
            raise ValueError(f"a reactor serves up to {QUEUES_PER_REACTOR} queues")
        self.attached += 1

    cdef _run(self, Call *call):
        cdef Command command
        memset(&command, 0, sizeof(command))
        command.kind = COMMAND_RUN
        command.call = call
        self._ask(&command)

    def run(self, call):
        if not self.running:
            raise ValueError(f"the reactor {self.name} is closed")
        self._run(<Call *>PyCapsule_GetPointer(call, "virtflash.engine.Call"))

    def round(self):
        """Wait until the reactor has begun a turn of its loop after this call."""
        cdef Command command
        if not self.running:
            return
        memset(&command, 0, sizeof(command))
        command.kind = COMMAND_ROUND
        self._ask(&command)

    def close(self):
        cdef Command command
        if not self.running:
            return
        if self.attached:
            raise RuntimeError("a reactor is closed after its queues have stopped")
        self.running = False
        memset(&command, 0, sizeof(command))
        command.kind = COMMAND_EXIT
        self._ask(&command)
        with nogil:
            pthread_join(self.state.thread, NULL)
        self._close_descriptors()

    cdef _close_descriptors(self):
        for fd in (self.state.mailbox.event_fd, self.state.pool.event_fd):
            if fd >= 0:
                close(fd)
        self.state.mailbox.event_fd = self.state.pool.event_fd = -1

    def __dealloc__(self):
        if self.state == NULL or self.running:
            return  # a thread that still runs keeps its state
        self._close_descriptors()
        free(self.state)


def check_wake_descriptor(fd, role):
    """Refuse what cannot wake anybody: only eventfds, pipes and sockets can. ValueError."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_IFMT(mode) == 0 and is_eventfd(fd))):
        raise ValueError(f"the {role} descriptor is no eventfd, pipe or socket")


def is_eventfd(fd):
    """Other descriptors without a file may do things when they are read (a signalfd takes signals of this process)."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[eventfd]"
    except OSError:
        return True  # without /proc nobody can tell


cdef int duplicate(int fd) except -2:
    cdef int copy
    if fd < 0:
        return -1
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)
    if copy < 0:
        raise OSError(errno, os.strerror(errno))
    return copy


cdef int duplicate_writable(int fd, role) except -2:
    """A descriptor to signal through without ever blocking, which would stop every volume of the reactor (`bell.h`).

    A pipe is opened anew, with flags of its own. Of an eventfd the front end shares the flags; they are set where the
    kernel can do no better, and QEMU's back ends do so as well.
    """
    if fd < 0:
        return -1
    check_wake_descriptor(fd, role)
    copy = reopen_pipe(fd, os.O_WRONLY)
    if copy < 0:
        copy = duplicate(fd)
        flags = fcntl(copy, F_GETFL)
        if not flags & O_NONBLOCK:
            fcntl(copy, F_SETFL, <int>flags | O_NONBLOCK)
    return copy


def reopen_pipe(fd, direction):
    """A non-blocking descriptor of a pipe whose flags nobody shares, or -1: it is no pipe, or that is not allowed."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return -1
    try:
        return os.open(f"/proc/self/fd/{fd}", direction | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


cdef void *lazy_memory(size_t size) except NULL:
    """Zeroed memory that costs nothing until it is touched."""
    cdef void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if memory == MAP_FAILED:
        raise MemoryError
    return memory


cdef class TableHold:
    """A table and the queue's use of it, kept until no request in flight needs it."""

    cdef MemoryTable owner
    cdef TableUse *use

    def __cinit__(self, MemoryTable owner):
        self.owner = owner
        self.use = <TableUse *>calloc(1, sizeof(TableUse))
        if self.use == NULL:
            raise MemoryError
        self.use.table = &owner.table

    cdef bint finished(self):
        return load_acquire_u32(&self.use.finished) != 0

    def __dealloc__(self):
        free(self.use)


cdef class Queue:
    cdef QueueState *state
    cdef readonly Reactor reactor
    cdef readonly Binding binding
    cdef readonly bint running
    cdef list holds  # of the current table last
    cdef object lock  # of what the control plane changes: it may have several threads
    cdef uint64_t ring_addresses[3]
    cdef uint32_t pool_size

    def __cinit__(self):
        self.state = <QueueState *>calloc(1, sizeof(QueueState))
        if self.state == NULL:
            raise MemoryError
        self.state.kick_fd = self.state.call_fd = self.state.error_fd = -1

    def __init__(self, Reactor reactor, Binding binding, uint16_t index):
        if self.reactor is not None:
            raise ValueError("a queue is made once")
        binding._take_owner(reactor)
        self.reactor, self.binding = reactor, binding
        self.state.index = index
        self.state.binding = &binding.state
        self.holds = []
        self.lock = _thread.allocate_lock()

    @property
    def broken(self):
        return load_relaxed_u32(&self.state.broken) != 0

    def start(
        self,
        MemoryTable table,
        *,
        uint32_t size,
        uint64_t descriptors,
        uint64_t available,
        uint64_t used,
        uint16_t base,
        uint64_t features,
        int kick,
        int call=-1,
        int error=-1,
    ):
        cdef Command command
        if size == 0 or size > QUEUE_SIZE_MAX or size & (size - 1):
            raise ValueError(f"a queue of {size} entries: a power of two up to {QUEUE_SIZE_MAX} is possible")
        with self.lock:
            if self.running:
                raise ValueError("the queue runs already")
            self._lay_ring(table, size, descriptors, available, used, &command)
            self._take_descriptors(kick, call, error)
            try:
                self._prepare(size, base, features, &command)
                self.reactor.attach()
            except BaseException:
                self._close_descriptors()
                raise
            self._begin(table, &command)

    cdef _begin(self, MemoryTable table, Command *command):
        hold = TableHold(table)
        self.holds.append(hold)
        self.state.use = (<TableHold>hold).use
        self.binding.queues.append(self)  # before it runs: a change of mode has to reach it
        command.kind = COMMAND_START
        command.queue = self.state
        self.reactor._ask(command)
        self.running = True
        Py_INCREF(self)  # a reactor uses it, whoever else forgets it, and also when the interpreter ends

    cdef _lay_ring(self, MemoryTable table, uint32_t size, uint64_t descriptors, uint64_t available, uint64_t used,
                   Command *command):
        """Find the ring's parts in a table, or refuse them (virtio 1.4 §2.7)."""
        memset(command, 0, sizeof(Command))
        if descriptors % 16 or available % 2 or used % 4:
            raise ValueError("a part of the ring is misaligned")
        command.descriptors = ring_part(&table.table, descriptors, <uint64_t>size * DESCRIPTOR_BYTES)
        command.available = ring_part(&table.table, available, RING_HEADER_BYTES + 2 * size + 2)
        command.used = ring_part(&table.table, used, RING_HEADER_BYTES + USED_ELEMENT_BYTES * size + 2)
        if command.descriptors == NULL or command.available == NULL or command.used == NULL:
            raise ValueError("a part of the ring is not wholly inside one region of guest memory")
        if (<uintptr_t>command.descriptors & 15) or (<uintptr_t>command.available & 1) or (<uintptr_t>command.used & 3):
            raise ValueError("a part of the ring is misaligned in its memory file")
        self.ring_addresses[0], self.ring_addresses[1], self.ring_addresses[2] = descriptors, available, used

    cdef _prepare(self, uint32_t size, uint16_t base, uint64_t features, Command *command):
        cdef QueueState *state = self.state
        self._take_slots(size)
        state.broken = 0
        state.dirty = False
        state.stop_command = NULL
        state.ring.size = size
        state.ring.descriptors, state.ring.available, state.ring.used = (
            command.descriptors, command.available, command.used
        )
        state.ring.next_available = base
        state.ring.next_used = state.ring.published_used = load_acquire_u16(command.used + 2)
        state.ring.event_idx = (features & RING_F_EVENT_IDX) != 0

    cdef _take_descriptors(self, int kick, int call, int error):
        check_wake_descriptor(kick, "kick")
        try:
            self.state.kick_fd = reopen_pipe(kick, os.O_RDONLY)
            if self.state.kick_fd < 0:
                self.state.kick_fd = duplicate(kick)
            self.state.call_fd = duplicate_writable(call, "call")
            self.state.error_fd = duplicate_writable(error, "error")
        except BaseException:
            self._close_descriptors()
            raise

    cdef _close_descriptors(self):
        for fd in (self.state.kick_fd, self.state.call_fd, self.state.error_fd):
            if fd >= 0:
                close(fd)
        self.state.kick_fd = self.state.call_fd = self.state.error_fd = -1

    def stop(self):
        with self.lock:
            if self.running:
                self._end()
            return self.state.ring.next_available

    cdef _end(self):
        cdef Command command
        memset(&command, 0, sizeof(command))
        command.kind = COMMAND_STOP
        command.queue = self.state
        self.reactor._ask(&command)
        self.running = False
        Py_DECREF(self)
        self.binding.queues.remove(self)
        self.reactor.attached -= 1
        self.holds.clear()
        self._close_descriptors()
        self._free_slots()  # a guest may have made it touch all of it: 17 MiB for the largest ring

    def set_memory(self, MemoryTable table):
        cdef Command command
        cdef TableHold hold
        with self.lock:
            if not self.running:
                raise ValueError("the queue does not run")
            self._lay_ring(table, self.state.ring.size, self.ring_addresses[0], self.ring_addresses[1],
                           self.ring_addresses[2], &command)
            hold = TableHold(table)
            command.kind = COMMAND_MEMORY
            command.queue = self.state
            command.use = hold.use
            self.holds.append(hold)
            self.reactor._ask(&command)
        self.release_memory()

    def release_memory(self):
        with self.lock:
            self.holds = [hold for hold in self.holds if not (<TableHold>hold).finished()]
            return len(self.holds) <= 1

    cdef _replace(self, int kind, int fd, int old):
        cdef Command command
        memset(&command, 0, sizeof(command))
        command.kind = kind
        command.queue = self.state
        command.fd = fd
        self.reactor._ask(&command)
        if old >= 0:
            close(old)

    def set_call(self, int fd):
        with self.lock:
            if self.running:
                self._replace(COMMAND_CALL, duplicate_writable(fd, "call"), self.state.call_fd)

    def set_error(self, int fd):
        with self.lock:
            if self.running:
                self._replace(COMMAND_ERROR, duplicate_writable(fd, "error"), self.state.error_fd)

    def statistics(self):
        cdef Statistics *counted = &self.state.statistics
        cdef int i
        return {
            "requests": {OPERATIONS[i]: load_relaxed_u64(&counted.requests[i]) for i in range(OP_COUNT)},
            "bytes_read": load_relaxed_u64(&counted.bytes_read),
            "bytes_written": load_relaxed_u64(&counted.bytes_written),
            "bytes_discarded": load_relaxed_u64(&counted.bytes_discarded),
            "errors": load_relaxed_u64(&counted.errors),
            "refused": load_relaxed_u64(&counted.refused),
            "unsupported": load_relaxed_u64(&counted.unsupported),
            "malformed": load_relaxed_u64(&counted.malformed),
            "kicks": load_relaxed_u64(&counted.kicks),
            "interrupts": load_relaxed_u64(&counted.interrupts),
            "interrupts_suppressed": load_relaxed_u64(&counted.interrupts_suppressed),
            "batches": load_relaxed_u64(&counted.batches),
            "in_flight": load_relaxed_u32(&self.state.in_flight),
            "latency": {LATENCY_NAMES[i]: self._latency(i) for i in range(LATENCY_CLASSES)},
        }

    def _latency(self, int which):
        cdef uint64_t *counts = self.state.statistics.latency[which]
        return {"bounds_ns": LATENCY_BOUNDS, "counts": [load_relaxed_u64(&counts[i]) for i in range(LATENCY_BUCKETS)]}

    cdef _take_slots(self, uint32_t size):
        self._free_slots()  # of a start that failed
        self.state.slots = <Slot *>lazy_memory(size * sizeof(Slot))
        self.state.iov_pool = <iovec *>lazy_memory(<size_t>size * IOV_LIMIT * sizeof(iovec))
        self.pool_size = size

    cdef _free_slots(self):
        if self.pool_size:
            munmap(self.state.slots, self.pool_size * sizeof(Slot))
            munmap(self.state.iov_pool, <size_t>self.pool_size * IOV_LIMIT * sizeof(iovec))
            self.pool_size = 0

    def __dealloc__(self):
        if self.state == NULL or self.running:
            return  # the reactor still uses it
        self._free_slots()
        bell_unmake(&self.state.call_bell)
        free(self.state)
