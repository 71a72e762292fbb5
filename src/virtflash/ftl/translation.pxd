"""What others may ask of the flash translation layer, compiled. One thread owns it; no call waits but for the chip.

Units are mapping units (`unit_bytes`, 4096 by default), numbered from 0. Results: 0; -EIO: the data cannot be read, or
power is gone; -EROFS: the flash takes no more writes; FTL_MORE, FTL_SYNC. The layer buffers no data: what was written
is on the flash when the call returns (trims wait in memory for `ftl_flush`).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtflash.ftl.state cimport Ftl, OwnerTable

cdef enum:
    FTL_MORE = 0x10000  # a part is done: call again
    FTL_SYNC = 0x10001  # nothing was done: what was programmed has to be synced to the host's disk first (`ftl_synced`)
    FTL_NO_ROOM = 0x10002  # nothing was done: the host's disk is full; may work later

cdef class Translation:
    cdef Ftl ftl
    cdef object device  # keeps the chip
    cdef char *memory
    cdef uint64_t memory_bytes
    cdef readonly bint clean  # what was mounted had been stopped, not cut
    cdef readonly uint32_t torn_frames  # that the mount could not read
    cdef readonly uint64_t replayed_frames
    cdef int _with_sync(
        self, int (*call)(Ftl *, uint32_t, uint32_t) noexcept nogil, uint32_t first, uint32_t count
    ) except? -9

    cdef int make_table(self, OwnerTable *table, uint64_t granule_units, bytes owners) except -1

    # Units that one full frame takes: pass so many to `ftl_write` where there are as many.
    cdef uint32_t frame_units(self) noexcept nogil

# `length` bytes at `offset` of one unit; what is not mapped reads as zeroes.
cdef int ftl_read(Ftl *ftl, uint32_t unit, uint32_t offset, uint32_t length, char *into) noexcept nogil
# FTL_MORE, where the caller has set `step_limit`: room was made, nothing written yet; call again.
# Up to a frame of units, atomic each, `data[i]` of unit_bytes. `small`: a few units that a flush must make safe; they
# go where they cost least (SLC pages). With as many as a frame takes, pass False.
cdef int ftl_write(Ftl *ftl, uint32_t count, const uint32_t *units, char **data, bint small) noexcept nogil
cdef bint ftl_is_mapped(const Ftl *ftl, uint32_t unit) noexcept nogil
cdef int ftl_trim(Ftl *ftl, uint32_t first, uint32_t count) noexcept nogil
# What was written and trimmed before survives a power cut from now on. FTL_MORE: as ftl_write.
cdef int ftl_flush(Ftl *ftl) noexcept nogil
# Trim, and erase every copy that is on the medium, stale ones too. `step`: 0 at first, kept by the caller. FTL_MORE.
cdef int ftl_secure_trim(Ftl *ftl, uint32_t first, uint32_t count, uint64_t *step) noexcept nogil
# Erase whatever stale data is on the medium, all over it. FTL_MORE.
cdef int ftl_sanitize(Ftl *ftl, uint64_t *step) noexcept nogil
# A slice of collection, levelling, refresh or checkpointing ahead of need. True: there is more to do now.
cdef bint ftl_work(Ftl *ftl) noexcept nogil
# A mark of all that was programmed so far, to be given to `ftl_synced` after a sync of the image that began later.
cdef uint64_t ftl_sync_begins(const Ftl *ftl) noexcept nogil
# Whose units are, from now on; the table before is given back. `isolated`: blocks are not shared, if there is room.
cdef void ftl_set_owners(Ftl *ftl, OwnerTable *table, bint isolated, uint32_t small_lanes) noexcept nogil
# OWNERS bits for each block, zeroed before: whose units it holds.
cdef void ftl_note_owners(const Ftl *ftl, uint8_t *bits) noexcept nogil
cdef void ftl_synced(Ftl *ftl, uint64_t mark) noexcept nogil
