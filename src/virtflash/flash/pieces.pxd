"""Copies between the pieces of memory that an operation names and one place in the image."""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset
from posix.uio cimport iovec

from virtflash.flash.chip cimport FlashOperation


cdef inline void gather(char *into, const FlashOperation *operation) noexcept nogil:
    cdef uint32_t done = 0
    cdef uint32_t length
    cdef uint32_t i
    for i in range(operation.iov_count):
        length = min(<uint32_t>operation.iov[i].iov_len, operation.length - done)
        memcpy(into + done, operation.iov[i].iov_base, length)
        done += length


cdef inline void scatter(FlashOperation *operation, const char *source) noexcept nogil:
    cdef uint32_t done = 0
    cdef uint32_t length
    cdef uint32_t i
    for i in range(operation.iov_count):
        length = min(<uint32_t>operation.iov[i].iov_len, operation.length - done)
        memcpy(operation.iov[i].iov_base, source + done, length)
        done += length


cdef inline void fill(FlashOperation *operation, int byte) noexcept nogil:
    cdef uint32_t done = 0
    cdef uint32_t length
    cdef uint32_t i
    for i in range(operation.iov_count):
        length = min(<uint32_t>operation.iov[i].iov_len, operation.length - done)
        memset(operation.iov[i].iov_base, byte, length)
        done += length


cdef inline void flip_bit(FlashOperation *operation, uint32_t offset, uint32_t bit) noexcept nogil:
    """Of the byte `offset` of what was asked for."""
    cdef uint32_t i
    for i in range(operation.iov_count):
        if offset < operation.iov[i].iov_len:
            (<char *>operation.iov[i].iov_base)[offset] ^= <char>(1 << bit)
            return
        offset -= <uint32_t>operation.iov[i].iov_len


cdef inline void set_bit(FlashOperation *operation, uint32_t offset, uint32_t bit) noexcept nogil:
    """Of the byte `offset` of what was asked for."""
    cdef uint32_t i
    for i in range(operation.iov_count):
        if offset < operation.iov[i].iov_len:
            (<char *>operation.iov[i].iov_base)[offset] |= <char>(1 << bit)
            return
        offset -= <uint32_t>operation.iov[i].iov_len


cdef inline void clear_bits(char *into, const FlashOperation *operation) noexcept nogil:
    """Those that are 0 in what the operation brings."""
    cdef uint32_t done = 0
    cdef uint32_t length
    cdef uint32_t i
    cdef uint32_t byte
    for i in range(operation.iov_count):
        length = min(<uint32_t>operation.iov[i].iov_len, operation.length - done)
        for byte in range(length):
            into[done + byte] &= (<char *>operation.iov[i].iov_base)[byte]
        done += length
