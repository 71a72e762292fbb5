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
