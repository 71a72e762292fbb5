"""What wakes a sleeping reactor: kicks, its mailbox, its workers.

With io_uring each is a read that waits in the kernel, also for most descriptors that are non-blocking; where the kernel
says EAGAIN instead, a poll waits and a read that does not follows. Without io_uring, one `poll`. A kick descriptor is
whatever the front end sent (an eventfd, a pipe, a socket) and still holds: it may change its flags and read it too.
"""

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from posix.time cimport timespec
from posix.uio cimport iovec

from virtflash.engine.atomics cimport count_u64
from virtflash.engine.completion cimport raise_event
from virtflash.engine.state cimport EVENT_KICK_LOST, IO_THREADS, QueueState, ReactorState
from virtflash.engine.submission cimport next_entry
from virtflash.engine.system cimport (
    EAGAIN,
    ECANCELED,
    EINTR,
    ENOTSOCK,
    EOPNOTSUPP,
    MSG_DONTWAIT,
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    RWF_NOWAIT,
    pollfd,
    ppoll,
    preadv2,
    read,
    recv,
)
from virtflash.engine.uring cimport (
    io_uring_prep_cancel,
    io_uring_prep_poll_add,
    io_uring_prep_read,
    io_uring_sqe,
    io_uring_sqe_set_data,
    io_uring_sqe_set_flags,
)

cdef enum:
    SECOND_NS = 1000000000

# The low bits of an io_uring completion's user data tell what it is about; slots and queues are aligned to more.
cdef enum:
    TAG_SLOT = 0
    TAG_KICK = 1
    TAG_MAILBOX = 2
    TAG_POOL = 3
    TAG_CANCEL = 4
    TAG_MASK = 7


cdef inline bint arm_read(ReactorState *reactor, int fd, void *into, uint32_t length, void *data) noexcept nogil:
    cdef io_uring_sqe *entry = next_entry(reactor)
    if entry == NULL:
        return False
    io_uring_prep_read(entry, fd, into, length, 0)
    io_uring_sqe_set_flags(entry, 0)
    io_uring_sqe_set_data(entry, data)
    return True


cdef inline bint arm_poll(ReactorState *reactor, int fd, void *data) noexcept nogil:
    cdef io_uring_sqe *entry = next_entry(reactor)
    if entry == NULL:
        return False
    io_uring_prep_poll_add(entry, fd, POLLIN)
    io_uring_sqe_set_flags(entry, 0)
    io_uring_sqe_set_data(entry, data)
    return True


cdef inline bint arm_kick(ReactorState *reactor, QueueState *queue) noexcept nogil:
    cdef void *data = <void *>(<uintptr_t>queue | TAG_KICK)
    if queue.kick_armed or queue.kick_lost or queue.broken or queue.stop_command != NULL:
        return True
    if queue.kick_by_poll:
        queue.kick_armed = arm_poll(reactor, queue.kick_fd, data)
    else:
        queue.kick_armed = arm_read(reactor, queue.kick_fd, queue.kick_bytes, sizeof(queue.kick_bytes), data)
    return queue.kick_armed


cdef inline void cancel_kick(ReactorState *reactor, QueueState *queue) noexcept nogil:
    """Take the waiting read back from the kernel; it ends with ECANCELED."""
    cdef io_uring_sqe *entry
    if not queue.kick_armed or queue.kick_cancelled:
        return
    entry = next_entry(reactor)
    if entry == NULL:
        return
    io_uring_prep_cancel(entry, <void *>(<uintptr_t>queue | TAG_KICK), 0)
    io_uring_sqe_set_flags(entry, 0)
    io_uring_sqe_set_data(entry, <void *>TAG_CANCEL)
    queue.kick_cancelled = True


cdef inline void kicked(QueueState *queue, int32_t result) noexcept nogil:
    """A read of the kick descriptor ended."""
    if result > 0:
        count_u64(&queue.statistics.kicks, 1)
    elif result == -EAGAIN:
        queue.kick_by_poll = True  # non-blocking, on a kernel that does not wait for such files
    elif result != -ECANCELED and result != -EINTR:
        queue.kick_lost = True  # its end, or no descriptor to read: nobody will kick here any more
        raise_event(queue.binding, EVENT_KICK_LOST, queue.index, -result)


cdef inline int32_t read_without_waiting(int fd, void *into, size_t length) noexcept nogil:
    """Bytes or -errno. What was announced may be gone: somebody else has the same descriptor."""
    cdef iovec iov
    cdef ssize_t result
    iov.iov_base = into
    iov.iov_len = length
    result = preadv2(fd, &iov, 1, -1, RWF_NOWAIT)
    if result < 0 and errno == EOPNOTSUPP:  # before Linux 6.5 sockets, and before 6.4 pipes, which are non-blocking
        result = recv(fd, into, length, MSG_DONTWAIT)
        if result < 0 and errno == ENOTSOCK:
            result = read(fd, into, length)
    return <int32_t>result if result >= 0 else -errno


cdef inline void polled(QueueState *queue, int events) noexcept nogil:
    """A poll of the kick descriptor ended; `events` as poll(2) gives them. Take the kick, so that pipes never fill."""
    cdef int32_t result = read_without_waiting(queue.kick_fd, queue.kick_bytes, sizeof(queue.kick_bytes))
    if result == -EAGAIN and events & (POLLERR | POLLHUP | POLLNVAL):
        result = 0  # it would be announced again at once, for ever
    kicked(queue, result)


cdef inline void kick_completed(QueueState *queue, int32_t result) noexcept nogil:
    """What io_uring waited for happened."""
    queue.kick_armed = False
    queue.kick_cancelled = False
    if queue.kick_by_poll and result > 0:
        polled(queue, result)
    else:
        kicked(queue, result)


cdef inline bint arm_all(ReactorState *reactor) noexcept nogil:
    """False: the kernel does not take something now that would have to wake us."""
    cdef bint armed = True
    cdef uint32_t i
    for i in range(reactor.queue_count):
        armed = arm_kick(reactor, reactor.queues[i]) and armed
    if not reactor.mailbox_armed:
        reactor.mailbox_armed = arm_read(
            reactor, reactor.mailbox.event_fd, &reactor.mailbox_count, sizeof(uint64_t), <void *>TAG_MAILBOX
        )
    if not reactor.pool_armed:
        reactor.pool_armed = arm_read(
            reactor, reactor.pool.event_fd, &reactor.pool_count, sizeof(uint64_t), <void *>TAG_POOL
        )
    return armed and reactor.mailbox_armed and reactor.pool_armed


cdef inline void poll_all(ReactorState *reactor, pollfd *fds, uint64_t limit_ns) noexcept nogil:
    """Without io_uring: sleep until something happens, `limit_ns` at most; 0: without a limit. `fds` has room for every
    queue and two more."""
    cdef timespec limit
    cdef uint64_t count
    cdef uint32_t i
    for i in range(reactor.queue_count):
        fds[i].fd = -1 if reactor.queues[i].kick_lost or reactor.queues[i].broken else reactor.queues[i].kick_fd
        fds[i].events = POLLIN
    fds[reactor.queue_count].fd = reactor.mailbox.event_fd
    fds[reactor.queue_count + 1].fd = reactor.pool.event_fd
    fds[reactor.queue_count].events = fds[reactor.queue_count + 1].events = POLLIN
    limit.tv_sec, limit.tv_nsec = limit_ns // SECOND_NS, limit_ns % SECOND_NS
    if ppoll(fds, reactor.queue_count + 2, &limit if limit_ns else NULL, NULL) <= 0:
        return
    for i in range(reactor.queue_count):
        if fds[i].revents:
            polled(reactor.queues[i], fds[i].revents)
    for i in range(reactor.queue_count, reactor.queue_count + 2):
        if fds[i].revents:
            read(fds[i].fd, &count, sizeof(count))
