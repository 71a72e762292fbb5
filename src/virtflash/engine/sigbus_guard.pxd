"""Guest memory that its owner truncates while it is used: see `sigbus_guard.h`."""

from libc.stdint cimport uint32_t

cdef extern from "sigbus_guard.h" nogil:
    int guard_install()
    int guard_add(void *start, size_t size, size_t page, uint32_t *lost)
    void guard_remove(int entry)
    void touch(const char *byte)
    uint32_t guard_loss_count()
