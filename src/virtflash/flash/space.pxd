"""Room in the image file: reserved before it is touched, given back where nothing is needed.

Who touches a hole while the host's disk is full gets a SIGBUS; on tmpfs who only reads one, too. And the kernel may
take pages together, up to a huge page, and wants room for all of them at the first write to one: so room is reserved in
whole windows of that size, and anew after anything in a window was given back.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from virtflash.engine.system cimport FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate, monotonic_ns, pwrite
from virtflash.flash.device cimport Device, block_pages, is_hollow, page_bytes, page_data, page_record
from virtflash.flash.image cimport BLOCK_BAD, BLOCK_NOT_WIPED, BlockRecord, PageRecord
from virtflash.flash.page_record cimport is_programmed, is_stale

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/fiemap.h>
    #include <linux/fs.h>
    #include <string.h>
    #include <sys/ioctl.h>

    static inline int is_mapped(int fd, uint64_t begin, uint64_t end)
    {
        struct { struct fiemap map; struct fiemap_extent extents[32]; } found;
        while (begin < end) {
            memset(&found.map, 0, sizeof(found.map));
            found.map.fm_start = begin;
            found.map.fm_length = end - begin;
            found.map.fm_extent_count = 32;
            if (ioctl(fd, FS_IOC_FIEMAP, &found.map) || found.map.fm_mapped_extents == 0)
                return 0;
            for (uint32_t i = 0; i < found.map.fm_mapped_extents; i++) {
                struct fiemap_extent *extent = &found.map.fm_extents[i];
                if (extent->fe_logical > begin || extent->fe_flags & FIEMAP_EXTENT_SHARED)
                    return 0;
                begin = extent->fe_logical + extent->fe_length;
            }
        }
        return 1;
    }

    /* Does the file have all of this already, with or without something in it? False too where nobody tells. errno
     * stays what it was: that of a request for room that failed. */
    static inline int is_allocated(int fd, uint64_t begin, uint64_t end)
    {
        int error = errno;
        int answer = is_mapped(fd, begin, end);
        errno = error;
        return answer;
    }
    """
    bint is_allocated(int fd, uint64_t begin, uint64_t end) nogil

cdef enum:
    ZEROES = 4096
    FULL_REST = 10  # times as long as a refusal took, nobody asks: a full Btrfs searches itself for half a second


cdef inline bint allocate(Device *device, int mode, uint64_t offset, uint64_t length) noexcept nogil:
    while fallocate(device.fd, mode, offset, length):
        if errno != EINTR:
            return False
    return True


cdef inline bint reserve_window(Device *device, uint64_t window) noexcept nogil:
    cdef uint64_t begin = window << device.window_shift
    cdef uint64_t end = min((window + 1) << device.window_shift, device.mapped_bytes)
    cdef uint64_t asked_ns = monotonic_ns()
    if asked_ns < device.full_until_ns:
        return False
    # On a full XFS, room cannot be asked for even where it is there.
    if not allocate(device, 0, begin, end - begin) and not is_allocated(device.fd, begin, end):
        device.full_until_ns = monotonic_ns() + FULL_REST * (monotonic_ns() - asked_ns)
        return False
    device.reserved[window] = True
    return True


cdef inline bint reserve(Device *device, const void *start, uint64_t size) noexcept nogil:
    """Before this part of the image is written. False: the host has no room for it."""
    cdef uint64_t window = <uint64_t>(<const char *>start - device.base) >> device.window_shift
    cdef uint64_t last = <uint64_t>(<const char *>start - device.base + size - 1) >> device.window_shift
    if device.read_only:
        return True  # what is written stays in private memory
    while window <= last:
        if not device.reserved[window] and not reserve_window(device, window):
            return False
        window += 1
    return True


cdef inline bint reserve_records(Device *device, uint32_t block) noexcept nogil:
    """The records of all the block's pages."""
    return reserve(device, page_record(device, block, 0), <uint64_t>device.record_pages * device.record_bytes)


cdef inline bint reserve_page(Device *device, uint32_t block, uint32_t page) noexcept nogil:
    """A page's data, and the records of its block: those of pages that are not programmed are looked at, too."""
    if not reserve_records(device, block):
        return False
    if is_hollow(device, &device.blocks[block]):
        return True
    return reserve(device, page_data(device, block, page), page_bytes(device, &device.blocks[block]))


cdef inline void write_zeroes(Device *device, uint64_t offset, uint64_t length) noexcept nogil:
    """By system call: one that finds no room fails, and kills nobody."""
    cdef char zeroes[ZEROES]
    cdef ssize_t done
    memset(zeroes, 0, ZEROES)
    while length:
        done = pwrite(device.fd, zeroes, min(length, <uint64_t>ZEROES), offset)
        if done <= 0 and errno != EINTR:
            return
        if done > 0:
            offset += done
            length -= done


cdef inline void give_up(Device *device, uint64_t offset, uint64_t length) noexcept nogil:
    cdef uint64_t window
    device.full_until_ns = 0
    for window in range(offset >> device.window_shift, ((offset + length - 1) >> device.window_shift) + 1):
        device.reserved[window] = False


cdef inline void wipe(Device *device, uint32_t block, uint64_t begin, uint64_t end) noexcept nogil:
    """Bytes of a block's data that nobody needs: a hole where the file system makes one, else zeroes."""
    cdef uint64_t offset = device.data - device.base + block * device.block_bytes + begin
    if begin == end:
        return
    give_up(device, offset, end - begin)
    if not allocate(device, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, end - begin):
        write_zeroes(device, offset, end - begin)


cdef inline void wipe_records(Device *device, uint32_t block, uint32_t begin, uint32_t end) noexcept nogil:
    """Records of pages that are not programmed, with what they had in their spare bytes."""
    if begin < end:
        write_zeroes(
            device, <char *>page_record(device, block, begin) - device.base,
            <uint64_t>(end - begin) * device.record_bytes,
        )


cdef inline bint is_needed(Device *device, uint32_t number, uint32_t page) noexcept nogil:
    cdef BlockRecord *block = &device.blocks[number]
    if block.flags & BLOCK_BAD or page >= block_pages(device, block):
        return False
    if page >= block.next_page and not is_stale(device, block):
        return False  # nor may there be room for its record
    return is_programmed(block, page_record(device, number, page))


cdef inline void wipe_block(Device *device, uint32_t number) noexcept nogil:
    """Leave nothing in the file of what was erased in this block; of a bad block, nothing at all."""
    cdef BlockRecord *block = &device.blocks[number]
    cdef uint64_t size = page_bytes(device, block)
    cdef uint32_t begin = 0
    cdef uint32_t page
    for page in range(device.record_pages):
        if is_needed(device, number, page):
            wipe(device, number, begin * size, page * size)
            wipe_records(device, number, begin, page)
            begin = page + 1
    wipe(device, number, begin * size, device.block_bytes)
    wipe_records(device, number, begin, device.record_pages)
    block.flags &= ~BLOCK_NOT_WIPED
    if block.flags & BLOCK_BAD:
        block.next_page = 0


cdef inline bint is_unwiped(const BlockRecord *block) noexcept nogil:
    return block.flags & BLOCK_NOT_WIPED or (block.flags & BLOCK_BAD and block.next_page)


cdef inline void wipe_blocks(Device *device, uint32_t first, uint32_t count) noexcept nogil:
    cdef uint32_t block
    for block in range(first, first + min(count, device.geometry.blocks - first)):
        if is_unwiped(&device.blocks[block]):
            wipe_block(device, block)


cdef inline uint32_t give_back(Device *device, uint32_t first, uint32_t count) noexcept nogil:
    """Room of blocks that were erased and not used again, to the host: how many blocks' there was."""
    cdef uint32_t given = 0
    cdef uint32_t block
    if first >= device.geometry.blocks:
        return 0
    for block in range(first, first + min(count, device.geometry.blocks - first)):
        if device.blocks[block].flags & BLOCK_NOT_WIPED and device.blocks[block].next_page == 0:
            wipe_block(device, block)
            given += 1
    return given
