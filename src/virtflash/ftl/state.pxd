"""What the translation layer keeps in memory. All of it can be found again on the flash.

A *unit* is what is mapped (4 KiB), a *frame* what is programmed at once from the layer's point of view: one page that
holds several units, or several pages that hold one. A physical unit is numbered `block * block_units + slot`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from virtflash.flash.chip cimport Chip

cdef enum:
    FRAME_UNITS_MAX = 16
    SPARE_BYTES_MAX = 256
    TRIM_RANGES_MAX = 1024  # that wait to be programmed
    ADVISED_MAX = 32
    RECENT_FRAMES = 16  # of an open block, whose sequence numbers are kept: more than any pairing distance
    NO_BLOCK = 0xffffffff
    OWNERS = 128  # numbers of owners, 0 among them
    OWNER_MIXED = 255  # of a block: it holds units of several
    ANYBODY = 0xffffffff  # instead of an owner: all blocks are meant

# Values of the map that are no physical unit.
cdef enum:
    UNIT_UNMAPPED = 0xffffffff
    UNIT_TRIMMED = 0xfffffffe  # unmapped, and the flash does not know yet
    UNIT_LOST = 0xfffffffd  # its data could not be read when it had to be moved: reads fail until it is written
    UNIT_LIMIT = 0xfffffff0

cdef enum:
    BLOCK_FREE  # nothing in it is needed; erased when it is taken
    BLOCK_OPEN
    BLOCK_CLOSED
    BLOCK_BAD

cdef enum:
    FLAG_SLC = 1  # this cycle is in SLC mode
    FLAG_META = 2  # it holds checkpoints and trims
    FLAG_RETIRE = 4  # a program failed: what is valid in it moves, then it is marked bad
    FLAG_REFRESH = 8  # its data has to be written anew
    FLAG_TAINTED = 16  # it holds data that a secure erase has to remove
    FLAG_BLANK = 32  # free, erased already, physically
    FLAG_ASIDE = 64  # neither collected nor erased before a recovery is complete
    FLAG_SPANS = 128  # it was open when the checkpoint under way began, and the END has no place to say so

cdef enum:
    STREAM_HOST  # what the host writes, in full frames
    STREAM_COLD  # what survived a collection
    STREAM_SMALL  # a few units that a flush must make safe
    STREAM_META
    STREAM_COUNT
    LANE_KINDS = 3  # host, cold and small: of each owner, where owners are kept apart
    STREAMS_MOST = STREAM_COUNT + LANE_KINDS * (OWNERS - 1)

# Whose each granule of units is.
cdef struct OwnerTable:
    uint8_t *owners
    uint32_t granules
    uint32_t granule_units

# Why units are moved; also the order of urgency, least first.
cdef enum:
    MOVE_NONE
    MOVE_LEVEL
    MOVE_REFRESH
    MOVE_RETIRE
    MOVE_COLLECT
    MOVE_PURGE
    MOVE_KINDS

# Whose doing the frames are that are programmed now.
cdef enum:
    CAUSE_CALLER  # who asked for what is being done
    CAUSE_UNITS  # the owners of the units in them
    CAUSE_OVERHEAD  # everybody's who writes
    CAUSE_NOBODY

# How frames lie in the pages of a block, in one mode.
cdef struct FrameLayout:
    uint32_t units  # of a frame
    uint32_t pages  # of a frame
    uint32_t frames  # of a block
    uint32_t page_bytes
    bint in_tail  # frame records lie in the last pages of the block, since there are no spare bytes

cdef struct Stream:
    uint8_t kind
    uint8_t owner
    uint32_t block
    uint32_t frame  # next one to program
    uint64_t recent[RECENT_FRAMES]  # sequence numbers, by frame; 0: it is padding

cdef struct Move:
    uint8_t why
    uint32_t block
    uint32_t caller  # owner that began it
    uint32_t cursor  # slot
    uint32_t *units  # what each slot of the block was written for

# A block that judgement wants collected next, if it is still what it was in the snapshot.
cdef struct Advised:
    uint32_t block
    uint32_t erases
    uint32_t valid

cdef struct TrimRange:
    uint32_t first
    uint32_t count
    uint32_t lost  # 1: not trimmed, but unreadable

cdef struct TrimLog:
    uint32_t count
    uint64_t since  # sequence number when the first of them came
    TrimRange ranges[TRIM_RANGES_MAX]

cdef enum:
    CHECKPOINT_IDLE
    CHECKPOINT_SLICES
    CHECKPOINT_READY  # all slices are there: END follows once what they name is safe

cdef struct Checkpoint:
    uint8_t state
    uint64_t start  # records from this sequence number on are replayed over it
    uint32_t next  # slice
    uint32_t slices  # in all: map, then block table
    uint32_t written  # of them: one in which nothing is mapped is left out
    uint64_t ready  # sequence number when the last slice was written: no slice names anything later
    uint64_t told  # sequence number up to which it tells all; 0: some slices are older than others
    uint32_t first_open[STREAM_COUNT]  # blocks that were open when it began
    uint64_t complete_start  # of the last one that is complete
    uint64_t certain_start  # of the last one that is so for every later mount, too
    uint64_t interval  # frames between the starts of two
    uint32_t pace  # frames of the host between two slices
    uint32_t credit

# Only ever growing, also over mounts.
cdef struct Counters:
    uint64_t host_units
    uint64_t moved_units[MOVE_KINDS]
    uint64_t padding_units
    uint64_t meta_frames
    uint64_t frames
    uint64_t erases
    uint64_t slc_erases  # of them, into SLC mode
    uint64_t trimmed_units
    uint64_t lost_units
    uint64_t read_units
    uint64_t corrected_bits
    uint64_t failed_reads
    uint64_t failed_programs
    uint64_t failed_erases
    uint64_t checkpoints
    uint64_t refreshed_blocks
    uint64_t levelled_blocks
    uint64_t purges
    uint64_t advice_taken
    uint64_t advice_stale

# Bytes of frames programmed since the mount: each is counted once.
cdef struct Programmed:
    uint64_t direct[OWNERS]  # for an owner's data, or because it asked for something
    uint64_t overhead  # collection, checkpoints ahead of need
    uint64_t nobody  # refresh, levelling, retirement
    uint64_t moved_units[MOVE_KINDS][OWNERS]  # whose they were, whoever paid

cdef struct Settings:
    bint separate  # hot and cold apart
    bint by_age  # collect what has been free for long before what may soon be freer still; else greedily
    bint levelling
    uint32_t refresh_share  # percent of the ECC's strength
    uint32_t worn_share  # of it, for new data
    uint32_t refresh_reads  # of a block
    uint64_t refresh_hours  # at the profile's reference temperature; 0: never by age
    bint host_sync

cdef struct Ftl:
    Chip *chip
    uint32_t unit_bytes
    uint32_t units
    uint32_t blocks
    uint32_t block_units  # slots that are numbered for each block
    FrameLayout layouts[2]  # by SLC mode
    uint16_t *partner  # by frame: the page that endangers it; NULL: none does
    Settings settings
    uint32_t *map
    uint32_t *valid  # units, by block
    uint8_t *use
    uint8_t *flags
    uint16_t *written  # frames
    uint32_t *erases
    uint32_t *reads  # since it was erased
    uint32_t *hours  # when it was opened, as the chip counts them
    uint64_t *dead_since  # sequence number that made the last of it needless; of a live meta block: its last frame
    uint64_t sequence  # of the last frame
    uint64_t synced  # up to where the host's disk has it
    uint32_t free_blocks
    uint32_t bad_blocks
    uint32_t doomed_blocks  # a program failed in them; they are bad as soon as nothing in them is needed
    uint32_t first_bad  # bad when it was formatted
    uint32_t reserve_blocks  # that may go bad before it becomes read-only
    bint read_only
    bint end_noted  # that it is read-only stands in a checkpoint
    bint exhausted  # not even what was accepted can be written
    bint lost_power
    uint64_t generation  # of the block table: one for each block opened or freed
    uint32_t stream_count  # in use
    Move move
    Advised advised[ADVISED_MAX]
    uint32_t advised_count
    uint32_t advised_next
    TrimLog trims
    Checkpoint checkpoint
    uint32_t patrol_block
    uint32_t patrol_frame
    uint32_t worst_share  # of the ECC's strength that a read has needed since somebody asked, in percent
    Counters counters
    OwnerTable table  # what lies behind the last granule belongs to 0
    bint isolated  # units of different owners never share a block
    bint present[OWNERS]  # who has a granule
    uint8_t *owner  # of a block's units, where they are isolated
    uint32_t small_lanes  # that may be open
    uint32_t writer  # owner of the last write
    uint32_t caller  # owner of the running call
    uint32_t cause
    uint32_t step_limit  # frames that one call may move to make room, before FTL_MORE; 0: any number
    uint64_t ready_ns  # the latest of the chip's operations since it was set to 0
    char *frame_buffer
    char *padding  # a unit of it
    Programmed programmed
    Stream streams[STREAMS_MOST]  # behind those of everybody, or of owner 0: lanes of the others
