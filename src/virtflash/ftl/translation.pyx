# cython: language_level=3
"""The flash translation layer as Python and other compiled modules see it: see `translation.pyi` and `.pxd`."""

import os

from libc.errno cimport EIO, EROFS
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from virtflash.flash.chip cimport FLASH_NOR, FLASH_NOWHERE, FLASH_OK, FLASH_POWER_LOST, Geometry
from virtflash.flash.emulated cimport EmulatedFlash
from virtflash.ftl.checkpoint cimport checkpoint_now, map_slices, table_slices
from virtflash.ftl.collection cimport READ_ATTEMPTS
from virtflash.ftl.frame cimport (
    FLASH_IS_BAD,
    RECORD_WORDS_MIN,
    TAIL_RECORD_BYTES,
    lay_frames,
    read_slot,
    record_bytes,
    simple_operation,
)
from virtflash.ftl.idle_work cimport work_step
from virtflash.ftl.isolation cimport adopt_owners, note_owners
from virtflash.ftl.owners cimport owner_of
from virtflash.ftl.purge cimport EVERYTHING, purge
from virtflash.ftl.recovery cimport FOUND_NONSENSE, FOUND_NOTHING, Recovery, end_recovery, make_durable, recover
from virtflash.ftl.refresh cimport mark_for_refresh, note_read, patrol_step
from virtflash.ftl.safety cimport pad_exposed
from virtflash.ftl.state cimport *  # every structure and constant: this is their home in Python
from virtflash.ftl.trim_log cimport program_trims, trim_units
from virtflash.ftl.write_path cimport write_units

USES = ("free", "open", "closed", "bad")
MOVES = ("none", "level", "refresh", "retire", "collect", "purge")


cdef int ftl_read(Ftl *ftl, uint32_t unit, uint32_t offset, uint32_t length, char *into) noexcept nogil:
    cdef uint32_t physical = ftl.map[unit]
    cdef uint32_t share = 0
    cdef uint32_t block
    cdef int _attempt
    cdef int status
    ftl.counters.read_units += 1
    if physical >= UNIT_LIMIT:
        memset(into, 0, length)
        return -EIO if physical == <uint32_t>UNIT_LOST else 0
    block = physical // ftl.block_units
    for _attempt in range(READ_ATTEMPTS):
        status = read_slot(ftl, block, physical - block * ftl.block_units, offset, length, into, &share)
        note_read(ftl, block, share)
        if status == FLASH_OK:
            return 0
        if status == FLASH_POWER_LOST:
            return -EIO
    ftl.counters.failed_reads += 1
    mark_for_refresh(ftl, block)
    return -EIO


cdef int ftl_write(Ftl *ftl, uint32_t count, const uint32_t *units, char **data, bint small) noexcept nogil:
    return write_units(ftl, count, units, data, small)


cdef bint ftl_is_mapped(const Ftl *ftl, uint32_t unit) noexcept nogil:
    return ftl.map[unit] < UNIT_LIMIT or ftl.map[unit] == <uint32_t>UNIT_LOST


cdef int ftl_trim(Ftl *ftl, uint32_t first, uint32_t count) noexcept nogil:
    if ftl.lost_power:
        return -EIO
    return trim_units(ftl, first, count)


cdef int note_end(Ftl *ftl) noexcept nogil:
    """Blocks that failed since the last checkpoint are known to be doomed by nobody else: a later mount shall not take
    writes again."""
    cdef int result
    if not ftl.read_only or ftl.end_noted:
        return 0
    result = checkpoint_now(ftl, False)
    ftl.end_noted = result == 0
    return 0 if result == -EROFS else result


cdef int ftl_flush(Ftl *ftl) noexcept nogil:
    cdef int result
    if ftl.lost_power:
        return -EIO
    result = program_trims(ftl)
    if result == 0 and pad_exposed(ftl) != FLASH_OK:
        result = -EIO
    return result if result else note_end(ftl)


cdef int ftl_secure_trim(Ftl *ftl, uint32_t first, uint32_t count, uint64_t *step) noexcept nogil:
    cdef int result = 0
    if ftl.lost_power:
        return -EIO
    if step[0] == 0:
        result = trim_units(ftl, first, count)
        if result == 0:
            result = program_trims(ftl)
    return result if result else purge(ftl, first, count, step)


cdef int ftl_sanitize(Ftl *ftl, uint64_t *step) noexcept nogil:
    cdef int result = 0
    if ftl.lost_power:
        return -EIO
    if step[0] == 0:
        result = program_trims(ftl)
    return result if result else purge(ftl, 0, EVERYTHING, step)


cdef bint ftl_work(Ftl *ftl) noexcept nogil:
    return work_step(ftl)


cdef uint64_t ftl_sync_begins(const Ftl *ftl) noexcept nogil:
    return ftl.sequence


cdef void ftl_synced(Ftl *ftl, uint64_t mark) noexcept nogil:
    if mark > ftl.synced:
        ftl.synced = mark


cdef void ftl_set_owners(Ftl *ftl, OwnerTable *table, bint isolated, uint32_t small_lanes) noexcept nogil:
    adopt_owners(ftl, table, isolated, small_lanes)


cdef void ftl_note_owners(const Ftl *ftl, uint8_t *bits) noexcept nogil:
    note_owners(ftl, bits)


def owners_by_block(bits not None):
    """What `ftl_note_owners` has noted: the owners of each block."""
    cdef uint32_t each = OWNERS // 8
    numbers = [int.from_bytes(bits[at:at + each], "little") for at in range(0, len(bits), each)]
    return [tuple(i for i in range(number.bit_length()) if number >> i & 1) for number in numbers]


cdef uint32_t joined(const Ftl *ftl, uint32_t count, uint32_t *units, char **data) noexcept:
    """So many are written together: where owners are kept apart, the first one's, which are put in front."""
    cdef uint32_t first = 1
    cdef uint32_t i
    if not ftl.isolated:
        return count
    for i in range(1, count):
        if owner_of(ftl, units[i]) == owner_of(ftl, units[0]):
            units[i], units[first] = units[first], units[i]
            data[i], data[first] = data[first], data[i]
            first += 1
    return first


class TranslationError(Exception):
    """The flash cannot be formatted, mounted or written; one line."""


cdef void *big_array(uint64_t bytes_) except NULL:
    """Zeroed memory of its own pages, given back when it is freed."""
    cdef void *memory = mmap(NULL, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if memory == MAP_FAILED:
        raise MemoryError
    return memory


cdef class Translation:
    def __cinit__(self):
        memset(&self.ftl, 0, sizeof(Ftl))

    def __init__(self):
        if self.device is None:
            raise TypeError("use Translation.format or Translation.mount")

    @classmethod
    def format(cls, EmulatedFlash device, uint64_t units, *, unit_bytes=4096, reserve_blocks, **settings):
        cdef Translation self = Translation.__new__(Translation)
        cdef uint32_t block
        cdef uint32_t bad = 0
        self._prepare(device, units, unit_bytes, settings)
        for block in range(self.ftl.blocks):
            simple_operation(&self.ftl, FLASH_IS_BAD, block, 0, &bad)
            self.ftl.use[block] = BLOCK_BAD if bad else BLOCK_FREE
            self.ftl.bad_blocks += bad != 0
        self.ftl.first_bad = self.ftl.bad_blocks
        self.ftl.free_blocks = self.ftl.blocks - self.ftl.bad_blocks
        self.ftl.reserve_blocks = reserve_blocks
        self._check_room()
        self._finish(checkpoint_now(&self.ftl, True), "formatted")
        return self

    @classmethod
    def mount(
        cls, EmulatedFlash device, uint64_t units, *, unit_bytes=4096, read_only=False, reserve_blocks=0, **settings
    ):
        cdef Translation self = Translation.__new__(Translation)
        cdef Recovery recovery
        cdef bint may_write = not read_only
        cdef int result
        self._prepare(device, units, unit_bytes, settings)
        self.ftl.reserve_blocks = reserve_blocks
        memset(&recovery, 0, sizeof(Recovery))
        recovery.first = <uint64_t *>calloc(self.ftl.blocks, sizeof(uint64_t))
        recovery.meta = <uint8_t *>calloc(self.ftl.blocks, 1)
        recovery.needed = <uint8_t *>calloc(self.ftl.blocks, 1)
        recovery.full = <uint8_t *>calloc(self.ftl.blocks, 1)
        recovery.unseen = <uint8_t *>calloc(self.ftl.blocks, 1)
        recovery.spans = <uint8_t *>calloc(self.ftl.blocks, 1)
        try:
            if self.ftl.settings.host_sync and may_write:
                device.sync()  # what is found now may come to be relied on
            if recovery.first == NULL or recovery.meta == NULL or recovery.needed == NULL:
                raise MemoryError
            if recovery.full == NULL or recovery.unseen == NULL or recovery.spans == NULL:
                raise MemoryError
            with nogil:
                result = recover(&self.ftl, &recovery, may_write)
            while result == FTL_SYNC:
                self.sync()
                with nogil:
                    result = make_durable(&self.ftl, &recovery)
            if result == -EROFS:
                self.ftl.read_only = self.ftl.exhausted = True  # what was accepted can still be read
                result = 0
        finally:
            free(recovery.first)
            free(recovery.meta)
            free(recovery.needed)
            free(recovery.full)
            free(recovery.unseen)
            free(recovery.spans)
            end_recovery(&recovery)
        self.clean = recovery.clean
        self.torn_frames = recovery.torn
        self.replayed_frames = recovery.count
        self._finish(result, "mounted")
        return self

    def _finish(self, int result, done):
        """After `checkpoint_now`, or what ends in it."""
        while result == FTL_SYNC:
            self.sync()
            result = checkpoint_now(&self.ftl, False)
            if result == 0 and pad_exposed(&self.ftl) != FLASH_OK:
                result = -EIO
        if result == FOUND_NOTHING:
            raise TranslationError("there is nothing on this flash that a translation layer wrote; format it first")
        if result == FOUND_NONSENSE:
            raise TranslationError("the metadata on this flash contradicts itself")
        if result:
            raise OSError(-result, f"the flash could not be {done}: {os.strerror(-result)}")
        if self.ftl.settings.host_sync:
            self.sync()

    def _prepare(self, EmulatedFlash device, uint64_t units, uint32_t unit_bytes, dict settings):
        cdef Ftl *ftl = &self.ftl
        cdef int i
        self.device = device
        ftl.chip = &device.chip
        ftl.unit_bytes = unit_bytes
        ftl.blocks = device.chip.geometry.blocks
        self._lay_out()
        if not 0 < units <= <uint64_t>ftl.blocks * ftl.block_units:
            raise TranslationError(f"{units} units on a flash that holds {ftl.blocks} x {ftl.block_units}")
        ftl.units = <uint32_t>units
        self._set(**settings)
        self._take_memory()
        ftl.stream_count = STREAM_COUNT
        for i in range(STREAMS_MOST):
            ftl.streams[i].block = NO_BLOCK
            ftl.streams[i].kind = i if i < STREAM_COUNT else (i - STREAM_COUNT) % LANE_KINDS
            ftl.streams[i].owner = 0 if i < STREAM_COUNT else (i - STREAM_COUNT) // LANE_KINDS + 1
        ftl.move.block = NO_BLOCK

    def _lay_out(self):
        cdef Ftl *ftl = &self.ftl
        cdef const Geometry *geometry = &ftl.chip.geometry
        cdef FrameLayout *layout
        self._check_sizes(geometry.page_bytes, ftl.unit_bytes)
        lay_frames(&ftl.layouts[0], geometry, ftl.unit_bytes, False)
        if geometry.slc_page_bytes >= ftl.unit_bytes and geometry.page_bytes >= ftl.unit_bytes:
            lay_frames(&ftl.layouts[1], geometry, ftl.unit_bytes, True)
        layout = &ftl.layouts[0]
        ftl.block_units = layout.units * layout.frames
        if ftl.layouts[1].units * ftl.layouts[1].frames > ftl.block_units:
            ftl.block_units = ftl.layouts[1].units * ftl.layouts[1].frames
        room = TAIL_RECORD_BYTES if layout.in_tail else geometry.spare_bytes
        needed = record_bytes(max(layout.units, <uint32_t>RECORD_WORDS_MIN))
        if room < needed or room > SPARE_BYTES_MAX:
            raise TranslationError(f"{room} bytes of spare in a page: the frame's record needs {needed}")
        if layout.units > FRAME_UNITS_MAX or layout.frames < 2 or layout.frames > 65535:
            raise TranslationError("no frames can be laid in such a geometry")
        self._check_slc_mode()
        if <uint64_t>ftl.blocks * ftl.block_units >= UNIT_LIMIT:
            raise TranslationError("the flash has more mapping units than can be numbered")
        if geometry.pair_distance:
            self._find_partners()

    def _check_slc_mode(self):
        """What holds a frame of the normal mode, holds one of SLC mode."""
        cdef const FrameLayout *normal = &self.ftl.layouts[0]
        cdef const FrameLayout *slc = &self.ftl.layouts[1]
        if slc.frames == 0:  # there is none, or none that is of use
            return
        if slc.page_bytes % self.ftl.unit_bytes or slc.units > normal.units or not 2 <= slc.frames <= 65535:
            raise TranslationError("no frames can be laid in the SLC mode of such a geometry")

    @staticmethod
    def _check_sizes(page_bytes, unit_bytes):
        larger, smaller = max(page_bytes, unit_bytes), min(page_bytes, unit_bytes)
        if unit_bytes < 512 or unit_bytes % 512 or larger % smaller:
            raise TranslationError(f"units of {unit_bytes} bytes do not fit pages of {page_bytes}")

    def _find_partners(self):
        cdef Ftl *ftl = &self.ftl
        cdef const Geometry *geometry = &ftl.chip.geometry
        cdef uint32_t page
        if ftl.layouts[0].pages != 1 or geometry.pair_distance >= RECENT_FRAMES:
            raise TranslationError("pages that endanger others must hold whole units, and lie close together")
        ftl.partner = <uint16_t *>malloc(geometry.pages_per_block * sizeof(uint16_t))
        if ftl.partner == NULL:
            raise MemoryError
        memset(ftl.partner, 0xff, geometry.pages_per_block * sizeof(uint16_t))
        for page in range(geometry.pages_per_block):
            if geometry.endangers[page] != FLASH_NOWHERE:
                ftl.partner[geometry.endangers[page]] = page

    def _set(
        self, *, separate=True, by_age=True, levelling=True, refresh_share=75, worn_share=50, refresh_reads=100_000,
        refresh_hours=0, host_sync=False, checkpoint_frames=0,
    ):
        self.ftl.settings.separate = separate
        self.ftl.settings.by_age = by_age
        self.ftl.settings.levelling = levelling
        self.ftl.settings.refresh_share, self.ftl.settings.worn_share = refresh_share, worn_share
        self.ftl.settings.refresh_reads = refresh_reads
        self.ftl.settings.refresh_hours = refresh_hours
        self.ftl.settings.host_sync = host_sync
        self.ftl.checkpoint.interval = checkpoint_frames

    def _take_memory(self):
        cdef Ftl *ftl = &self.ftl
        cdef uint64_t blocks = ftl.blocks
        cdef uint32_t frame_bytes = ftl.layouts[0].units * ftl.unit_bytes
        self.memory = <char *>big_array(blocks * 32)
        self.memory_bytes = blocks * 32
        ftl.dead_since = <uint64_t *>self.memory
        ftl.valid = <uint32_t *>(self.memory + 8 * blocks)
        ftl.erases = <uint32_t *>(self.memory + 12 * blocks)
        ftl.reads = <uint32_t *>(self.memory + 16 * blocks)
        ftl.hours = <uint32_t *>(self.memory + 20 * blocks)
        ftl.written = <uint16_t *>(self.memory + 24 * blocks)
        ftl.use = <uint8_t *>(self.memory + 26 * blocks)
        ftl.flags = <uint8_t *>(self.memory + 27 * blocks)
        ftl.owner = <uint8_t *>(self.memory + 28 * blocks)
        ftl.map = <uint32_t *>big_array(<uint64_t>ftl.units * 4)
        memset(ftl.map, 0xff, <uint64_t>ftl.units * 4)
        ftl.move.units = <uint32_t *>malloc(<uint64_t>ftl.block_units * 4)
        ftl.frame_buffer = <char *>calloc(1, frame_bytes)
        ftl.padding = <char *>malloc(ftl.unit_bytes)
        if ftl.move.units == NULL or ftl.frame_buffer == NULL or ftl.padding == NULL:
            raise MemoryError
        memset(ftl.padding, 0, ftl.unit_bytes)
        slices = map_slices(ftl) + table_slices(ftl)
        if ftl.checkpoint.interval == 0:
            ftl.checkpoint.interval = max(<uint64_t>ftl.blocks * ftl.layouts[0].frames // 16, 8 * <uint64_t>slices)
        ftl.checkpoint.pace = min(max(ftl.checkpoint.interval // (2 * slices), 1), 1 << 30)

    def _check_room(self):
        """At format: are there blocks enough for the units, the metadata and what has to stay free?"""
        from virtflash.ftl.sizing import blocks_needed

        cdef Ftl *ftl = &self.ftl
        needed = blocks_needed(self.sizes, ftl.unit_bytes, ftl.units, ftl.blocks) + ftl.reserve_blocks
        if ftl.free_blocks < needed:
            raise TranslationError(f"{ftl.free_blocks} good blocks: {needed} are needed for {ftl.units} units")

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.memory_bytes)
        if self.ftl.map != NULL:
            munmap(self.ftl.map, <uint64_t>self.ftl.units * 4)
        free(self.ftl.move.units)
        free(self.ftl.frame_buffer)
        free(self.ftl.padding)
        free(self.ftl.partner)
        free(self.ftl.table.owners)

    cdef uint32_t frame_units(self) noexcept nogil:
        return self.ftl.layouts[0].units

    # For Python: tests, the laboratory, tools. The owner of the flash calls, and nobody else at the same time.

    @property
    def sizes(self):
        from virtflash.ftl.sizing import ChipSizes

        cdef const Geometry *geometry = &self.ftl.chip.geometry
        kind = "nor" if geometry.kind == FLASH_NOR else "nand"
        return ChipSizes(kind, geometry.page_bytes, geometry.pages_per_block, geometry.slc_page_bytes,
                         geometry.slc_pages_per_block)

    @property
    def units(self):
        return self.ftl.units

    @property
    def unit_bytes(self):
        return self.ftl.unit_bytes

    @property
    def units_of_frame(self):
        return self.ftl.layouts[0].units

    @property
    def block_units(self):
        return self.ftl.layouts[0].units * self.ftl.layouts[0].frames

    @property
    def read_only(self):
        return bool(self.ftl.read_only)

    @property
    def spare_blocks(self):
        used = self.ftl.bad_blocks - self.ftl.first_bad + self.ftl.doomed_blocks
        return max(self.ftl.reserve_blocks - used, 0), self.ftl.reserve_blocks

    @property
    def generation(self):
        return self.ftl.generation

    @property
    def sequence(self):
        return self.ftl.sequence

    @property
    def hours(self):
        return self.ftl.chip.hours(self.ftl.chip)

    def sync(self):
        cdef uint64_t mark = self.ftl.sequence
        self.device.sync()
        ftl_synced(&self.ftl, mark)

    def _check(self, int result, what):
        if result == FTL_NO_ROOM:
            raise OSError(28, f"{what}: the host's disk is full")
        if result:
            raise OSError(-result, f"{what}: {os.strerror(-result)}")

    def _check_range(self, first, count):
        if first < 0 or count < 0 or first + count > self.ftl.units:
            raise ValueError(f"units {first} to {first + count}: there are {self.ftl.units}")

    def read(self, uint32_t unit):
        self._check_range(unit, 1)
        buffer = bytearray(self.ftl.unit_bytes)
        cdef char *into = buffer
        self._check(ftl_read(&self.ftl, unit, 0, self.ftl.unit_bytes, into), f"unit {unit}")
        return bytes(buffer)

    def is_mapped(self, uint32_t unit):
        self._check_range(unit, 1)
        return bool(ftl_is_mapped(&self.ftl, unit))

    def write(self, units, data, *, small=False):
        """`data`: a bytes object for each unit; up to a frame of them."""
        cdef uint32_t numbers[FRAME_UNITS_MAX]
        cdef char *pieces[FRAME_UNITS_MAX]
        cdef uint32_t count = len(units)
        cdef bint few = small
        cdef int result
        cdef bytes piece
        if count == 0 or count > self.ftl.layouts[0].units or len(data) != count or len(set(units)) != count:
            raise ValueError(f"1 to {self.ftl.layouts[0].units} different units are written at once")
        for i in range(count):
            self._check_range(units[i], 1)
            piece = data[i]
            if len(piece) != self.ftl.unit_bytes:
                raise ValueError(f"a unit of {len(piece)} bytes: it has {self.ftl.unit_bytes}")
            numbers[i] = units[i]
            pieces[i] = piece
        if self.ftl.read_only:
            self._check(-EROFS, "write")
        i = 0
        while i < count:
            several = joined(&self.ftl, count - i, &numbers[i], &pieces[i])
            result = write_units(&self.ftl, several, &numbers[i], &pieces[i], few)
            if result == FTL_SYNC:
                self.sync()
                continue
            self._check(result, "write")
            i += several

    cdef int make_table(self, OwnerTable *table, uint64_t granule_units, bytes owners) except -1:
        if granule_units == 0:
            raise ValueError("granules of no unit")
        if len(owners) > (self.ftl.units - 1) // granule_units + 1:
            raise ValueError(f"{len(owners)} granules of {granule_units} units: there are {self.ftl.units}")
        if max(owners, default=0) >= OWNERS:
            raise ValueError(f"owner {max(owners)}: they are numbered up to {OWNERS - 1}")
        table.granules = <uint32_t>len(owners)
        table.granule_units = <uint32_t>min(granule_units, <uint64_t>self.ftl.units)
        table.owners = <uint8_t *>malloc(table.granules + 1)
        if table.owners == NULL:
            raise MemoryError
        memcpy(table.owners, <const char *>owners, table.granules)
        return 0

    def small_lanes(self, owners):
        from virtflash.ftl.sizing import blocks_needed, small_lanes

        cdef Ftl *ftl = &self.ftl
        good = ftl.blocks - ftl.first_bad - ftl.reserve_blocks
        spare = good - blocks_needed(self.sizes, ftl.unit_bytes, ftl.units, ftl.blocks)
        return small_lanes(len(set(owners) - {0}), max(spare, 0))

    def set_owners(self, uint64_t granule_units, owners not None, *, bint isolated=False):
        cdef OwnerTable table
        cdef bytes numbers = bytes(owners)
        cdef uint32_t lanes = self.small_lanes(numbers) if isolated else 0
        self.make_table(&table, granule_units, numbers)
        adopt_owners(&self.ftl, &table, isolated, lanes)
        free(table.owners)

    def owners_of_blocks(self):
        bits = bytearray(self.ftl.blocks * OWNERS // 8)
        note_owners(&self.ftl, <uint8_t *><char *>bits)
        return owners_by_block(bits)

    @property
    def moved_by_owner(self):
        return {
            MOVES[why]: {i: self.ftl.programmed.moved_units[why][i] for i in range(OWNERS)
                         if self.ftl.programmed.moved_units[why][i]}
            for why in range(1, MOVE_KINDS)
        }

    def write_random(self, uint64_t frames, uint64_t seed, uint32_t first=0, count=None):
        """Write `frames` full frames of random units out of a range: a load for measuring. Returns the next seed."""
        cdef uint32_t numbers[FRAME_UNITS_MAX]
        cdef char *pieces[FRAME_UNITS_MAX]
        cdef uint32_t of = self.ftl.units - first if count is None else count
        cdef uint32_t each = self.ftl.layouts[0].units
        cdef uint64_t state = seed * 2 + 1
        cdef uint64_t _done
        cdef uint32_t i
        cdef int result = 0
        self._check_range(first, of)
        if self.ftl.isolated:
            raise ValueError("random units may belong to several owners, which are kept apart")
        with nogil:
            for _done in range(frames):
                for i in range(each):
                    state = state * 6364136223846793005ULL + 1442695040888963407ULL
                    # One unit from each part of the range, so that no two are the same.
                    numbers[i] = first + i * (of // each) + <uint32_t>((state >> 33) % (of // each))
                    pieces[i] = self.ftl.padding
                result = write_units(&self.ftl, each, numbers, pieces, False)
                if result:
                    break
        self._check(result, "write")
        return state >> 1

    def trim(self, uint32_t first, uint32_t count):
        self._check_range(first, count)
        if self.ftl.read_only:
            self._check(-EROFS, "trim")
        self._check(self._with_sync(ftl_trim, first, count), "trim")

    cdef int _with_sync(
        self, int (*call)(Ftl *, uint32_t, uint32_t) noexcept nogil, uint32_t first, uint32_t count
    ) except? -9:
        cdef int result
        while True:
            result = call(&self.ftl, first, count)
            if result != FTL_SYNC:
                return result
            self.sync()

    def flush(self):
        cdef int result
        while True:
            result = ftl_flush(&self.ftl)
            if result != FTL_SYNC:
                break
            self.sync()
        self._check(result, "flush")
        if self.ftl.settings.host_sync:
            self.sync()

    def secure_trim(self, uint32_t first, uint32_t count):
        cdef uint64_t step = 0
        cdef int result = FTL_MORE
        self._check_range(first, count)
        while result == FTL_MORE or result == FTL_SYNC:
            result = ftl_secure_trim(&self.ftl, first, count, &step)
            if result == FTL_SYNC:
                self.sync()
        self._check(result, "secure trim")

    def sanitize(self):
        cdef uint64_t step = 0
        cdef int result = FTL_MORE
        while result == FTL_MORE or result == FTL_SYNC:
            result = ftl_sanitize(&self.ftl, &step)
            if result == FTL_SYNC:
                self.sync()
        self._check(result, "sanitise")

    def work(self, uint32_t steps=1_000_000):
        """Idle work, up to so many steps; returns how many there were to do."""
        cdef uint32_t done = 0
        with nogil:
            while done < steps and ftl_work(&self.ftl):
                done += 1
        return done

    def patrol(self, uint32_t frames):
        """Read so many of the frames that hold data, and mark for refresh what needs it. True: a round is complete."""
        cdef uint32_t _frame
        cdef bint ended = False
        with nogil:
            for _frame in range(frames):
                if self.ftl.lost_power or patrol_step(&self.ftl):
                    ended = True
                    break
        return ended

    def advise_refresh(self, uint32_t block, uint64_t generation):
        """Judgement from a snapshot: refresh this block. False: the block table has changed too much since."""
        if block >= self.ftl.blocks or generation > self.ftl.generation or self.ftl.use[block] != BLOCK_CLOSED:
            return False
        mark_for_refresh(&self.ftl, block)
        return bool(self.ftl.flags[block] & FLAG_REFRESH)

    def advise_collect(self, blocks):
        """Judgement from a snapshot: (block, erases, valid units) of those to collect next, best first."""
        cdef uint32_t count = 0
        for block, erases, valid in blocks:
            if block < self.ftl.blocks and count < ADVISED_MAX:
                self.ftl.advised[count] = Advised(block, erases, valid)
                count += 1
        self.ftl.advised_count, self.ftl.advised_next = count, 0

    def checkpoint(self, *, clean=False):
        cdef int result = FTL_SYNC
        cdef bint last = clean
        if last:
            self.flush()
        while True:
            result = checkpoint_now(&self.ftl, last)
            if result != FTL_SYNC:
                break
            self.sync()
        self._check(result, "checkpoint")
        if self.ftl.settings.host_sync:
            self.sync()

    def close(self):
        """A clean stop: the next mount has nothing to replay."""
        if self.ftl.lost_power or self.ftl.exhausted:
            return
        self.checkpoint(clean=True)

    @property
    def counters(self):
        cdef Counters *counted = &self.ftl.counters
        moved = {MOVES[i]: counted.moved_units[i] for i in range(1, MOVE_KINDS)}
        return {
            "host_units": counted.host_units,
            "moved_units": moved,
            "padding_units": counted.padding_units,
            "meta_frames": counted.meta_frames,
            "frames": counted.frames,
            "erases": counted.erases,
            "slc_erases": counted.slc_erases,
            "trimmed_units": counted.trimmed_units,
            "lost_units": counted.lost_units,
            "read_units": counted.read_units,
            "corrected_bits": counted.corrected_bits,
            "failed_reads": counted.failed_reads,
            "failed_programs": counted.failed_programs,
            "failed_erases": counted.failed_erases,
            "checkpoints": counted.checkpoints,
            "refreshed_blocks": counted.refreshed_blocks,
            "levelled_blocks": counted.levelled_blocks,
            "purges": counted.purges,
            "advice_taken": counted.advice_taken,
            "advice_stale": counted.advice_stale,
        }

    @property
    def block_erases(self):
        cdef uint64_t total = 0
        cdef uint32_t block
        for block in range(self.ftl.blocks):
            total += self.ftl.erases[block]
        return total

    def take_worst_share(self):
        # Not atomic: a read that comes between these two lines is forgotten, and the patrol repeats it.
        share = self.ftl.worst_share
        self.ftl.worst_share = 0
        return share

    @property
    def space(self):
        """Blocks by what they are used for, and units that are mapped."""
        cdef uint32_t block
        uses = dict.fromkeys(USES, 0)
        meta = slc = 0
        for block in range(self.ftl.blocks):
            uses[USES[self.ftl.use[block]]] += 1
            meta += (self.ftl.flags[block] & FLAG_META) != 0
            slc += (self.ftl.flags[block] & FLAG_SLC) != 0 and self.ftl.use[block] in (BLOCK_OPEN, BLOCK_CLOSED)
        mapped = sum(self.ftl.valid[i] for i in range(self.ftl.blocks))
        left, reserve = self.spare_blocks
        return {**uses, "meta": meta, "slc": slc, "mapped_units": mapped, "spare_left": left, "spare": reserve}

    def snapshot(self):
        """The block table as a numpy structured array, and the generation that it was taken at."""
        import numpy

        cdef uint32_t count = self.ftl.blocks
        table = numpy.zeros(count, dtype=[
            ("use", "u1"), ("flags", "u1"), ("written", "u2"), ("valid", "u4"), ("erases", "u4"), ("reads", "u4"),
            ("hours", "u4"), ("changed", "u8"),
        ])
        for name, address, kind in self._columns():
            table[name] = numpy.frombuffer(address, dtype=kind, count=count)
        return table, self.ftl.generation

    def _columns(self):
        cdef uint32_t count = self.ftl.blocks
        return [
            ("use", (<char *>self.ftl.use)[:count], "u1"),
            ("flags", (<char *>self.ftl.flags)[:count], "u1"),
            ("written", (<char *>self.ftl.written)[:2 * count], "u2"),
            ("valid", (<char *>self.ftl.valid)[:4 * count], "u4"),
            ("erases", (<char *>self.ftl.erases)[:4 * count], "u4"),
            ("reads", (<char *>self.ftl.reads)[:4 * count], "u4"),
            ("hours", (<char *>self.ftl.hours)[:4 * count], "u4"),
            ("changed", (<char *>self.ftl.dead_since)[:8 * count], "u8"),
        ]

    def check(self):
        """Does what is kept in memory fit together? A list of what does not; for tests."""
        return consistency(self)


def consistency(Translation translation):
    cdef Ftl *ftl = &translation.ftl
    cdef uint32_t unit
    cdef uint32_t block
    found = []
    valid = [0] * ftl.blocks
    seen = set()
    for unit in range(ftl.units):
        if ftl.map[unit] < UNIT_LIMIT:
            valid[ftl.map[unit] // ftl.block_units] += 1
            if ftl.map[unit] in seen:
                found.append(f"two units at {ftl.map[unit]}")
            seen.add(ftl.map[unit])
    free_blocks = 0
    for block in range(ftl.blocks):
        free_blocks += ftl.use[block] == BLOCK_FREE
        if valid[block] != ftl.valid[block]:
            found.append(f"block {block}: {ftl.valid[block]} valid units counted, {valid[block]} mapped")
        if valid[block] and ftl.use[block] in (BLOCK_FREE, BLOCK_BAD):
            found.append(f"block {block} is {USES[ftl.use[block]]} and holds {valid[block]} units")
    for block, owners in enumerate(translation.owners_of_blocks() if ftl.isolated else ()):
        if owners and ftl.owner[block] != OWNER_MIXED and owners != (ftl.owner[block],):
            found.append(f"block {block} is owner {ftl.owner[block]}'s and holds units of {owners}")
    if free_blocks != ftl.free_blocks:
        found.append(f"{ftl.free_blocks} free blocks counted, there are {free_blocks}")
    return found
