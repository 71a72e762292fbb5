"""I/O by system calls that may block: what a worker thread does for one slot.

`perform` returns bytes or 0 or -errno, and the reactor decides what becomes of it; or UNFINISHED, for long ranges,
which are done in parts so that others have their turn.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.errno cimport errno
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from virtflash.engine.atomics cimport load_relaxed_u32
from virtflash.engine.state cimport (
    OP_DISCARD,
    OP_LIFETIME,
    OP_READ,
    OP_SECURE_ERASE,
    OP_WRITE,
    OP_WRITE_ZEROES,
    BindingState,
    Segment,
    Slot,
)
from virtflash.engine.system cimport (
    BLKDISCARD,
    BLKSECDISCARD,
    EINTR,
    EIO,
    EOPNOTSUPP,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    RWF_DSYNC,
    block_range_ioctl,
    fallocate,
    fdatasync,
    pread,
    preadv2,
    pwrite,
    pwritev2,
)
from virtflash.engine.transfer_target cimport is_sync
from virtflash.engine.virtio cimport LIFETIME_ESTIMATE_MAX, RANGE_FLAG_UNMAP, SECTOR_BYTES

cdef enum:
    ZERO_BYTES = 65536
    UNFINISHED = 1
    ZEROES_PART_SECTORS = 16384  # 8 MiB: that may have to be written out
    DISCARD_PART_SECTORS = 524288  # 256 MiB
    SMALL_SECTORS = 2048  # several ranges up to this size are done in one go


cdef inline int32_t sync_file(BindingState *binding) noexcept nogil:
    return -errno if fdatasync(binding.fd) else 0


cdef inline int32_t transfer(Slot *slot, int fd) noexcept nogil:
    """One read or write, as far as the kernel takes it in one call."""
    cdef iovec bounce
    cdef iovec *iov = slot.iov
    cdef uint32_t count = slot.iov_count
    cdef ssize_t done
    if slot.bounce != NULL:
        bounce.iov_base = slot.bounce
        bounce.iov_len = slot.bounce_bytes
        iov = &bounce
        count = 1
    while True:
        if slot.operation == OP_READ:
            done = preadv2(fd, iov, count, slot.offset, 0)
        else:
            done = pwritev2(fd, iov, count, slot.offset, RWF_DSYNC if slot.stable else 0)
        if done >= 0:
            return <int32_t>done
        if errno != EINTR:
            return -errno


cdef inline int32_t change_file(int fd, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    while fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, length):
        if errno != EINTR:
            return -errno
    return 0


cdef inline int32_t discard(BindingState *binding, uint64_t offset, uint64_t length) noexcept nogil:
    if binding.block_device:
        return block_range_ioctl(binding.fd, BLKDISCARD, offset, length)
    return change_file(binding.fd, FALLOC_FL_PUNCH_HOLE, offset, length)


cdef inline int32_t write_zero_bytes(int fd, uint64_t offset, uint64_t length) noexcept nogil:
    """Zeroes as data, where the file system knows no better way."""
    cdef char zeroes[ZERO_BYTES]
    cdef ssize_t done
    memset(zeroes, 0, ZERO_BYTES)
    while length:
        done = pwrite(fd, zeroes, ZERO_BYTES if length > ZERO_BYTES else length, offset)
        if done < 0 and errno == EINTR:
            continue
        if done <= 0:
            return -errno if done else -EIO
        offset += done
        length -= done
    return 0


cdef inline int32_t write_zeroes(BindingState *binding, bint unmap, uint64_t offset, uint64_t length) noexcept nogil:
    """Reads return zeroes afterwards; with UNMAP the space may be given back (virtio 1.4 §5.2.6.2)."""
    cdef int32_t result = -EOPNOTSUPP
    if unmap:
        result = change_file(binding.fd, FALLOC_FL_PUNCH_HOLE, offset, length)
    if result == -EOPNOTSUPP and binding.zero_range:
        result = change_file(binding.fd, FALLOC_FL_ZERO_RANGE, offset, length)
    if result == -EOPNOTSUPP:
        result = write_zero_bytes(binding.fd_unaligned if binding.fd_unaligned >= 0 else binding.fd, offset, length)
    return result


cdef inline int32_t change_range(Slot *slot, uint64_t sector, uint64_t sectors, uint32_t flags) noexcept nogil:
    cdef BindingState *binding = slot.queue.binding
    cdef uint64_t offset = sector * SECTOR_BYTES
    cdef uint64_t length = sectors * SECTOR_BYTES
    if slot.operation == OP_DISCARD:
        return discard(binding, offset, length)
    if slot.operation == OP_WRITE_ZEROES:
        return write_zeroes(binding, flags & RANGE_FLAG_UNMAP, offset, length)
    return block_range_ioctl(binding.fd, BLKSECDISCARD, offset, length)


cdef inline uint64_t part_sectors(const Slot *slot, uint64_t sector, uint64_t left) noexcept nogil:
    """How much of a range to do before others have their turn: up to a multiple of the part's size, so that no erase
    unit is cut in two."""
    cdef uint64_t part = ZEROES_PART_SECTORS if slot.operation == OP_WRITE_ZEROES else DISCARD_PART_SECTORS
    cdef uint64_t room = part - sector % part
    if slot.operation == OP_SECURE_ERASE:
        return left
    return left if left < room else room


cdef inline int32_t change_ranges(Slot *slot) noexcept nogil:
    """One part of what is left to do; UNFINISHED: there is more."""
    cdef Segment *segment
    cdef uint64_t sector
    cdef uint64_t sectors
    cdef int32_t result
    while slot.segments_done < slot.segment_count:
        segment = &slot.segments[slot.segments_done]
        sector = segment.sector + slot.sectors_done
        sectors = part_sectors(slot, sector, segment.count - slot.sectors_done)
        result = change_range(slot, sector, sectors, segment.flags) if sectors else 0
        if result:
            return result
        slot.sectors_done += sectors
        if slot.sectors_done < segment.count:
            return UNFINISHED
        slot.segments_done += 1
        slot.sectors_done = 0
        if slot.segments_done < slot.segment_count and sectors >= SMALL_SECTORS:
            return UNFINISHED
    if slot.operation == OP_WRITE_ZEROES and slot.stable:
        return sync_file(slot.queue.binding)
    return 0


cdef inline bint is_unfinished(const Slot *slot) noexcept nogil:
    """Of a slot that was worked on: has it to be worked on again?"""
    return slot.segment_count != 0 and slot.result == UNFINISHED


cdef inline int hex_digit(char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    c = c | 0x20
    return c - c'a' + 10 if c'a' <= c <= c'f' else -1


cdef inline int read_hex_bytes(int fd, uint8_t *values, int count) noexcept nogil:
    """Parse the "0x01 0x02" of the kernel's eMMC attributes; returns how many values there were, or -errno."""
    cdef char text[64]
    cdef ssize_t length = pread(fd, text, sizeof(text) - 1, 0)
    cdef ssize_t i = 0
    cdef int found = 0
    if length < 0:
        return -errno
    text[length] = 0
    while found < count and i + 1 < length:
        if text[i] == c'0' and (text[i + 1] | 0x20) == c'x':
            i += 2
        elif hex_digit(text[i]) >= 0:
            values[found] = 0
            while i < length and hex_digit(text[i]) >= 0:
                values[found] = values[found] * 16 + hex_digit(text[i])
                i += 1
            found += 1
        else:
            i += 1
    return found


cdef inline void keep_lifetime(Slot *slot, const uint8_t *raw) noexcept nogil:
    """The three figures, as virtio_blk_lifetime (§5.2.6), into the first segment; reserved values are never sent."""
    cdef uint8_t answer[6]
    cdef int i
    memset(answer, 0, sizeof(answer))
    answer[0] = raw[0] if raw[0] <= 3 else 0
    for i in range(1, 3):
        answer[2 * i] = raw[i] if raw[i] <= LIFETIME_ESTIMATE_MAX else 0
    memcpy(slot.segments, answer, sizeof(answer))


cdef inline int32_t read_lifetime(Slot *slot) noexcept nogil:
    cdef BindingState *binding = slot.queue.binding
    cdef uint8_t raw[3]
    if read_hex_bytes(binding.pre_eol_fd, raw, 1) != 1 or read_hex_bytes(binding.life_time_fd, raw + 1, 2) != 2:
        return -EIO
    keep_lifetime(slot, raw)
    return 0


cdef inline int32_t perform(Slot *slot, int fd) noexcept nogil:
    """Do a slot's I/O in this thread. `fd`: the descriptor that fits its alignment."""
    if is_sync(slot):
        return sync_file(slot.queue.binding)
    if slot.operation == OP_READ or slot.operation == OP_WRITE:
        return transfer(slot, fd)
    if slot.operation == OP_LIFETIME:
        return read_lifetime(slot)
    return change_ranges(slot)
