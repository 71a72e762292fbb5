"""CRC32C: see `crc32c.h`."""

from libc.stdint cimport uint32_t

cdef extern from "crc32c.h" nogil:
    uint32_t crc32c(const void *data, size_t size)
    uint32_t crc32c_plain(const void *data, size_t size)
