"""A volume as a `Target`: some extents of another one, which several volumes share."""

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.errno cimport EIO
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.uio cimport iovec

from virtflash.backing.target cimport TARGET_MORE, Call, Target, TargetProgress
from virtflash.ftl.state cimport OWNERS

cdef enum:
    SECTOR_BYTES = 512

# Sectors `begin` to `end` of the volume lie at `place` of what is below.
cdef struct Piece:
    uint64_t begin
    uint64_t end
    uint64_t place

cdef struct VolumeState:
    Target target
    Target *below
    Piece *pieces  # sorted, without a gap
    uint32_t count
    uint32_t owner


cdef const Piece *piece_at(const VolumeState *state, uint64_t sector) noexcept nogil:
    """The piece that a sector lies in; NULL: the volume has none. No other sector of what is below can be named."""
    cdef uint32_t low = 0
    cdef uint32_t high = state.count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if sector < state.pieces[middle].begin:
            high = middle
        elif sector >= state.pieces[middle].end:
            low = middle + 1
        else:
            return &state.pieces[middle]
    return NULL


cdef Target *below_now(VolumeState *state) noexcept nogil:
    """Its clock is ours, and what it does now it does for our owner."""
    state.below.now_ns, state.below.gentle = state.target.now_ns, state.target.gentle
    state.below.caller, state.below.flush_mark = state.owner, state.target.flush_mark
    return state.below


cdef int32_t transfer(
    VolumeState *state, bint writes, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes
) noexcept nogil:
    """As much of it as lies in the piece that it begins in. The rest is another call."""
    cdef Target *below = below_now(state)
    cdef const Piece *piece = piece_at(state, sector)
    if piece == NULL:
        return -EIO
    bytes = min(bytes, (piece.end - sector) * SECTOR_BYTES)
    sector = piece.place + (sector - piece.begin)
    if writes:
        return below.write(below.self, sector, iov, pieces, bytes)
    return below.read(below.self, sector, iov, pieces, bytes)


cdef int32_t volume_read(
    void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes
) noexcept nogil:
    return transfer(<VolumeState *>self, False, sector, iov, pieces, bytes)


cdef int32_t volume_write(
    void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes
) noexcept nogil:
    return transfer(<VolumeState *>self, True, sector, iov, pieces, bytes)


cdef int32_t volume_change(
    void *self, int kind, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    """A piece of the range, or a part of one, for each call."""
    cdef VolumeState *state = <VolumeState *>self
    cdef Target *below = below_now(state)
    cdef const Piece *piece = piece_at(state, sector + progress.passed)
    cdef uint64_t here
    cdef int32_t result
    if piece == NULL:
        return -EIO
    sector += progress.passed
    here = min(sectors - progress.passed, piece.end - sector)
    result = below.change(below.self, kind, piece.place + (sector - piece.begin), here, progress)
    if result:
        return result
    progress.passed += here
    progress.done = progress.stage = 0
    return TARGET_MORE if progress.passed < sectors else 0


cdef int32_t volume_flush(void *self) noexcept nogil:
    cdef Target *below = below_now(<VolumeState *>self)
    return below.flush(below.self)


cdef int32_t volume_lifetime(void *self, uint8_t *three) noexcept nogil:
    cdef Target *below = below_now(<VolumeState *>self)
    return below.lifetime(below.self, three)


cdef uint64_t volume_sync_begins(void *self) noexcept nogil:
    cdef Target *below = (<VolumeState *>self).below
    return below.sync_begins(below.self)


cdef void volume_synced(void *self, uint64_t mark) noexcept nogil:
    cdef Target *below = (<VolumeState *>self).below
    below.synced(below.self, mark)


cdef bint volume_work(void *self) noexcept nogil:
    cdef Target *below = below_now(<VolumeState *>self)
    return below.work(below.self)


cdef uint64_t volume_ready_ns(void *self) noexcept nogil:
    cdef Target *below = (<VolumeState *>self).below
    return below.ready_ns(below.self)


cdef struct Replacement:
    VolumeState *state
    VolumeState *other


cdef void swap_pieces(void *argument) noexcept nogil:
    """On the thread that looks them up."""
    cdef Replacement *replacement = <Replacement *>argument
    cdef VolumeState *state = replacement.state
    cdef VolumeState *other = replacement.other
    state.pieces, other.pieces = other.pieces, state.pieces
    state.count, other.count = other.count, state.count


cdef uint64_t volume_busy_ns(void *self) noexcept nogil:
    cdef Target *below = (<VolumeState *>self).below
    return below.busy_ns(below.self)


cdef uint64_t volume_operations(void *self) noexcept nogil:
    cdef Target *below = (<VolumeState *>self).below
    return below.operations(below.self)


cdef uint64_t volume_programmed(void *self, uint32_t owner) noexcept nogil:
    """A volume has one owner."""
    cdef VolumeState *state = <VolumeState *>self
    return state.below.programmed(state.below.self, state.owner)


cdef class VolumeTarget:
    """See volume_target.pyi."""

    cdef VolumeState state
    cdef readonly object capsule
    cdef readonly object below
    cdef readonly uint64_t sectors

    def __cinit__(self):
        memset(&self.state, 0, sizeof(VolumeState))

    def __init__(self, below not None, pieces, uint32_t owner=0):
        if self.state.pieces != NULL:
            raise ValueError("a volume's target is made once")
        if owner >= OWNERS:
            raise ValueError(f"owner {owner}: they are numbered up to {OWNERS - 1}")
        self.state.owner = owner
        self.state.below = <Target *>PyCapsule_GetPointer(below.capsule, "virtflash.backing.Target")
        self._take(list(pieces))
        self._make_target()
        self.below = below
        self.capsule = PyCapsule_New(&self.state.target, "virtflash.backing.Target", NULL)

    cdef int _take(self, list pieces) except -1:
        cdef uint64_t place
        cdef uint64_t length
        self.state.pieces = <Piece *>calloc(max(len(pieces), 1), sizeof(Piece))
        if self.state.pieces == NULL:
            raise MemoryError
        for place, length in pieces:
            if length == 0:
                raise ValueError(f"an extent at sector {place} that is empty")
            self.state.pieces[self.state.count] = Piece(self.sectors, self.sectors + length, place)
            self.state.count += 1
            self.sectors += length
        if self.sectors == 0:
            raise ValueError("a volume without extents")
        return 0

    cdef int _make_target(self) except -1:
        cdef Target *target = &self.state.target
        target.self, target.sync_fd = &self.state, self.state.below.sync_fd
        target.host_failed = self.state.below.host_failed
        if self.state.below.busy_ns != NULL:
            target.busy_ns = volume_busy_ns
        if self.state.below.operations != NULL:
            target.operations = volume_operations
        target.read, target.write, target.flush, target.change = volume_read, volume_write, volume_flush, volume_change
        target.lifetime, target.work, target.ready_ns = volume_lifetime, volume_work, volume_ready_ns
        target.sync_begins, target.synced = volume_sync_begins, volume_synced
        if self.state.below.programmed != NULL:
            target.programmed = volume_programmed
        return 0

    def extend(self, pieces):
        cdef VolumeTarget longer = VolumeTarget(self.below, pieces)
        cdef Replacement replacement
        cdef Call call
        if longer.sectors < self.sectors:
            raise ValueError(f"{longer.sectors} sectors: a volume of {self.sectors} only grows")
        replacement.state, replacement.other = &self.state, &longer.state
        call.function, call.argument = swap_pieces, &replacement
        if self.below.owner is None:
            swap_pieces(&replacement)
        else:
            self.below.owner(PyCapsule_New(&call, "virtflash.engine.Call", NULL))
        self.sectors = longer.sectors

    def __dealloc__(self):
        free(self.state.pieces)
