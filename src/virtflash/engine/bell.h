/* Waking whoever waits on a call or error descriptor, without ever waiting for anybody.
 *
 * The front end has the same descriptor and, but for a pipe that was opened anew, the same flags: it may fill it and make
 * it block at any moment. One reactor serves many front ends, so no signal may depend on O_NONBLOCK. A socket has a flag
 * for one call. An eventfd is rung by the kernel itself, which adds to it or finds it full, and never waits: as the
 * completion of a request that does nothing on a small io_uring of that eventfd's own, or where that is not to be had as
 * the end of an asynchronous read that has nothing to read (IOCB_FLAG_RESFD of io_submit(2)). Measured: 0.20 us for the
 * plain write, 0.35 us and 0.55 us for these. Where the kernel has neither, the eventfd was made non-blocking, and we
 * have to trust that it stays so.
 */
#ifndef VIRTFLASH_BELL_H
#define VIRTFLASH_BELL_H

#include <errno.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BELL_WRITE, BELL_SEND, BELL_EVENTFD, BELL_EVENTFD_RING };
enum { BELL_ENDS = 128 }; /* asynchronous reads that may end before the list of them is emptied */
enum { BELL_TRIES = 8 };  /* other reactors may take the room that was made */

/* Of the process, for good: to give it up takes tens of milliseconds. 0: the kernel has none, or does not ring. */
static aio_context_t bell_context;
static pthread_once_t bell_once = PTHREAD_ONCE_INIT;

/* What a reactor rings with. */
struct ringer {
    struct iocb request;
    int rings; /* io_uring is allowed */
};

/* How one descriptor is rung. The ring is kept for the next one. */
struct bell {
    int kind;
    int has_ring;
    struct io_uring ring;
};

static inline int ringer_submit(struct ringer *ringer, int fd)
{
    struct iocb *requests[1] = {&ringer->request};
    ringer->request.aio_resfd = fd;
    return syscall(SYS_io_submit, bell_context, 1, requests) == 1;
}

/* Room for more ends, which nobody looks at. Every reactor makes it for all. */
static inline void ringer_empty(void)
{
    struct io_event events[BELL_ENDS];
    struct timespec at_once = {0, 0};
    syscall(SYS_io_getevents, bell_context, 0, BELL_ENDS, events, &at_once);
}

/* `quiet`: an eventfd to read no bytes of, which fails and takes nothing from it. */
static inline void ringer_prepare(struct ringer *ringer, int quiet)
{
    memset(ringer, 0, sizeof(*ringer));
    ringer->request.aio_lio_opcode = IOCB_CMD_PREAD;
    ringer->request.aio_fildes = quiet;
    ringer->request.aio_flags = IOCB_FLAG_RESFD;
}

/* Get the context, and try whether this kernel rings. */
static void bell_make_context(void)
{
    struct ringer ringer;
    uint64_t count = 0;
    int trial = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ringer_prepare(&ringer, trial);
    if (trial < 0 || syscall(SYS_io_setup, BELL_ENDS, &bell_context))
        bell_context = 0;
    else if (!ringer_submit(&ringer, trial) || read(trial, &count, sizeof(count)) != sizeof(count) || count != 1)
        bell_context = 0;
    if (trial >= 0)
        close(trial);
}

static inline void ringer_make(struct ringer *ringer, int quiet, int rings)
{
    pthread_once(&bell_once, bell_make_context);
    ringer_prepare(ringer, quiet);
    ringer->rings = rings;
}

static inline int bell_has_ring(struct bell *bell, const struct ringer *ringer)
{
    if (!bell->has_ring && ringer->rings)
        bell->has_ring = io_uring_queue_init(1, &bell->ring, 0) == 0;
    return bell->has_ring;
}

/* From now on this descriptor is rung, or none (-1). `often`: a ring for it is worth its memory. */
static inline void bell_set(struct bell *bell, const struct ringer *ringer, int fd, int often)
{
    struct stat status;
    if (bell->kind == BELL_EVENTFD_RING)
        io_uring_unregister_eventfd(&bell->ring);
    bell->kind = BELL_WRITE;
    if (fd < 0 || fstat(fd, &status))
        return;
    if (S_ISSOCK(status.st_mode)) {
        bell->kind = BELL_SEND;
    } else if ((status.st_mode & S_IFMT) == 0) {
        bell->kind = BELL_EVENTFD;
        if (often && bell_has_ring(bell, ringer) && io_uring_register_eventfd(&bell->ring, fd) == 0)
            bell->kind = BELL_EVENTFD_RING;
    }
}

static inline void bell_ring(struct bell *bell, struct ringer *ringer, int fd)
{
    const uint64_t one = 1;
    ssize_t ignored = 0; /* what is full has told its reader already */
    if (fd < 0)
        return;
    if (bell->kind == BELL_EVENTFD_RING) {
        struct io_uring_sqe *entry = io_uring_get_sqe(&bell->ring);
        if (entry) /* else the kernel did not take the last one, which is submitted again and rings as well */
            io_uring_prep_nop(entry);
        io_uring_submit(&bell->ring);
        io_uring_cq_advance(&bell->ring, io_uring_cq_ready(&bell->ring));
    } else if (bell->kind == BELL_SEND) {
        ignored = send(fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL);
    } else if (bell->kind == BELL_EVENTFD && bell_context) {
        for (int tries = 0; tries < BELL_TRIES && !ringer_submit(ringer, fd) && errno == EAGAIN; tries++)
            ringer_empty();
    } else {
        ignored = write(fd, &one, sizeof(one));
    }
    (void)ignored;
}

static inline void bell_unmake(struct bell *bell)
{
    if (bell->has_ring)
        io_uring_queue_exit(&bell->ring);
    bell->has_ring = 0;
}

#endif
