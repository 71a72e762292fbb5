"""Walking through the pieces of a guest's buffer."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy
from posix.uio cimport iovec

cdef struct Cursor:
    const iovec *piece
    uint64_t within  # bytes of it that are behind


cdef inline uint64_t left_in_piece(Cursor *cursor) noexcept nogil:
    """Bytes that lie together from here; steps over pieces that are used up."""
    while cursor.within >= cursor.piece.iov_len:
        cursor.piece += 1
        cursor.within = 0
    return cursor.piece.iov_len - cursor.within


cdef inline char *here(const Cursor *cursor) noexcept nogil:
    return <char *>cursor.piece.iov_base + cursor.within


cdef inline void gather(Cursor *cursor, char *into, uint64_t length) noexcept nogil:
    """Copy from the pieces."""
    cdef uint64_t step
    while length:
        step = min(left_in_piece(cursor), length)
        memcpy(into, here(cursor), step)
        cursor.within += step
        into += step
        length -= step


cdef inline void scatter(Cursor *cursor, const char *data, uint64_t length) noexcept nogil:
    """Copy to the pieces."""
    cdef uint64_t step
    while length:
        step = min(left_in_piece(cursor), length)
        memcpy(here(cursor), data, step)
        cursor.within += step
        data += step
        length -= step
