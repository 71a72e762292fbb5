"""CRC32C, for C-level callers (`crc32c.h`)."""

from libc.stdint cimport uint32_t

cdef extern from "crc32c.h" nogil:
    uint32_t crc32c(uint32_t crc, const void *bytes, size_t length)
