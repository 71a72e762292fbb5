"""Python's view of the compiled data plane. All calls may be made from any thread; those that wait release the GIL."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict

from virtflash.engine.allowance import Allowance

QUEUE_ENTRIES_MAX: int  # of a ring
LATENCY_BOUNDS: list[int]  # upper bounds of the latency buckets, in nanoseconds

class Latency(TypedDict):
    """A histogram: `counts[i]` requests took less than `bounds_ns[i]` nanoseconds and not less than the one before."""

    bounds_ns: list[int]
    counts: list[int]

class QueueStatistics(TypedDict):
    """Counters of one queue since it was created; they only grow, also over restarts of the ring."""

    requests: dict[str, int]  # by kind: those of a request (read, write, flush, discard, ...), and unknown
    bytes_read: int
    bytes_written: int
    bytes_discarded: int  # discard, write zeroes with UNMAP and secure erase
    errors: int  # requests answered IOERR
    refused: int  # of them: by the gate
    unsupported: int  # requests answered UNSUPP
    malformed: int  # chains that carried no request that could be answered with a status
    kicks: int
    interrupts: int
    interrupts_suppressed: int  # completions for which the driver asked not to be interrupted
    batches: int  # times the ring was drained with something in it
    in_flight: int
    latency: dict[str, Latency]  # by kind: read, write, flush, other

class Event(TypedDict):
    """Something that happened in the data plane and that an operator should know. Counted, never queued: no flood."""

    kind: str  # "queue-broken", "malformed", "io-error", "sync-failed", "memory-lost", "kick-lost", "budget-spent",
    # "budget-restored"
    queue: int
    count: int  # since the last call of take_events
    detail: str  # of the last one, in words

class Mapping:
    """A region of guest memory, mapped. Immutable; unmapped when the last table and request that use it are gone.

    ValueError: the region is empty, wraps, is larger than the file behind it, lies on FUSE, or cannot be mapped.
    The file descriptor is not kept: the caller closes its own.
    """

    def __init__(self, fd: int, *, guest_address: int, size: int, user_address: int, offset: int) -> None: ...
    guest_address: int
    size: int
    user_address: int
    offset: int
    lost: bool  # the file was truncated under us; every queue that uses it is stopped

class MemoryTable:
    """Guest memory as a sorted, immutable table of mappings. ValueError: two of them overlap."""

    def __init__(self, mappings: Sequence[Mapping]) -> None: ...
    mappings: tuple[Mapping, ...]

class EmulatedStorage(Protocol):
    """Storage that this process emulates."""

    @property
    def capsule(self) -> object:
        """A PyCapsule called "virtflash.backing.Target", which holds a `Target *` (`backing/target.pxd`) that lives as
        long as this object does."""

class Binding:
    """What the queues of a volume serve: the file below, its bounds, what may be done with it, and its current mode.

    `fd` is -1 for the null backing. `fd_unaligned` takes the requests whose offset or length `fd` (O_DIRECT) cannot;
    -1: none needed. Alignments in bytes. The descriptors stay the caller's and must outlive the binding's queues.

    With `target`, requests are calls of it instead of I/O, and `fd` is -1: the file that holds what the target keeps is
    the target's `sync_fd`. All queues of it belong to one reactor, which makes all calls, and does the target's own
    work while no request waits; only while a queue runs, so nothing is done for a volume that nobody uses. A target has
    one binding at a time.

    ValueError: an argument out of range, a file beside a target, or a lifetime of a target that tells none.
    """

    def __init__(
        self,
        fd: int,
        capacity_sectors: int,
        *,
        fd_unaligned: int = -1,
        block_device: bool = False,
        read_only: bool = False,
        in_memory: bool = False,  # of a file on tmpfs: small transfers are done by the reactor itself
        memory_alignment: int = 1,
        offset_alignment: int = 1,
        serial: bytes = b"",
        discard: bool = False,
        write_zeroes: bool = False,
        zero_range: bool = False,  # fallocate(ZERO_RANGE) works; else zeroes are written
        secure_erase: bool = False,
        max_segments: int = 1,
        max_discard_sectors: int = 0,
        max_write_zeroes_sectors: int = 0,
        max_secure_erase_sectors: int = 0,
        secure_erase_alignment_sectors: int = 1,
        life_time_fd: int = -1,
        pre_eol_fd: int = -1,
        target: EmulatedStorage | None = None,
        lifetime: bool = False,  # of a target: GET_LIFETIME can be offered
        allowance: Allowance | None = None,  # of a target: what its requests may take
        critical: bool = False,  # of a target: others of its reactor yield to it
    ) -> None: ...
    critical: bool
    foreign_most: int  # of a critical one: programs and erases that others had begun before a request was taken
    allowance: Allowance | None
    target: EmulatedStorage | None
    capacity_sectors: int  # settable: it may only grow
    write_through: bool  # settable; every write that completes from then on is stable at completion
    sync_failed: bool  # latched: a write or sync failed, every FLUSH answers IOERR from then on (docs/design.md)
    event_fd: int  # readable while take_events has something to tell

    def set_gate(self, refused: Iterable[str] = (), *, durable: bool = False, frozen: bool = False) -> None:
        """What the platform allows from now on. `refused`: kinds of requests ("write", "discard", "flush") that are
        answered IOERR; `durable`: writes are stable when they complete; `frozen`: of a target, what was accepted is not
        written either: parts that are left fail, and a flush that is not refused answers OK without doing anything."""
    gate: tuple[set[str], bool, bool]  # refused, durable, frozen
    def negotiate(self, features: int) -> None: ...  # driver features; request types follow them
    def sync(self) -> None: ...  # make stable what completed before; OSError when it failed (and latches)
    # Of a target, `sync` flushes it on its reactor, and syncs its file in the caller's thread. Of a frozen volume it
    # writes nothing, and fails without latching where something is not stable.
    def take_events(self) -> list[Event]: ...
    def inject_fault(self, kind: str, error: int) -> None: ...  # kind: read, write, sync, discard; 0 ends it

class Reactor:
    """One operating-system thread that serves queues and never takes the GIL.

    `io`: "auto" probes what the kernel allows, "io_uring" (with deferred task work), "io_uring-plain", "threads".
    OSError: the path asked for is not available.
    """

    def __init__(self, name: str, *, io: str = "auto") -> None: ...
    name: str
    io_path: str  # the path taken: "io_uring", "io_uring-plain" or "threads"
    io_reason: str  # why, in words, when "auto" did not get the first
    wakeups: int  # times the thread slept and was woken
    def run(self, call: object) -> None:
        """Run a call on the reactor's thread, between two turns of its loop, and wait until it is done. `call`: a
        PyCapsule called "virtflash.engine.Call", which holds a `Call *` (`backing/target.pxd`). The call must not wait:
        every volume of the reactor waits for it. ValueError: the reactor is closed, or this is no such capsule."""
    def round(self) -> None: ...  # wait until it has begun a turn of its loop
    def close(self) -> None: ...  # its queues must be stopped

class Queue:
    """A ring bound to a volume. Created once per queue of a volume, started and stopped as front ends come and go.

    ValueError: the volume is a target, and another reactor has queues of it.
    """

    def __init__(self, reactor: Reactor, binding: Binding, index: int) -> None: ...
    running: bool
    broken: bool  # stopped itself, because the ring or its memory cannot be trusted any more
    def start(
        self,
        table: MemoryTable,
        *,
        size: int,
        descriptors: int,  # front-end ("user") addresses of the three parts
        available: int,
        used: int,
        base: int,
        features: int,
        kick: int,
        call: int = -1,
        error: int = -1,
    ) -> None:
        """Serve the ring. Descriptors are duplicated. ValueError: a ring that is not wholly inside one region, is
        misaligned, whose size is no power of two up to 1024, or a kick that is no eventfd, pipe or socket."""
    def stop(self) -> int:
        """Take nothing more, wait until nothing is in flight, return the index of the next available entry."""
    def set_memory(self, table: MemoryTable) -> None: ...  # ValueError as start; requests in flight keep theirs
    def release_memory(self) -> bool:
        """Let go of the tables of which no request is in flight any more, as every `set_memory` does too. False: one
        that was replaced is still in use."""
    def set_call(self, fd: int) -> None: ...  # -1: no interrupts; a new one is signalled once
    def set_error(self, fd: int) -> None: ...
    def statistics(self) -> QueueStatistics: ...

def versions() -> dict[str, str]: ...  # of what was compiled in: cython, liburing, compiler
