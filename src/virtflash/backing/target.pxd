"""The contract between the data plane and storage that this process emulates: calls instead of file I/O.

All calls come from the one thread that owns the target (a reactor while it is served), so there are no locks. A call
returns bytes or 0, or -errno, or one of the values below; it never waits for a device. Sectors are of 512 bytes; ranges
were checked against the capacity before.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef enum:
    TARGET_MORE = 0x10000  # of `change`: a part is done, call again with the same arguments
    TARGET_SYNC = 0x10001  # nothing was done: sync the image, tell `synced`, call again (a host disk is behind on what
    # the flash must not lose before it erases)
    TARGET_ROOM = 0x10003  # nothing was taken, but room was made: call again, when others had their turn; only gently

cdef enum:
    TARGET_DISCARD
    TARGET_WRITE_ZEROES
    TARGET_UNMAP_ZEROES  # write zeroes that may unmap
    TARGET_SECURE_ERASE

# Where `change` has come to with a long range: the caller keeps it, zeroed at first, and does not look into it.
cdef struct TargetProgress:
    uint64_t done
    uint64_t stage
    uint64_t passed  # sectors of the range that are done wholly, for a target that takes it in pieces

cdef struct Target:
    void *self
    int sync_fd  # to fdatasync where data must survive a crash of the host; -1: nothing behind it would
    int32_t (*read)(void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes) noexcept nogil
    int32_t (*write)(void *self, uint64_t sector, const iovec *iov, uint32_t pieces, uint64_t bytes) noexcept nogil
    # Everything that was written before (with a `caller`: by the same one) survives a power cut after this, and a crash
    # of the host after a sync that begins after this has completed.
    int32_t (*flush)(void *self) noexcept nogil
    # One sector range of a discard, write zeroes or secure erase; TARGET_MORE while there is more to do.
    int32_t (*change)(void *self, int kind, uint64_t sector, uint64_t sectors, TargetProgress *progress) noexcept nogil
    int32_t (*lifetime)(void *self, uint8_t *three) noexcept nogil  # PRE_EOL_INFO, estimate A, estimate B
    uint64_t (*sync_begins)(void *self) noexcept nogil  # a mark of what a sync that begins now will cover
    void (*synced)(void *self, uint64_t mark) noexcept nogil  # it has succeeded
    # A slice of work for the device's own sake (collection, refresh), of tens of microseconds; called when no request
    # waits. True: there is more to do now.
    bint (*work)(void *self) noexcept nogil
    # When the operations of the last call would be done on the real part, on the monotonic clock; 0: at once. Requests
    # complete no earlier; work is not called before.
    uint64_t (*ready_ns)(void *self) noexcept nogil
    uint64_t now_ns  # written by the owner before each batch of calls: its monotonic clock
    bint gentle  # written with it: somebody else is not to wait. A call does little: a flush one frame (TARGET_MORE),
    # and where room has to be made first, some of that (TARGET_ROOM)
    # When all that was begun would be done on the real part, on the monotonic clock; NULL: it takes no time.
    uint64_t (*busy_ns)(void *self) noexcept nogil
    uint64_t (*operations)(void *self) noexcept nogil  # programs and erases so far; NULL: nobody counts
    # Shared by all targets that are parts of one: latched when a sync of the file failed, which the kernel tells once.
    # NULL: nobody else has to hear of it.
    uint32_t *host_failed
    # Bytes of flash programmed so far on behalf of an owner, with its share of what all pay for; NULL: nobody counts.
    # `owner`: a number from 1 on, as `FlashTarget.set_owners` was told; a target that has one owner takes 0 for it.
    uint64_t (*programmed)(void *self, uint32_t owner) noexcept nogil
    uint32_t caller  # written before each call by a target on top of this one: the owner that it is made for; 0: nobody
    # Written before each flush: where a gentle one, which takes many calls, keeps how far it has to go; what comes
    # meanwhile is no part of it. Zeroed at first, and kept by whoever calls. NULL: all there is, whenever it came.
    uint64_t *flush_mark

# What a capsule called "virtflash.engine.Call" holds: something to be done on the thread that owns a target.
cdef struct Call:
    void (*function)(void *argument) noexcept nogil
    void *argument
