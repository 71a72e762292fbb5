"""Signals that never wait: see `bell.h`."""

cdef extern from "bell.h" nogil:
    ctypedef struct Ringer "struct ringer":
        pass

    ctypedef struct Bell "struct bell":
        pass

    void ringer_make(Ringer *ringer, int quiet, bint rings)
    void bell_set(Bell *bell, const Ringer *ringer, int fd, bint often)
    void bell_ring(Bell *bell, Ringer *ringer, int fd)
    void bell_unmake(Bell *bell)
