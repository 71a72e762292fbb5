"""What the data plane uses of liburing."""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef extern from "liburing.h" nogil:
    enum:
        IORING_SETUP_CQSIZE
        IORING_SETUP_CLAMP
        IORING_SETUP_SUBMIT_ALL
        IORING_SETUP_SINGLE_ISSUER
        IORING_SETUP_DEFER_TASKRUN
        IORING_SETUP_TASKRUN_FLAG
        IORING_FSYNC_DATASYNC
        IOSQE_FIXED_FILE
        IORING_OP_READ
        IORING_OP_WRITEV
        IORING_OP_FSYNC

    cdef struct io_uring_params:
        uint32_t flags
        uint32_t cq_entries

    cdef struct io_uring_sqe:
        unsigned char flags
        int rw_flags

    cdef struct io_uring_cqe:
        uint64_t user_data
        int32_t res

    cdef struct kernel_timespec "__kernel_timespec":
        long long tv_sec
        long long tv_nsec

    cdef struct io_uring:
        pass

    cdef struct io_uring_probe:
        pass

    int io_uring_queue_init_params(unsigned entries, io_uring *ring, io_uring_params *params)
    void io_uring_queue_exit(io_uring *ring)
    io_uring_probe *io_uring_get_probe_ring(io_uring *ring)
    void io_uring_free_probe(io_uring_probe *probe)
    int io_uring_opcode_supported(const io_uring_probe *probe, int op)
    int io_uring_register_files_sparse(io_uring *ring, unsigned nr)
    int io_uring_register_files_update(io_uring *ring, unsigned offset, const int *files, unsigned nr)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    unsigned io_uring_sq_ready(const io_uring *ring)
    int io_uring_submit(io_uring *ring)
    int io_uring_submit_and_wait(io_uring *ring, unsigned wait)
    int io_uring_submit_and_wait_timeout(
        io_uring *ring, io_uring_cqe **cqe, unsigned wait, kernel_timespec *timeout, void *signals
    )
    unsigned io_uring_peek_batch_cqe(io_uring *ring, io_uring_cqe **cqes, unsigned count)
    void io_uring_cq_advance(io_uring *ring, unsigned count)
    void io_uring_prep_read(io_uring_sqe *sqe, int fd, void *buffer, unsigned length, uint64_t offset)
    void io_uring_prep_write(io_uring_sqe *sqe, int fd, const void *buffer, unsigned length, uint64_t offset)
    void io_uring_prep_readv(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned count, uint64_t offset)
    void io_uring_prep_writev(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned count, uint64_t offset)
    void io_uring_prep_fsync(io_uring_sqe *sqe, int fd, unsigned flags)
    void io_uring_prep_poll_add(io_uring_sqe *sqe, int fd, unsigned mask)
    void io_uring_prep_cancel(io_uring_sqe *sqe, void *user_data, int flags)
    void io_uring_sqe_set_data(io_uring_sqe *sqe, void *data)
    void io_uring_sqe_set_flags(io_uring_sqe *sqe, unsigned flags)
