"""What emulated storage keeps in memory beside its translation layer."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from virtflash.backing.target cimport Target
from virtflash.backing.wear_ledger cimport WearLedger
from virtflash.backing.write_cache cimport WriteCache
from virtflash.flash.device cimport Device
from virtflash.ftl.state cimport Ftl

cdef enum:
    SECTOR_BYTES = 512
    SECTOR_SHIFT = 9

cdef struct FlashCounters:
    uint64_t bytes_read  # by guests
    uint64_t bytes_written
    uint64_t cache_hits  # units read from the cache, or written over in it
    uint64_t merged_units  # of which a part was written, and the rest read from the flash
    uint64_t evicted_units
    uint64_t units_trimmed
    uint64_t units_erased_securely
    uint64_t flushes
    uint64_t secure_erases

# Write protection, a byte for each group of the user area; 0: none.
cdef struct Protection:
    uint8_t *groups
    uint64_t count
    uint64_t group_sectors
    uint64_t in_force  # groups that are protected

cdef struct FlashState:
    Target target
    Ftl *ftl
    WriteCache cache
    Protection protection
    FlashCounters counters
    uint64_t user_sectors
    uint64_t sectors  # with the areas behind the user's
    uint32_t unit_bytes
    uint32_t unit_sectors
    uint32_t frame_units
    double slc_share  # of the blocks: what estimate A of the lifetime is counted against
    bint cache_on  # off: a write is in the flash, and safe there, when it completes
    bint read_only  # nothing is changed, and no work done
    bint background  # work is done ahead of need
    bint evicted  # by the running call: a frame of the cache
    char *scratch  # a unit of it
    Device *device  # the emulated chip
    uint64_t *chip_now_ns  # the clock of the emulated chip, which is told ours
    uint64_t bus_ns_per_kib  # 0: the bus takes no time
    uint64_t bus_free_ns
    uint64_t ready_ns
    uint32_t host_failed  # shared, latched: a sync of the image failed
    WearLedger ledger
