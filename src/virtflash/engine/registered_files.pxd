"""Files that io_uring knows by number, so that it need not look each up on every request."""

from libc.stdint cimport uint32_t

from virtflash.engine.state cimport REGISTERED_FILES, QueueState, ReactorState
from virtflash.engine.uring cimport io_uring_register_files_update


cdef inline int register_file(ReactorState *reactor, int fd) noexcept nogil:
    """Number of a file, or -1 when it is to be used by its descriptor."""
    cdef int position = -1
    cdef int i
    if fd < 0 or not reactor.files_registered:
        return -1
    for i in range(REGISTERED_FILES):
        if reactor.files[i].users and reactor.files[i].fd == fd:
            reactor.files[i].users += 1
            return i
        if reactor.files[i].users == 0 and position < 0:
            position = i
    if position < 0 or io_uring_register_files_update(&reactor.ring, position, &fd, 1) < 1:
        return -1
    reactor.files[position].fd = fd
    reactor.files[position].users = 1
    return position


cdef inline void release_file(ReactorState *reactor, int position) noexcept nogil:
    cdef int none = -1
    if position < 0:
        return
    reactor.files[position].users -= 1
    if reactor.files[position].users == 0:
        io_uring_register_files_update(&reactor.ring, position, &none, 1)


cdef inline void register_queue_files(ReactorState *reactor, QueueState *queue) noexcept nogil:
    queue.file_index = register_file(reactor, queue.binding.fd)
    queue.file_unaligned_index = register_file(reactor, queue.binding.fd_unaligned)


cdef inline void release_queue_files(ReactorState *reactor, QueueState *queue) noexcept nogil:
    release_file(reactor, queue.file_index)
    release_file(reactor, queue.file_unaligned_index)
