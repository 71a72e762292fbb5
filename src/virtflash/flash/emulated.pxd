"""An emulated chip, for compiled code: `chip` is the contract's (`chip.pxd`); keep the object for as long as you use it."""

from virtflash.flash.chip cimport Chip
from virtflash.flash.device cimport Device

cdef class EmulatedFlash:
    cdef Chip chip
    cdef Device device

    cdef int take_pairs(self, pair_table) except -1
    cdef int map_image(self, int fd) except -1
