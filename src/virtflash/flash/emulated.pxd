"""An emulated chip, for compiled code: `chip` is the contract's (`chip.pxd`); keep the object while you use it."""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.flash.chip cimport Chip
from virtflash.flash.device cimport Device

cdef class EmulatedFlash:
    cdef Chip chip
    cdef Device device  # `now_ns` may be set by the owner; the rest is the chip's
    cdef char *synced_copy  # of the image, as its disk would have it; NULL: not tracked
    cdef readonly object superblock  # image.Superblock
    cdef readonly str profile_text
    cdef readonly str crashed  # what ended the use before: "no", "process" or "host"

    cdef int lay_out(self) except -1
    cdef int take_pairs(self, endangers) except -1
    cdef int take_profile(self, profile) except -1
    cdef int take_timing(self, profile) except -1
    cdef int make_blocks(self, double factory_bad_share) except -1
    cdef int recover(self, path, bytes boot_id, int how) except -1
    cdef int sync_range(self, const void *start, size_t size) except -1
    cdef int check_state(self, path) except -1
    cdef uint64_t next_unsynced(self, uint64_t offset) noexcept
    cdef void lose_some(self, uint64_t offset, uint64_t fate) noexcept
# Give room of erased blocks back to the host, when idle: how many of `count` blocks from `first` on had any.
cdef uint32_t emulated_give_back(EmulatedFlash flash, uint32_t first, uint32_t count) noexcept nogil
