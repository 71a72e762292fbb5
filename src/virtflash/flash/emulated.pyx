"""Emulated flash: a chip that lives in an image, mapped into memory (docs/image-format.md)."""

from libc.errno cimport errno
from libc.math cimport NAN, isfinite
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset, strerror
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MS_SYNC,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    msync,
    munmap,
)
from posix.uio cimport iovec

import fcntl
import os
from pathlib import Path

from virtflash.flash.ageing cimport pass_time
from virtflash.flash.chip cimport (
    FLASH_ERASE,
    FLASH_ERASED,
    FLASH_FAILED,
    FLASH_IS_BAD,
    FLASH_MARK_BAD,
    FLASH_MISUSE,
    FLASH_NAND,
    FLASH_NO_ROOM,
    FLASH_NOR,
    FLASH_NOWHERE,
    FLASH_OK,
    FLASH_PHYSICAL,
    FLASH_POWER_LOST,
    FLASH_PROGRAM,
    FLASH_PURGE,
    FLASH_READ,
    FLASH_SLC,
    FLASH_UNCORRECTABLE,
    Chip,
    FlashOperation,
    Geometry,
)
from virtflash.flash.crc32c cimport crc32c as checksum_of
from virtflash.flash.crc32c cimport crc32c_plain as plain_checksum_of
from virtflash.flash.device cimport CutChances, Device, ErrorEstimate, block_pages, page_bytes, page_record
from virtflash.flash.erase cimport erase_block
from virtflash.flash.image cimport (
    BLOCK_BAD,
    BLOCK_BROKEN,
    BLOCK_ERASE_CUT,
    BLOCK_FACTORY_BAD,
    BLOCK_MARKED_BAD,
    BLOCK_NOT_WIPED,
    BLOCK_SLC,
    BLOCK_WEAK,
    HOST_PAGE_BYTES,
    HOST_SECTOR_BYTES,
    LEFT_CLOSED,
    LEFT_OPEN,
    LEFT_SYNCED,
    PAGE_TORN,
    PAGE_UNSTABLE,
    STATE_OFFSET,
    BlockRecord,
    PageRecord,
    State,
)
from virtflash.flash.nand cimport nand_program, nand_read
from virtflash.flash.nor cimport nor_program, nor_read
from virtflash.flash.page_record cimport is_programmed, seal_record
from virtflash.flash.physics cimport draw, draw_factor, draw_uniform
from virtflash.flash.power_cut cimport CUT_RANDOM, PROGRAM_OUTCOMES, cut_operation
from virtflash.flash.space cimport give_back, reserve, reserve_page, reserve_records, wipe_blocks
from virtflash.flash.timing cimport take_time

from virtflash.flash import image
from virtflash.flash.image import ImageError

cdef extern from *:
    """
    #include <sys/mman.h>
    #include <sys/vfs.h>
    #include <linux/magic.h>
    #ifndef MADV_HUGEPAGE
    #define MADV_HUGEPAGE 14
    #endif
    static inline int is_tmpfs(int fd)
    {
        struct statfs fs;
        return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    }
    """
    bint is_tmpfs(int fd)
    int MADV_HUGEPAGE

cdef enum:
    WINDOW_SHIFT = 21
    TMPFS_WINDOW_SHIFT = 16

ERASED = FLASH_ERASED
FAILED = FLASH_FAILED
MISUSE = FLASH_MISUSE
NO_ROOM = FLASH_NO_ROOM
OK = FLASH_OK
POWER_LOST = FLASH_POWER_LOST
UNCORRECTABLE = FLASH_UNCORRECTABLE
RANDOM_CUT = CUT_RANDOM
RECORD_SIZES = {
    "state": sizeof(State), "block record": sizeof(BlockRecord), "header of a page record": sizeof(PageRecord),
}  # fmt: skip


cdef int wipe_all(Device *device, FlashOperation *operation) noexcept nogil:
    wipe_blocks(device, operation.block, operation.length if operation.length else device.geometry.blocks)
    return FLASH_OK


cdef int change(Device *device, FlashOperation *operation) noexcept nogil:
    if device.read_only:
        return FLASH_NO_ROOM
    if operation.kind == FLASH_PROGRAM:
        return nor_program(device, operation) if device.geometry.kind == FLASH_NOR else nand_program(device, operation)
    if operation.kind == FLASH_ERASE:
        return erase_block(device, operation)
    if operation.kind == FLASH_MARK_BAD:
        device.blocks[operation.block].flags |= BLOCK_MARKED_BAD
        return FLASH_OK
    return wipe_all(device, operation) if operation.kind == FLASH_PURGE else FLASH_MISUSE


cdef int obey(Device *device, FlashOperation *operation) noexcept nogil:
    if device.lost_power:
        return FLASH_POWER_LOST
    if operation.block >= device.geometry.blocks:
        return FLASH_MISUSE
    if operation.kind == FLASH_READ:
        return nor_read(device, operation) if device.geometry.kind == FLASH_NOR else nand_read(device, operation)
    if operation.kind == FLASH_IS_BAD:
        operation.worst_share = 1 if device.blocks[operation.block].flags & BLOCK_BAD else 0
        return FLASH_OK
    return change(device, operation)


cdef void submit(Chip *chip, FlashOperation *operation) noexcept nogil:
    cdef Device *device = <Device *>chip.device
    operation.corrected_bits = operation.worst_share = 0
    operation.ready_ns = 0
    operation.status = obey(device, operation)
    if device.timing.real and operation.status > FLASH_POWER_LOST and operation.kind <= FLASH_ERASE:
        take_time(device, operation)
    operation.done = True


cdef void wait(Chip *chip, FlashOperation *operation) noexcept nogil:
    pass  # it is done when submitted


cdef uint64_t hours(Chip *chip) noexcept nogil:
    return <uint64_t>(<Device *>chip.device).state.effective_hours


cdef uint32_t emulated_give_back(EmulatedFlash flash, uint32_t first, uint32_t count) noexcept nogil:
    return give_back(&flash.device, first, count)


def crc32c(const unsigned char[::1] data not None):
    return checksum_of(&data[0], len(data)) if len(data) else 0


def crc32c_without_instruction(const unsigned char[::1] data not None):
    return plain_checksum_of(&data[0], len(data)) if len(data) else 0


def superblock_of(profile, figures):
    """What an image of a profile's part is; `figures` have the last word. Raises ImageError."""
    values = {
        "kind": "nand", "bits_per_cell": 1, "page_bytes": 4096, "spare_bytes": 64, "pages_per_block": 64,
        "blocks": 64, "slc_page_bytes": 0, "slc_pages_per_block": 0, "endurance": 3000, "slc_endurance": 30000,
        "dies": 1, "capacity_bytes": 0, "unit_bytes": 4096, "over_provisioning_milli": 0, "seed": 0,
    }
    if profile is not None:
        for name in ("bits_per_cell", "page_bytes", "spare_bytes", "pages_per_block", "blocks", "slc_page_bytes",
                     "slc_pages_per_block"):
            values[name] = getattr(profile.geometry, name)
        values["kind"] = "nor" if profile.part.kind == "nor" else "nand"
        values["endurance"] = int(profile.endurance.cycles)
        values["slc_endurance"] = int(profile.endurance.slc_cycles)
        values["dies"] = profile.timing.dies
        values["over_provisioning_milli"] = round(1000 * profile.over_provisioning.default_percent)
    values.update((name, value) for name, value in figures.items() if value is not None)
    if values["kind"] == "nor":
        values["spare_bytes"] = 0
    return image.new_superblock(
        profile_bytes=len(profile.text.encode()) if profile is not None else 0, **values
    )


def pairs_of(profile, pair_table):
    if pair_table is not None:
        return tuple(FLASH_NOWHERE if page is None else page for page in pair_table)
    return profile.geometry.endangers if profile is not None else ()


def loaded(profile):
    """A Profile, whatever names it; None is perfect flash. Raises ProfileError."""
    from virtflash.flash.profiles import load_profile

    return load_profile(profile) if isinstance(profile, str | Path) else profile


cdef class EmulatedFlash:
    def __cinit__(self):
        memset(&self.chip, 0, sizeof(Chip))
        memset(&self.device, 0, sizeof(Device))
        self.device.fd = -1
        self.device.geometry = &self.chip.geometry
        self.chip.device = &self.device
        self.chip.submit = submit
        self.chip.wait = wait
        self.chip.hours = hours
        self.crashed = "no"

    def __dealloc__(self):
        if self.device.base != NULL:
            munmap(self.device.base, self.device.mapped_bytes)
        if self.synced_copy != NULL:
            munmap(self.synced_copy, self.device.mapped_bytes)
        if self.device.fd >= 0:
            os.close(self.device.fd)
        free(<void *>self.chip.geometry.endangers)
        free(self.device.reserved)
        free(self.device.estimates)
        free(self.device.page_factors)

    @classmethod
    def in_memory(
        cls, *, profile=None, pair_table=None, factory_bad_share=None, timing=None, host_sync=False, track_sync=False,
        **figures,
    ):
        profile = loaded(profile)
        endangers = pairs_of(profile, pair_table)
        superblock = superblock_of(profile, figures | {"pairs": len(endangers)})
        text = profile.text if profile is not None else ""
        fd = os.memfd_create("flash", os.MFD_CLOEXEC)
        cdef EmulatedFlash self = cls()
        self.device.fd = fd
        self.make(Path("memory"), superblock, text, endangers, profile, factory_bad_share)
        self.take_host_sync(host_sync or track_sync)
        if timing == "real":
            self.take_timing(profile)
        if track_sync:
            self.track()
        return self

    @classmethod
    def create(
        cls, path, profile, *, capacity_bytes=None, over_provisioning=None, blocks=None, unit_bytes=4096, seed=None,
        host_sync=True, timing=None, factory_bad_share=None,
    ):
        path = Path(path)
        profile = loaded(profile)
        if blocks is None:
            blocks = blocks_for(path, profile, capacity_bytes, over_provisioning, unit_bytes)
        figures = {
            "blocks": blocks, "capacity_bytes": capacity_bytes, "unit_bytes": unit_bytes,
            "seed": int.from_bytes(os.urandom(8), "little") if seed is None else seed,
            "over_provisioning_milli": None if over_provisioning is None else round(1000 * over_provisioning),
        }
        endangers = pairs_of(profile, None)
        superblock = superblock_of(profile, figures | {"pairs": len(endangers)})
        cdef EmulatedFlash self = cls()
        self.device.fd = image.new_file(path)
        try:
            self.make(path, superblock, profile.text, endangers, profile, factory_bad_share)
            self.use(host_sync, profile, timing)
        except BaseException:
            path.unlink()
            raise
        return self

    @classmethod
    def open(cls, path, *, read_only=False, host_sync=True, timing=None, cut=RANDOM_CUT):
        path = Path(path)
        parts = image.open_image(path, crc32c, read_only=read_only)
        cdef EmulatedFlash self = cls()
        self.device.fd = parts.fd
        self.device.read_only = read_only
        profile = profile_in(path, parts.profile_text)
        self.attach(path, parts.superblock, parts.profile_text, parts.endangers, profile)
        self.check_state(path)
        self.reserve_head(path)
        self.recover(path, image.boot_id(), cut)
        self.use(host_sync, profile, timing)
        return self

    def make(self, path, superblock, str text, endangers, profile, factory_bad_share):
        """Write a new image to the empty file that is open."""
        os.ftruncate(self.device.fd, superblock.image_bytes)
        self.attach(path, superblock, text, endangers, profile)
        self.reserve_head(path)
        image.write_parts(self.device.fd, superblock, text, endangers)
        self.device.state.random = superblock.seed
        self.device.state.celsius = profile.retention.reference_celsius if profile is not None else 25
        self.device.state.left = LEFT_SYNCED
        if factory_bad_share is None:
            factory_bad_share = profile.bad_blocks.factory_share if profile is not None else 0
        self.make_blocks(factory_bad_share)
        os.fsync(self.device.fd)
        os.pwrite(self.device.fd, superblock.packed(crc32c), 0)

    def attach(self, path, superblock, str text, endangers, profile):
        """Map the image that is open, and lay it out."""
        cdef void *base
        self.superblock, self.profile_text = superblock, text
        self.device.mapped_bytes = superblock.image_bytes
        # Read-only, what changes stays here: a private copy of the few pages that do.
        base = mmap(
            NULL, self.device.mapped_bytes, PROT_READ | PROT_WRITE,
            (MAP_PRIVATE if self.device.read_only else MAP_SHARED) | MAP_NORESERVE, self.device.fd, 0,
        )
        if base == MAP_FAILED:
            raise ImageError(f"{path}: cannot be mapped into memory: {strerror(errno).decode()}")
        self.device.base = <char *>base
        self.choose_window()
        self.lay_out()
        self.take_pairs(endangers)
        self.take_profile(profile)

    cdef int lay_out(self) except -1:
        cdef Device *device = &self.device
        cdef Geometry *geometry = &self.chip.geometry
        superblock = self.superblock
        geometry.kind = FLASH_NOR if superblock.kind == "nor" else FLASH_NAND
        geometry.bits_per_cell = superblock.bits_per_cell
        geometry.page_bytes = superblock.page_bytes
        geometry.spare_bytes = superblock.spare_bytes
        geometry.pages_per_block = superblock.pages_per_block
        geometry.blocks = superblock.blocks
        geometry.slc_page_bytes = superblock.slc_page_bytes
        geometry.slc_pages_per_block = superblock.slc_pages_per_block
        geometry.endurance = superblock.endurance
        geometry.slc_endurance = superblock.slc_endurance
        geometry.dies = superblock.dies
        device.record_bytes = superblock.record_bytes
        device.record_pages = superblock.record_pages
        device.block_bytes = superblock.block_bytes
        device.state = <State *>(device.base + STATE_OFFSET)
        device.blocks = <BlockRecord *>(device.base + <uint64_t>superblock.block_records_offset)
        device.page_records = device.base + <uint64_t>superblock.page_records_offset
        device.data = device.base + <uint64_t>superblock.data_offset
        device.slc_cycle_wear = 0
        if geometry.slc_endurance:
            device.slc_cycle_wear = geometry.endurance / <double>geometry.slc_endurance
        device.reserved = <uint8_t *>calloc((device.mapped_bytes >> device.window_shift) + 1, 1)
        device.estimates = <ErrorEstimate *>calloc(geometry.blocks, sizeof(ErrorEstimate))
        if device.reserved == NULL or device.estimates == NULL:
            raise MemoryError
        self.forget_estimates()
        return 0

    def forget_estimates(self):
        cdef uint32_t block
        for block in range(self.chip.geometry.blocks):
            self.device.estimates[block].rate = -1

    cdef int take_pairs(self, endangers) except -1:
        cdef Geometry *geometry = &self.chip.geometry
        cdef uint16_t *table
        cdef uint32_t page
        if not endangers:
            return 0
        table = <uint16_t *>calloc(geometry.pages_per_block, sizeof(uint16_t))
        if table == NULL:
            raise MemoryError
        geometry.endangers = table
        for page in range(geometry.pages_per_block):
            table[page] = endangers[page]
            if table[page] != FLASH_NOWHERE:
                geometry.pair_distance = max(geometry.pair_distance, page - table[page])
        return 0

    cdef int take_profile(self, profile) except -1:
        cdef CutChances *chances = &self.device.chances
        cdef uint32_t page
        self.device.chances = CutChances(0.2, 0.2, 0.4, 0.5, 0.25, 0.25, 0.25)
        if profile is None:
            return 0
        self.device.physics = profile.physics()
        cut = profile.power_cut
        chances.program_untouched, chances.program_torn = cut.program_untouched, cut.program_torn
        chances.program_unstable, chances.pair_lost = cut.program_unstable, cut.pair_lost
        chances.erase_untouched, chances.erase_half = cut.erase_untouched, cut.erase_half
        chances.erase_weak = cut.erase_weak
        if self.device.physics.lower_factor == 0 or self.chip.geometry.endangers == NULL:
            return 0
        self.device.page_factors = <float *>malloc(self.chip.geometry.pages_per_block * sizeof(float))
        if self.device.page_factors == NULL:
            raise MemoryError
        for page in range(self.chip.geometry.pages_per_block):
            self.device.page_factors[page] = 1
        for page in range(self.chip.geometry.pages_per_block):
            if self.chip.geometry.endangers[page] != FLASH_NOWHERE:
                self.device.page_factors[page] = self.device.physics.upper_factor
                self.device.page_factors[self.chip.geometry.endangers[page]] = self.device.physics.lower_factor
        return 0

    cdef int take_timing(self, profile) except -1:
        if profile is None:
            raise ValueError("perfect flash takes no time: name a profile")
        figures = profile.timing
        self.device.timing.read_ns[0] = round(1000 * figures.read_us)
        self.device.timing.program_ns[0] = round(1000 * figures.program_us)
        self.device.timing.erase_ns[0] = round(1000 * figures.erase_us)
        self.device.timing.read_ns[1] = round(1000 * (figures.slc_read_us or figures.read_us))
        self.device.timing.program_ns[1] = round(1000 * figures.slc_program_us)
        self.device.timing.erase_ns[1] = round(1000 * figures.slc_erase_us)
        self.device.timing.transfer_ns_per_kib = round(1000 * figures.transfer_us_per_kib)
        self.device.timing.real = True
        return 0

    cdef int make_blocks(self, double factory_bad_share) except -1:
        """Blocks as they leave the factory: each of its own quality, a few of them bad, never the first one."""
        cdef uint32_t block
        for block in range(self.chip.geometry.blocks):
            self.device.blocks[block].factor = draw_factor(&self.device.physics, &self.device.state.random)
            if draw_uniform(&self.device.state.random) < factory_bad_share and block:
                self.device.blocks[block].flags = BLOCK_FACTORY_BAD
        return 0

    def take_host_sync(self, bint host_sync):
        self.device.state.host_sync = host_sync
        self.device.seals = host_sync and self.chip.geometry.kind == FLASH_NAND

    def use(self, host_sync, profile, timing):
        """From now on the image is in use, and says so."""
        self.take_host_sync(host_sync)
        self.device.state.left = LEFT_OPEN
        boot = image.boot_id()
        memcpy(self.device.state.boot_id, <const char *>boot, 16)
        if timing == "real":
            self.take_timing(profile)
        if host_sync:
            self.sync_range(self.device.state, sizeof(State))

    cdef int check_state(self, path) except -1:
        """What follows must not trip over it."""
        cdef State *state = self.device.state
        cdef bint good = 0 <= state.hours <= 1e15 and 0 <= state.effective_hours <= 1e15
        good = good and isfinite(state.celsius)
        good = good and state.left <= LEFT_SYNCED
        good = good and state.in_flight in (0, FLASH_PROGRAM, FLASH_ERASE)
        if state.in_flight:
            good = good and state.flight_block < self.chip.geometry.blocks
            good = good and state.before.next_page <= self.device.record_pages
        if state.in_flight == FLASH_PROGRAM:
            good = good and state.flight_page < self.device.record_pages
        if not good:
            self.refuse_state(path)
        return 0

    def refuse_state(self, path):
        raise ImageError(f"{path}: its state is damaged; restore it from a copy")

    def choose_window(self):
        """How much is reserved at once: what the kernel may want at once. On tmpfs it falls back to small pages."""
        cdef bint in_memory = is_tmpfs(self.device.fd)
        self.device.window_shift = TMPFS_WINDOW_SHIFT if in_memory else WINDOW_SHIFT
        if in_memory:
            madvise(self.device.base, self.device.mapped_bytes, MADV_HUGEPAGE)  # where it is refused, small pages do

    def reserve_head(self, path):
        """Room for all that is not of pages: state and block records are written at any time. Raises ImageError."""
        if not reserve(&self.device, self.device.base, self.device.page_records - self.device.base):
            raise image.cannot_reserve(path, OSError(errno, strerror(errno).decode()))

    cdef int recover(self, path, bytes boot_id, int how) except -1:
        """Find out how the image was left, and what that has done to it."""
        cdef State *state = self.device.state
        cdef bint same = boot_id != bytes(16) and memcmp(state.boot_id, <const char *>boot_id, 16) == 0
        if state.left == LEFT_SYNCED or (state.left == LEFT_CLOSED and same):
            return 0
        if same:
            self.crashed = "process"
            self.finish_flight(path, how)
        else:
            self.crashed = "host"
            state.in_flight = 0  # checksums tell more than what was in flight at some moment
            state.epoch += 1
        return 0

    def finish_flight(self, path, int how):
        """A process was killed: a power cut. What is decided now must outlast a crash of the host."""
        cdef State *state = self.device.state
        cdef uint32_t block = state.flight_block
        cdef bint program = state.in_flight == FLASH_PROGRAM
        if not state.in_flight:
            return
        # Not after a crash of the host: there the block's record may be of another time, and of another mode.
        if program and state.flight_page >= block_pages(&self.device, &self.device.blocks[block]):
            self.refuse_state(path)
        reserve_records(&self.device, block)  # it was when the operation began, so it does not fail
        if program:
            reserve_page(&self.device, block, state.flight_page)
        cut_operation(&self.device, how)
        if self.device.read_only or not state.host_sync:
            return
        self.sync_range(page_record(&self.device, block, 0), self.device.record_pages * self.device.record_bytes)
        self.sync_range(&self.device.blocks[block], sizeof(BlockRecord))
        if program and self.chip.geometry.kind == FLASH_NOR:
            self.sync_range(self.device.data + block * self.device.block_bytes, self.device.block_bytes)

    cdef int sync_range(self, const void *start, size_t size) except -1:
        cdef uint64_t begin = (<const char *>start - self.device.base) // HOST_PAGE_BYTES * HOST_PAGE_BYTES
        cdef uint64_t end = <const char *>start - self.device.base + size
        cdef int result
        if self.device.read_only:
            return 0
        with nogil:
            result = msync(self.device.base + begin, end - begin, MS_SYNC)
        if result:
            raise OSError(errno, strerror(errno).decode())
        return 0

    def close(self):
        if self.device.fd < 0:
            return
        fd, self.device.fd = self.device.fd, -1
        self.device.lost_power = True
        try:
            if not self.device.read_only:
                self.leave(fd)
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # the mapping would keep it locked
            os.close(fd)

    def leave(self, int fd):
        cdef State *state = self.device.state
        if state.in_flight:
            return
        if not state.host_sync:
            state.left = LEFT_CLOSED
            return
        os.fdatasync(fd)
        state.left = LEFT_SYNCED
        self.sync_range(state, sizeof(State))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    # What follows is for tests, tools and the owner.

    def read(self, uint32_t block, uint32_t page, uint32_t offset=0, length=None):
        status, data, spare, _, _, _ = self.read_fully(block, page, offset, length)
        return status, data, spare

    def read_fully(self, uint32_t block, uint32_t page, uint32_t offset=0, length=None):
        cdef FlashOperation operation
        cdef iovec piece
        cdef char[::1] data_view
        cdef char[::1] spare_view
        if length is None:
            length = max(self.page_bytes(block) - offset, 0)
        data = bytearray(length)
        spare = bytearray(self.chip.geometry.spare_bytes)
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.page = FLASH_READ, block, page
        operation.offset, operation.length = offset, len(data)
        if data:
            data_view = data
            piece.iov_base, piece.iov_len = &data_view[0], len(data)
            operation.iov, operation.iov_count = &piece, 1
        if spare:
            spare_view = spare
            operation.spare = &spare_view[0]
        submit(&self.chip, &operation)
        return (
            operation.status, bytes(data), bytes(spare), operation.corrected_bits, operation.worst_share,
            operation.ready_ns,
        )

    def program(self, uint32_t block, uint32_t page, const unsigned char[::1] data not None, spare=None, offset=0):
        return self.program_fully(block, page, data, spare, offset)[0]

    def program_fully(
        self, uint32_t block, uint32_t page, const unsigned char[::1] data not None, spare=None, offset=0
    ):
        cdef FlashOperation operation
        cdef iovec piece
        cdef const unsigned char[::1] spare_view
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.page = FLASH_PROGRAM, block, page
        operation.offset, operation.length = offset, len(data)
        if len(data):
            piece.iov_base, piece.iov_len = <void *>&data[0], len(data)
            operation.iov, operation.iov_count = &piece, 1
        if spare is not None and self.chip.geometry.spare_bytes:
            spare_view = bytes(spare).ljust(self.chip.geometry.spare_bytes, b"\xff")
            operation.spare = <char *>&spare_view[0]
        submit(&self.chip, &operation)
        return operation.status, operation.ready_ns

    def simple(self, kind, block, flags=0, length=0):
        cdef FlashOperation operation
        memset(&operation, 0, sizeof(operation))
        operation.kind, operation.block, operation.flags, operation.length = kind, block, flags, length
        submit(&self.chip, &operation)
        return operation.status, operation.worst_share, operation.ready_ns

    def erase(self, block, *, slc=False, physical=False):
        flags = (FLASH_SLC if slc else 0) | (FLASH_PHYSICAL if physical else 0)
        return self.simple(FLASH_ERASE, block, flags)[0]

    def is_bad(self, block):
        return bool(self.simple(FLASH_IS_BAD, block)[1])

    def mark_bad(self, block):
        return self.simple(FLASH_MARK_BAD, block)[0]

    def purge(self, first=0, count=0):
        return self.simple(FLASH_PURGE, first, 0, count)[0]

    def give_back(self, uint32_t first=0, count=None):
        cdef uint32_t blocks = self.chip.geometry.blocks if count is None else count
        with nogil:
            blocks = give_back(&self.device, first, blocks)
        return blocks

    def page_bytes(self, uint32_t block):
        if block >= self.chip.geometry.blocks:
            raise IndexError(block)
        return page_bytes(&self.device, &self.device.blocks[block])

    def refuse_closed(self):
        if self.device.fd < 0:
            raise ValueError("the image is closed")

    def advance(self, double seconds, celsius=None):
        self.refuse_closed()
        pass_time(&self.device, seconds, NAN if celsius is None else celsius)

    def arm_cut(self, after, how=RANDOM_CUT):
        self.device.cut_after = after
        self.device.cut_how = how

    def power_on(self):
        self.device.lost_power = False
        self.device.cut_after = 0

    def fail_next(self, kind, number=1):
        if kind == "program":
            self.device.fail_programs_after = number
        elif kind == "erase":
            self.device.fail_erases_after = number
        else:
            raise ValueError(f"{kind}: program or erase")

    def keep_no_data(self):
        self.device.hollow = True

    def spoil(self, uint32_t block, uint32_t page, *, unstable=False):
        cdef PageRecord *record
        self.refuse_closed()
        if block >= self.chip.geometry.blocks or page >= self.device.record_pages:
            raise IndexError((block, page))
        record = page_record(&self.device, block, page)
        reserve_page(&self.device, block, page)
        if self.device.blocks[block].next_page == 0 or not is_programmed(&self.device.blocks[block], record):
            raise ValueError(f"page {page} of block {block} is not programmed")
        record.state = PAGE_UNSTABLE if unstable else PAGE_TORN
        seal_record(&self.device, record)

    def sync(self):
        if self.synced_copy != NULL:
            self.copy_pages()
        else:
            os.fdatasync(self.device.fd)

    def track(self):
        """Keep what the disk would have of the image."""
        cdef void *copy = mmap(
            NULL, self.device.mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if copy == MAP_FAILED:
            raise MemoryError
        self.synced_copy = <char *>copy
        self.copy_pages()

    cdef uint64_t next_unsynced(self, uint64_t offset) noexcept:
        """The first host page from `offset` on that the disk has otherwise; the end of the image if there is none."""
        cdef uint64_t records_end = self.device.page_records - self.device.base
        cdef uint64_t data = self.device.data - self.device.base
        records_end += <uint64_t>self.chip.geometry.blocks * self.device.record_pages * self.device.record_bytes
        while offset < self.device.mapped_bytes:
            if records_end <= offset < data:
                offset = data  # between records and data is nothing
            if memcmp(self.synced_copy + offset, self.device.base + offset, HOST_PAGE_BYTES):
                return offset
            offset += HOST_PAGE_BYTES
        return offset

    def copy_pages(self):
        cdef uint64_t offset = self.next_unsynced(0)
        while offset < self.device.mapped_bytes:
            memcpy(self.synced_copy + offset, self.device.base + offset, HOST_PAGE_BYTES)
            offset = self.next_unsynced(offset + HOST_PAGE_BYTES)

    cdef void lose_some(self, uint64_t offset, uint64_t fate) noexcept:
        """All sectors of this host page, or none, or each by chance, become again what the disk has."""
        cdef uint32_t sector
        for sector in range(HOST_PAGE_BYTES // HOST_SECTOR_BYTES):
            if (fate >> (8 + sector) & 1) if fate & 3 == 0 else (fate >> 7 & 1):
                memcpy(
                    self.device.base + offset + sector * HOST_SECTOR_BYTES,
                    self.synced_copy + offset + sector * HOST_SECTOR_BYTES, HOST_SECTOR_BYTES,
                )

    def host_crash(self, uint64_t seed):
        """Every page that was written since the last sync is on the disk or not, or some sectors of it are."""
        cdef uint64_t random = seed
        cdef uint64_t offset
        if self.synced_copy == NULL:
            raise ValueError("not made with track_sync=True")
        offset = self.next_unsynced(0)
        while offset < self.device.mapped_bytes:
            self.lose_some(offset, draw(&random))
            offset = self.next_unsynced(offset + HOST_PAGE_BYTES)
        self.device.state.left = LEFT_OPEN
        memset(self.device.state.boot_id, 0, 16)
        self.recover(Path("memory"), bytes(16), RANDOM_CUT)
        self.power_on()
        self.forget_estimates()
        self.copy_pages()

    def counters(self):
        cdef State *state = self.device.state
        return {
            "hours": state.hours, "effective_hours": state.effective_hours, "celsius": state.celsius,
            "reads": state.reads[0], "slc_reads": state.reads[1],
            "programs": state.programs[0], "slc_programs": state.programs[1],
            "erases": state.erases[0], "slc_erases": state.erases[1],
            "corrected_bits": state.corrected_bits, "uncorrectable": state.uncorrectable,
            "failed_programs": state.failed_programs, "failed_erases": state.failed_erases,
            "power_cuts": state.power_cuts, "host_crashes": state.epoch,
        }  # fmt: skip

    def block_table(self):
        import numpy

        names = ["generation", "next_page", "flags", "cycles", "slc_cycles", "reads", "factor", "failures",
                 "erased_hours"]
        raw = numpy.dtype({
            "names": names, "formats": ["u8", "u4", "u4", "u4", "u4", "u8", "f4", "u4", "f8"],
            "offsets": [0, 8, 12, 16, 20, 24, 32, 36, 40], "itemsize": sizeof(BlockRecord),
        })  # fmt: skip
        view = <char[:self.chip.geometry.blocks * sizeof(BlockRecord)]><char *>self.device.blocks
        records = numpy.frombuffer(view, dtype=raw)
        flags = {"slc": BLOCK_SLC, "bad": BLOCK_BAD, "factory_bad": BLOCK_FACTORY_BAD, "broken": BLOCK_BROKEN,
                 "erase_cut": BLOCK_ERASE_CUT, "weak": BLOCK_WEAK, "not_wiped": BLOCK_NOT_WIPED}
        kept = ["cycles", "slc_cycles", "reads", "next_page", "factor", "failures", "erased_hours"]
        table = numpy.zeros(len(records), dtype=[(name, raw[name]) for name in kept] + [(name, "?") for name in flags])
        for name in kept:
            table[name] = records[name]
        for name, bits in flags.items():
            table[name] = records["flags"] & bits != 0
        return table

    @property
    def fd(self):
        return self.device.fd

    @property
    def kind(self):
        return self.superblock.kind

    @property
    def operations(self):
        return self.device.operations

    @property
    def lost_power(self):
        return self.device.lost_power

    @property
    def cut_outcomes(self):
        return PROGRAM_OUTCOMES * (2 if self.chip.geometry.pair_distance else 1)

    @property
    def capacity_bytes(self):
        return self.superblock.capacity_bytes

    @property
    def unit_bytes(self):
        return self.superblock.unit_bytes


def profile_in(path, text):
    """The profile that an image keeps; None: perfect flash. Raises ImageError."""
    from virtflash.flash.profiles import ProfileError, parse_profile

    try:
        return parse_profile(text, f"{path}: its profile") if text else None
    except ProfileError as error:
        raise ImageError(str(error)) from None


def blocks_for(path, profile, capacity_bytes, over_provisioning, unit_bytes):
    """How many blocks a part has that offers so much. Raises ImageError."""
    from virtflash.ftl.sizing import ChipSizes, raw_blocks

    if capacity_bytes is None:
        if profile.geometry.blocks:
            return profile.geometry.blocks
        raise ImageError(f"{path}: a part of this profile comes in any size: name a capacity")
    if over_provisioning is None:
        over_provisioning = profile.over_provisioning.default_percent
    geometry = profile.geometry
    sizes = ChipSizes(
        "nor" if profile.part.kind == "nor" else "nand", geometry.page_bytes, geometry.pages_per_block,
        geometry.slc_page_bytes, geometry.slc_pages_per_block,
    )
    blocks = raw_blocks(
        capacity_bytes, unit_bytes, sizes, over_provisioning, profile.over_provisioning.reserve_percent
    )
    if profile.geometry.blocks and blocks > profile.geometry.blocks:
        raise ImageError(
            f"{path}: {capacity_bytes} bytes take {blocks} blocks, the part has {profile.geometry.blocks}; ask for less"
        )
    return profile.geometry.blocks or blocks
