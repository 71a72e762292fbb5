"""Emulated storage as a `Target`: a volatile cache on a flash translation layer."""

from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EIO, EROFS
from libc.math cimport NAN
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from virtflash.backing.flash_background cimport background_level
from virtflash.backing.flash_cache cimport (
    PART_BYTES,
    as_result,
    begin_call,
    end_call,
    flush_cache,
    flush_whole,
    get,
    put,
    took_bytes,
)
from virtflash.backing.flash_change cimport change_range, refuses_writes, sanitize
from virtflash.backing.flash_lifetime cimport lifetime_of
from virtflash.backing.flash_state cimport SECTOR_BYTES, SECTOR_SHIFT, FlashState
from virtflash.backing.iovec_cursor cimport Cursor
from virtflash.backing.target cimport (
    TARGET_DISCARD,
    TARGET_MORE,
    TARGET_SECURE_ERASE,
    TARGET_SYNC,
    TARGET_UNMAP_ZEROES,
    TARGET_WRITE_ZEROES,
    Call,
    Target,
    TargetProgress,
)
from virtflash.backing.wear_ledger cimport distribute, programmed_by
from virtflash.backing.write_cache cimport (
    cache_data,
    cache_drop,
    cache_find,
    cache_free,
    cache_held_of,
    cache_make,
)
from virtflash.engine.atomics cimport exchange_u32, load_relaxed_u32
from virtflash.engine.system cimport monotonic_ns
from virtflash.flash.ageing cimport pass_time
from virtflash.flash.device cimport Device
from virtflash.flash.emulated cimport EmulatedFlash
from virtflash.flash.physics cimport draw
from virtflash.ftl.checkpoint cimport checkpoint_now
from virtflash.ftl.idle_work cimport erase_ahead
from virtflash.ftl.refresh cimport mark_for_refresh, patrol_step
from virtflash.ftl.safety cimport first_exposed
from virtflash.ftl.state cimport ADVISED_MAX, FLAG_REFRESH, NO_BLOCK, OWNERS, Advised, Ftl, OwnerTable
from virtflash.ftl.translation cimport (
    Translation,
    ftl_flush,
    ftl_note_owners,
    ftl_read,
    ftl_set_owners,
    ftl_sync_begins,
    ftl_synced,
    ftl_work,
    ftl_write,
)

import os
from functools import partial
from time import sleep

from virtflash.ftl.translation import owners_by_block

DISCARD = TARGET_DISCARD
WRITE_ZEROES = TARGET_WRITE_ZEROES
UNMAP_ZEROES = TARGET_UNMAP_ZEROES
SECURE_ERASE = TARGET_SECURE_ERASE

# The calls of a Target


cdef int32_t read_part(FlashState *state, uint64_t sector, const iovec *iov, uint64_t bytes) noexcept nogil:
    cdef Cursor cursor
    cdef uint64_t hits = state.counters.cache_hits
    cdef int32_t result
    cursor.piece, cursor.within = iov, 0
    begin_call(state)
    result = get(state, sector << SECTOR_SHIFT, &cursor, min(bytes, PART_BYTES))
    end_call(state, (state.counters.cache_hits - hits) * state.unit_bytes)
    return result


cdef int32_t write_part(FlashState *state, uint64_t sector, const iovec *iov, uint64_t bytes) noexcept nogil:
    cdef Cursor cursor
    cdef int32_t result
    cdef int32_t flushed = 0
    if refuses_writes(state, sector, bytes >> SECTOR_SHIFT):
        return -EROFS
    cursor.piece, cursor.within = iov, 0
    begin_call(state)
    result = put(state, sector << SECTOR_SHIFT, &cursor, min(bytes, PART_BYTES))
    if took_bytes(result):
        flushed = 0 if state.cache_on else flush_whole(state)
        end_call(state, <uint64_t>result)
    return flushed if flushed else result


cdef int32_t target_read(
    void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes
) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    cdef int32_t result = read_part(state, sector, iov, bytes)
    if result > 0:
        state.counters.bytes_read += <uint64_t>result
    return result


cdef int32_t target_write(
    void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes
) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    cdef int32_t result = write_part(state, sector, iov, bytes)
    if took_bytes(result):
        state.counters.bytes_written += <uint64_t>result
    return result


cdef int32_t target_flush(void *self) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    cdef int32_t result
    if state.read_only:
        return 0
    begin_call(state)
    result = flush_cache(state, state.target.flush_mark)
    if result == 0:
        state.counters.flushes += 1
    end_call(state, 0)
    return result


cdef int32_t target_change(
    void *self, int kind, uint64_t sector, uint64_t sectors, TargetProgress *progress
) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    cdef int32_t result
    begin_call(state)
    result = change_range(state, kind, sector, sectors, progress)
    end_call(state, 0)
    return result


cdef int32_t target_lifetime(void *self, uint8_t *three) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    lifetime_of(state.ftl, state.slc_share, three)
    return 0


cdef uint64_t target_sync_begins(void *self) noexcept nogil:
    return ftl_sync_begins((<FlashState *>self).ftl)


cdef void target_synced(void *self, uint64_t mark) noexcept nogil:
    ftl_synced((<FlashState *>self).ftl, mark)


cdef bint target_work(void *self) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    cdef bint more
    if state.read_only or not state.background:
        return False
    begin_call(state)
    more = ftl_work(state.ftl)
    end_call(state, 0)
    return more


cdef uint64_t target_busy_ns(void *self) noexcept nogil:
    cdef Device *device = (<FlashState *>self).device
    cdef uint64_t busy_ns = 0
    cdef uint32_t die
    for die in range(device.geometry.dies):
        busy_ns = max(busy_ns, device.timing.free_ns[die])
    return busy_ns


cdef uint64_t target_operations(void *self) noexcept nogil:
    return (<FlashState *>self).device.operations


cdef uint64_t target_ready_ns(void *self) noexcept nogil:
    return (<FlashState *>self).ready_ns


cdef uint64_t target_programmed(void *self, uint32_t owner) noexcept nogil:
    cdef FlashState *state = <FlashState *>self
    return programmed_by(&state.ledger, state.ftl, owner)


# The calls of Python, which run on the thread that owns the flash


cdef enum:
    CALL_READ
    CALL_WRITE
    CALL_WRITE_RELIABLY
    CALL_FLUSH
    CALL_CHANGE
    CALL_SANITIZE
    CALL_WORK
    CALL_TIDY
    CALL_LEVEL
    CALL_SYNC_BEGINS
    CALL_SYNCED
    CALL_LIFETIME
    CALL_PROTECT
    CALL_LOSE_POWER
    CALL_AGE
    CALL_CARE
    CALL_SET_OWNERS
    CALL_NOTE_OWNERS
    CALL_PROGRAMMED
    CALL_UNSTABLE

# What somebody who looks after the flash has found, and wants done.
cdef struct Care:
    uint32_t first_block  # of those to erase ahead, if they are free
    uint32_t blocks
    uint32_t frames  # to patrol
    bint round_ended
    uint32_t refresh_count
    uint32_t refresh[ADVISED_MAX]
    uint32_t collect_count
    Advised collect[ADVISED_MAX]

cdef struct Request:
    FlashState *state
    int call
    int kind  # of a change, of protection
    uint32_t owner
    OwnerTable *owners
    bint isolated
    uint32_t small_lanes
    uint8_t *bits
    uint64_t sector
    uint64_t sectors
    iovec piece
    TargetProgress progress
    uint64_t mark
    uint8_t three[3]
    double seconds
    double celsius  # not a number: as it was
    Device *chip
    Care *care
    int32_t result
    uint64_t busy_ns  # until when the real part would be at work


cdef int32_t write_reliably(FlashState *state, Request *request) noexcept nogil:
    """Past the cache: when it completes, the units are on the flash, each as a whole."""
    cdef uint32_t unit = <uint32_t>(request.sector // state.unit_sectors)
    cdef uint32_t end
    cdef char *data
    cdef int status
    cdef int32_t taken = write_part(state, request.sector, &request.piece, request.piece.iov_len)
    if not took_bytes(taken):
        return taken
    end = <uint32_t>((request.sector * SECTOR_BYTES + <uint64_t>taken - 1) // state.unit_bytes) + 1
    while unit < end:
        data = cache_find(&state.cache, unit)
        if data != NULL:
            status = ftl_write(state.ftl, 1, &unit, &data, True)
            if status:
                return as_result(status)
            cache_drop(&state.cache, unit)
        unit += 1
    status = as_result(ftl_flush(state.ftl))
    return status if status else taken


cdef void keep_partly(FlashState *state, uint32_t unit, char *data, uint64_t *random) noexcept nogil:
    """What a cut in the middle of writing a unit leaves: some sectors new, some old."""
    cdef uint64_t chosen = draw(random)
    cdef char *mixed = state.scratch
    cdef uint32_t i
    if ftl_read(state.ftl, unit, 0, state.unit_bytes, mixed):
        return
    for i in range(state.unit_sectors):
        if chosen >> (i % 64) & 1:
            memcpy(mixed + i * SECTOR_BYTES, data + i * SECTOR_BYTES, SECTOR_BYTES)
    ftl_write(state.ftl, 1, &unit, &mixed, True)


cdef void lose_power(FlashState *state, uint64_t random) noexcept nogil:
    """Without its supply: some units reach the flash, in any order, whole or partly; the rest is gone."""
    cdef uint32_t unit
    cdef uint32_t at
    cdef char *data
    cdef uint64_t fate
    while state.cache.held:
        at = state.cache.oldest
        for _ in range(<uint32_t>(draw(&random) % state.cache.held)):
            at = state.cache.place[at].newer
        unit, data = state.cache.place[at].unit, cache_data(&state.cache, at)
        fate = draw(&random) % 4
        if fate == 0:
            ftl_write(state.ftl, 1, &unit, &data, True)
        elif fate == 1:
            keep_partly(state, unit, data, &random)
        cache_drop(&state.cache, unit)


cdef int32_t tidy(FlashState *state) noexcept nogil:
    """What the next start would have to do is done now: a checkpoint that nothing follows."""
    cdef int32_t result = 0 if state.read_only else flush_cache(state, NULL)
    if result or state.read_only or state.ftl.exhausted:
        return result
    return as_result(checkpoint_now(state.ftl, True))


cdef void set_protection(FlashState *state, uint64_t group, uint8_t kind) noexcept nogil:
    if state.protection.groups[group]:
        state.protection.in_force -= 1
    if kind:
        state.protection.in_force += 1
    state.protection.groups[group] = kind


cdef void take_care(FlashState *state, Care *care) noexcept nogil:
    """Advice is taken, some free blocks are erased ahead, and some frames are read for what the correction has to say
    about them."""
    cdef Ftl *ftl = state.ftl
    cdef uint32_t i
    for i in range(care.refresh_count):
        if care.refresh[i] < ftl.blocks:
            mark_for_refresh(ftl, care.refresh[i])
    memcpy(ftl.advised, care.collect, care.collect_count * sizeof(Advised))
    ftl.advised_count, ftl.advised_next = care.collect_count, 0
    if care.blocks:
        erase_ahead(ftl, care.first_block, care.blocks)
    for _ in range(care.frames):
        if ftl.lost_power or patrol_step(ftl):
            care.round_ended = True
            return


cdef uint64_t programmed_exactly(FlashState *state, uint32_t owner) noexcept nogil:
    """With all that waits to be distributed: the sum over all owners is everything."""
    distribute(&state.ledger, state.ftl)
    return programmed_by(&state.ledger, state.ftl, owner)


cdef bint is_unstable(FlashState *state, uint32_t owner) noexcept nogil:
    """Would a flush have to program something? 0: whoever's it is. What waits for the host's disk does not count."""
    cdef uint32_t i
    if cache_held_of(&state.cache, owner) or state.ftl.trims.count:
        return True
    for i in range(state.ftl.stream_count):
        if first_exposed(state.ftl, &state.ftl.streams[i]) != NO_BLOCK:
            return True
    return False


cdef void perform_rare(Request *request) noexcept nogil:
    cdef FlashState *state = request.state
    request.result = 0
    if request.call == CALL_WORK:
        request.result = not state.read_only and ftl_work(state.ftl)
    elif request.call == CALL_TIDY:
        request.result = tidy(state)
    elif request.call == CALL_LEVEL:
        request.result = background_level(state.ftl)
    elif request.call == CALL_SYNC_BEGINS:
        request.mark = ftl_sync_begins(state.ftl)
    elif request.call == CALL_SYNCED:
        ftl_synced(state.ftl, request.mark)
    elif request.call == CALL_LIFETIME:
        target_lifetime(state, request.three)
    elif request.call == CALL_PROTECT:
        set_protection(state, request.sector, <uint8_t>request.kind)
    elif request.call == CALL_LOSE_POWER:
        lose_power(state, request.mark)
    elif request.call == CALL_AGE:
        pass_time(request.chip, request.seconds, request.celsius)
    elif request.call == CALL_CARE:
        take_care(state, request.care)
    elif request.call == CALL_SET_OWNERS:
        ftl_set_owners(state.ftl, request.owners, request.isolated, request.small_lanes)
    elif request.call == CALL_NOTE_OWNERS:
        ftl_note_owners(state.ftl, request.bits)
    elif request.call == CALL_UNSTABLE:
        request.result = is_unstable(state, request.owner)
    elif request.call == CALL_PROGRAMMED:
        request.mark = programmed_exactly(state, request.owner)


cdef void perform(void *argument) noexcept nogil:
    """One call, on the owner's thread."""
    cdef Request *request = <Request *>argument
    cdef FlashState *state = request.state
    state.target.gentle = False
    state.target.now_ns = 0  # whoever asks here waits for no real part; the chip looks at the clock itself
    state.target.caller = state.ftl.caller = state.ftl.step_limit = 0
    if request.call == CALL_READ:
        request.result = read_part(state, request.sector, &request.piece, request.piece.iov_len)
    elif request.call == CALL_WRITE:
        request.result = write_part(state, request.sector, &request.piece, request.piece.iov_len)
    elif request.call == CALL_WRITE_RELIABLY:
        request.result = write_reliably(state, request)
    elif request.call == CALL_FLUSH:
        request.result = target_flush(state)
    elif request.call == CALL_CHANGE:
        request.result = target_change(state, request.kind, request.sector, request.sectors, &request.progress)
    elif request.call == CALL_SANITIZE:
        request.result = sanitize(state, &request.progress.stage)
    else:
        perform_rare(request)
    request.busy_ns = target_busy_ns(state)


cdef class FlashTarget:
    """See flash_target.pyi."""

    cdef FlashState state
    cdef readonly Translation translation
    cdef readonly object capsule  # for the engine: a Target
    cdef public object sync_image  # makes the host's disk come up with the image
    cdef public object owner  # runs a call, a capsule, on the thread that owns the flash; None: whoever calls owns it

    def __cinit__(self):
        memset(&self.state, 0, sizeof(FlashState))

    def __init__(
        self,
        Translation translation not None,
        *,
        uint64_t user_sectors,
        uint64_t cache_bytes=0,
        int sync_fd=-1,
        uint64_t bus_ns_per_kib=0,
        uint64_t protection_group_sectors=0,
        double slc_share=0,
        bint read_only=False,
    ):
        cdef FlashState *state = &self.state
        if self.translation is not None:
            raise ValueError("a target is made once")
        state.ftl = &translation.ftl
        state.unit_bytes, state.unit_sectors = state.ftl.unit_bytes, state.ftl.unit_bytes // SECTOR_BYTES
        state.frame_units = translation.frame_units()
        state.sectors = <uint64_t>state.ftl.units * state.unit_sectors
        state.user_sectors = user_sectors
        if not 0 < user_sectors <= state.sectors:
            raise ValueError(f"{user_sectors} sectors of {state.sectors} that the flash has")
        state.cache_on = state.background = True
        state.read_only = read_only
        state.chip_now_ns = &(<EmulatedFlash?>translation.device).device.now_ns
        state.device = &(<EmulatedFlash>translation.device).device
        state.bus_ns_per_kib, state.slc_share = bus_ns_per_kib, slc_share
        self._make_memory(cache_bytes, protection_group_sectors)
        self._make_target(sync_fd)
        self.sync_image = partial(os.fdatasync, sync_fd)
        self.translation = translation

    cdef int _make_memory(self, uint64_t cache_bytes, uint64_t protection_group_sectors) except -1:
        """At least two frames of cache: one is filled while the other is written."""
        cdef FlashState *state = &self.state
        cdef uint64_t units = cache_bytes // state.unit_bytes + 2 * state.frame_units
        state.protection.group_sectors = protection_group_sectors or state.user_sectors
        state.protection.count = (state.user_sectors - 1) // state.protection.group_sectors + 1
        state.protection.groups = <uint8_t *>calloc(state.protection.count, 1)
        state.scratch = <char *>calloc(1, state.unit_bytes)
        if not cache_make(&state.cache, state.unit_bytes, <uint32_t>units):
            raise MemoryError
        if state.protection.groups == NULL or state.scratch == NULL:
            raise MemoryError
        return 0

    cdef int _make_target(self, int sync_fd) except -1:
        cdef Target *target = &self.state.target
        target.self, target.sync_fd = &self.state, sync_fd
        target.read, target.write, target.flush, target.change = target_read, target_write, target_flush, target_change
        target.lifetime, target.work, target.ready_ns = target_lifetime, target_work, target_ready_ns
        target.sync_begins, target.synced = target_sync_begins, target_synced
        target.host_failed = &self.state.host_failed
        target.busy_ns, target.operations = target_busy_ns, target_operations
        target.programmed = target_programmed
        self.capsule = PyCapsule_New(target, "virtflash.backing.Target", NULL)
        return 0

    def __dealloc__(self):
        cache_free(&self.state.cache)
        free(self.state.protection.groups)
        free(self.state.scratch)

    # Running on the owner's thread

    cdef int _once(self, int call, Request *request) except -1:
        cdef Call run
        request.state, request.call = &self.state, call
        run.function, run.argument = perform, request
        if self.owner is None:
            with nogil:
                perform(request)
        else:
            self.owner(PyCapsule_New(&run, "virtflash.engine.Call", NULL))
        if request.result < 0:
            raise OSError(-request.result, os.strerror(-request.result))
        return 0

    cdef int _sync(self) except -1:
        """The host's disk comes up with what was programmed before this."""
        cdef Request request
        memset(&request, 0, sizeof(request))
        self._once(CALL_SYNC_BEGINS, &request)
        if self.state.target.sync_fd >= 0:
            self._sync_image()
        return self._once(CALL_SYNCED, &request)

    cdef int _sync_image(self) except -1:
        """The kernel tells of a failure once: whoever else waits for the image has to hear of it too."""
        try:
            self.sync_image()
        except OSError:
            exchange_u32(&self.state.host_failed, 1)
            raise
        if load_relaxed_u32(&self.state.host_failed):
            raise OSError(EIO, "an earlier sync of the image failed")
        return 0

    cdef int _take_turn(self, const Request *request) except -1:
        """After a part of something long, and while it is served: not to pile parts up on the real part, where others'
        requests would wait for all of them."""
        cdef uint64_t now = monotonic_ns()
        if self.owner is not None and request.busy_ns > now:
            sleep((request.busy_ns - now) / 1e9)  # nothing tells when it would be done: it is only emulated
        return 0

    cdef int _run(self, int call, Request *request) except -1:
        """Until all of it is done. Other requests have their turn in between."""
        while True:
            self._once(call, request)
            if request.result == TARGET_SYNC:
                self._sync()
            elif request.result != TARGET_MORE:
                return 0
            self._take_turn(request)

    cdef int _transfer(self, int call, uint64_t sector, const void *data, uint64_t bytes) except -1:
        cdef Request request
        memset(&request, 0, sizeof(request))
        request.sector = sector
        request.piece.iov_base, request.piece.iov_len = <void *>data, bytes
        while request.piece.iov_len:
            self._once(call, &request)
            if request.result == TARGET_SYNC:
                self._sync()
                continue
            self._take_turn(&request)
            request.sector += <uint64_t>request.result >> SECTOR_SHIFT
            request.piece.iov_base = <char *>request.piece.iov_base + request.result
            request.piece.iov_len -= <size_t>request.result
        return 0

    cdef int _check(self, uint64_t sector, uint64_t sectors) except -1:
        if sectors > self.state.sectors or sector > self.state.sectors - sectors:
            raise ValueError(f"{sectors} sectors at {sector}: the flash has {self.state.sectors}")
        return 0

    # What Python may ask

    def read(self, uint64_t sector, uint64_t sectors):
        self._check(sector, sectors)
        data = bytearray(sectors << SECTOR_SHIFT)
        self._transfer(CALL_READ, sector, <char *>data, sectors << SECTOR_SHIFT)
        return bytes(data)

    def write(self, uint64_t sector, const uint8_t[::1] data not None, *, bint reliable=False):
        if data.shape[0] % SECTOR_BYTES:
            raise ValueError(f"{data.shape[0]} bytes are no whole number of sectors")
        self._check(sector, data.shape[0] >> SECTOR_SHIFT)
        if data.shape[0]:
            self._transfer(CALL_WRITE_RELIABLY if reliable else CALL_WRITE, sector, &data[0], data.shape[0])

    def change(self, int kind, uint64_t sector, uint64_t sectors):
        cdef Request request
        self._check(sector, sectors)
        memset(&request, 0, sizeof(request))
        request.kind, request.sector, request.sectors = kind, sector, sectors
        self._run(CALL_CHANGE, &request)

    def flush(self):
        self._simply(CALL_FLUSH)
        if self.state.target.sync_fd >= 0:
            self._sync()

    def sync(self):
        if self.state.target.sync_fd >= 0:
            self._sync()

    def tidy(self):
        self._simply(CALL_TIDY)
        if self.state.target.sync_fd >= 0:
            self._sync()

    def unstable(self, uint32_t owner=0):
        cdef Request request
        memset(&request, 0, sizeof(request))
        request.owner = owner
        self._run(CALL_UNSTABLE, &request)
        return request.result != 0

    def background_level(self):
        return self._simply(CALL_LEVEL)

    def sanitize(self):
        self._simply(CALL_SANITIZE)

    def work(self):
        cdef Request request
        memset(&request, 0, sizeof(request))
        self._run(CALL_WORK, &request)
        self._take_turn(&request)
        return request.result != 0

    cdef int _simply(self, int call) except -1:
        cdef Request request
        memset(&request, 0, sizeof(request))
        self._run(call, &request)
        return request.result

    def lifetime(self):
        cdef Request request
        memset(&request, 0, sizeof(request))
        self._run(CALL_LIFETIME, &request)
        return request.three[0], request.three[1], request.three[2]

    def protect(self, uint64_t group, uint8_t kind):
        cdef Request request
        if group >= self.state.protection.count:
            raise ValueError(f"write protection group {group}: there are {self.state.protection.count}")
        memset(&request, 0, sizeof(request))
        request.sector, request.kind = group, kind
        self._run(CALL_PROTECT, &request)

    def protection(self):
        return bytes(self.state.protection.groups[: self.state.protection.count])

    def age(self, double seconds, celsius=None):
        cdef Request request
        memset(&request, 0, sizeof(request))
        request.seconds, request.celsius = seconds, NAN if celsius is None else celsius
        request.chip = &(<EmulatedFlash?>self.translation.device).device
        self._run(CALL_AGE, &request)

    def care(self, *, uint32_t frames=0, refresh=(), collect=(), uint32_t first_block=0, uint32_t blocks=0):
        cdef Request request
        cdef Care care
        memset(&request, 0, sizeof(request))
        memset(&care, 0, sizeof(care))
        for block in refresh[:ADVISED_MAX]:
            care.refresh[care.refresh_count] = block
            care.refresh_count += 1
        for block, erases, valid in collect[:ADVISED_MAX]:
            if block < self.state.ftl.blocks:
                care.collect[care.collect_count] = Advised(block, erases, valid)
                care.collect_count += 1
        care.frames, care.first_block, care.blocks = frames, first_block, blocks
        request.care = &care
        self._run(CALL_CARE, &request)
        self._take_turn(&request)
        return bool(care.round_ended)

    def set_owners(self, uint64_t granule_sectors, owners not None, bint isolated=False):
        cdef Request request
        cdef bytes numbers = bytes(owners)
        cdef OwnerTable table
        if granule_sectors == 0 or granule_sectors % self.state.unit_sectors:
            raise ValueError(f"granules of {granule_sectors} sectors: a multiple of {self.state.unit_sectors}, please")
        if len(numbers) > (self.state.user_sectors + granule_sectors - 1) // granule_sectors:
            raise ValueError(f"{len(numbers)} granules: the user area has no room for so many")
        memset(&request, 0, sizeof(request))
        request.isolated = isolated
        request.small_lanes = self.translation.small_lanes(numbers) if isolated else 0
        self.translation.make_table(&table, granule_sectors // self.state.unit_sectors, numbers)
        request.owners = &table
        try:
            self._run(CALL_SET_OWNERS, &request)
        finally:
            free(table.owners)  # those before

    def owners_of_blocks(self):
        cdef Request request
        bits = bytearray(self.state.ftl.blocks * OWNERS // 8)
        memset(&request, 0, sizeof(request))
        request.bits = <uint8_t *><char *>bits
        self._run(CALL_NOTE_OWNERS, &request)
        return owners_by_block(bits)

    def programmed(self, uint32_t owner):
        cdef Request request
        if owner >= OWNERS:
            raise ValueError(f"owner {owner}: they are numbered up to {OWNERS - 1}")
        memset(&request, 0, sizeof(request))
        request.owner = owner
        self._run(CALL_PROGRAMMED, &request)
        return request.mark

    def lose_power(self, uint64_t random):
        cdef Request request
        memset(&request, 0, sizeof(request))
        request.mark = random
        self._run(CALL_LOSE_POWER, &request)

    @property
    def user_sectors(self):
        return self.state.user_sectors

    @property
    def sectors(self):
        return self.state.sectors

    @property
    def unit_bytes(self):
        return self.state.unit_bytes

    @property
    def frame_bytes(self):
        return self.state.frame_units * self.state.unit_bytes

    @property
    def cache_bytes(self):
        return self.state.cache.places * self.state.unit_bytes

    @property
    def cached_units(self):
        return self.state.cache.held

    @property
    def cache_on(self):
        return self.state.cache_on

    @cache_on.setter
    def cache_on(self, bint value):
        self.state.cache_on = value

    @property
    def background(self):
        return self.state.background

    @background.setter
    def background(self, bint value):
        self.state.background = value

    def condition(self):
        cdef Ftl *ftl = self.state.ftl
        cdef uint32_t block
        cdef uint32_t refresh = 0
        for block in range(ftl.blocks):
            refresh += (ftl.flags[block] & FLAG_REFRESH) != 0
        return {
            "blocks": ftl.blocks,
            "free_blocks": ftl.free_blocks,
            "bad_blocks": ftl.bad_blocks + ftl.doomed_blocks,
            "factory_bad_blocks": ftl.first_bad,
            "spare_blocks": ftl.reserve_blocks,
            "blocks_to_refresh": refresh,
            "read_only": bool(ftl.read_only),
            "exhausted": bool(ftl.exhausted),
            "power_lost": bool(ftl.lost_power),
        }

    def counters(self):
        return dict(self.state.counters)

    def translation_counters(self):
        return dict(self.state.ftl.counters)
