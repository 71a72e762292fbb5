"""System calls and constants that Cython's own declarations lack."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from posix.time cimport timespec
from posix.types cimport off_t
from posix.uio cimport iovec

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/falloc.h>
    #include <linux/fs.h>
    #include <linux/magic.h>
    #include <poll.h>
    #include <pthread.h>
    #include <semaphore.h>
    #include <signal.h>
    #include <sys/eventfd.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/uio.h>
    #include <sys/vfs.h>
    #include <time.h>
    #include <unistd.h>

    #ifndef FUSE_SUPER_MAGIC
    #define FUSE_SUPER_MAGIC 0x65735546
    #endif

    static inline uint64_t monotonic_ns(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    }

    static inline void cpu_relax(void)
    {
    #if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
    #elif defined(__aarch64__)
        __asm__ volatile("yield");
    #endif
    }

    /* A range ioctl on a block device; bytes. Returns 0 or -errno. */
    static inline int block_range_ioctl(int fd, unsigned long request, uint64_t offset, uint64_t length)
    {
        uint64_t range[2] = {offset, length};
        return ioctl(fd, request, range) ? -errno : 0;
    }

    /* The page size of the memory that a descriptor gives, in bytes: hugetlbfs has its own. 0: of a file on FUSE, whose
     * server may be the front end's; it may withhold pages, and who touches one waits for ever. -errno: no file. */
    static inline long memory_page_bytes(int fd)
    {
        struct statfs fs;
        if (fstatfs(fd, &fs))
            return -errno;
        if (fs.f_type == FUSE_SUPER_MAGIC)
            return 0;
        return fs.f_type == HUGETLBFS_MAGIC ? fs.f_bsize : sysconf(_SC_PAGESIZE);
    }

    /* A description of a thread's start: a small stack, and no signal but the synchronous ones. */
    static inline int start_thread(pthread_t *thread, void *(*body)(void *), void *argument)
    {
        pthread_attr_t attributes;
        sigset_t all, before;
        int result;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 256 * 1024);
        sigfillset(&all);
        sigdelset(&all, SIGBUS);
        sigdelset(&all, SIGSEGV);
        sigdelset(&all, SIGFPE);
        sigdelset(&all, SIGILL);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        result = pthread_create(thread, &attributes, body, argument);
        pthread_sigmask(SIG_SETMASK, &before, 0);
        pthread_attr_destroy(&attributes);
        return result;
    }
    """
    uint64_t monotonic_ns() nogil
    void cpu_relax() nogil
    long memory_page_bytes(int fd) nogil
    int block_range_ioctl(int fd, unsigned long request, uint64_t offset, uint64_t length) nogil

    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct sem_t:
        pass

    int start_thread(pthread_t *thread, void *(*body)(void *) noexcept nogil, void *argument) nogil
    int pthread_join(pthread_t thread, void **result) nogil
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes) nogil
    int pthread_mutex_lock(pthread_mutex_t *mutex) nogil
    int pthread_mutex_unlock(pthread_mutex_t *mutex) nogil
    int pthread_mutex_destroy(pthread_mutex_t *mutex) nogil
    int pthread_cond_init(pthread_cond_t *cond, void *attributes) nogil
    int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex) nogil
    int pthread_cond_signal(pthread_cond_t *cond) nogil
    int pthread_cond_broadcast(pthread_cond_t *cond) nogil
    int pthread_cond_destroy(pthread_cond_t *cond) nogil
    int sem_init(sem_t *semaphore, int shared, unsigned value) nogil
    int sem_wait(sem_t *semaphore) nogil
    int sem_post(sem_t *semaphore) nogil
    int sem_destroy(sem_t *semaphore) nogil

    enum:
        BLKDISCARD
        BLKSECDISCARD
        EAGAIN
        ECANCELED
        EFAULT
        EINTR
        EINVAL
        EIO
        ENODATA
        ENOMEM
        ENOSPC
        ENOTSOCK
        EROFS
        EOPNOTSUPP
        EFD_CLOEXEC
        EFD_NONBLOCK
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
        FALLOC_FL_ZERO_RANGE
        F_DUPFD_CLOEXEC
        F_GETFL
        F_SETFL
        MSG_DONTWAIT
        O_NONBLOCK
        POLLERR
        POLLHUP
        POLLIN
        POLLNVAL
        PR_SET_NAME
        PR_SET_TIMERSLACK
        RWF_DSYNC
        RWF_NOWAIT

    cdef struct pollfd:
        int fd
        short events
        short revents

    int eventfd(unsigned initial, int flags) nogil
    int fallocate(int fd, int mode, off_t offset, off_t length) nogil
    int fcntl(int fd, int command, ...) nogil
    int fdatasync(int fd) nogil
    int poll(pollfd *fds, unsigned long count, int timeout_ms) nogil
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *signals) nogil
    int prctl(int option, ...) nogil
    ssize_t preadv2(int fd, const iovec *iov, int count, off_t offset, int flags) nogil
    ssize_t pwritev2(int fd, const iovec *iov, int count, off_t offset, int flags) nogil
    ssize_t pread(int fd, void *buffer, size_t length, off_t offset) nogil
    ssize_t pwrite(int fd, const void *buffer, size_t length, off_t offset) nogil
    ssize_t read(int fd, void *buffer, size_t length) nogil
    ssize_t recv(int fd, void *buffer, size_t length, int flags) nogil
    ssize_t write(int fd, const void *buffer, size_t length) nogil
    int close(int fd) nogil
