"""What the data plane keeps: plain structures, owned by one reactor each unless a field says otherwise.

Fields marked *shared* are written by one thread and read by others, through `atomics` only.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

from virtflash.backing.target cimport Call, Target, TargetProgress
from virtflash.engine.admission cimport Allowance
from virtflash.engine.bell cimport Bell, Ringer
from virtflash.engine.system cimport pthread_cond_t, pthread_mutex_t, pthread_t, sem_t
from virtflash.engine.uring cimport io_uring

cdef enum:
    QUEUE_SIZE_MAX = 1024  # entries; QEMU's own limit, and a bound of every walk
    IOV_LIMIT = 1024  # pieces of data in one request: what the kernel takes in one call (UIO_MAXIOV)
    IOV_INLINE = 8  # pieces kept in the slot itself: all that most requests need
    SEGMENT_LIMIT = 16  # ranges in one discard, write zeroes or secure erase
    LATENCY_BUCKETS = 128
    QUEUES_PER_REACTOR = 256
    REGISTERED_FILES = 64
    WORKER_LIMIT = 8
    BOUNCE_BUFFERS = 8
    BOUNCE_BYTES = 262144

# What a request asks for, and how it is counted.
cdef enum:
    OP_READ
    OP_WRITE
    OP_FLUSH
    OP_DISCARD
    OP_WRITE_ZEROES
    OP_SECURE_ERASE
    OP_GET_ID
    OP_LIFETIME
    OP_UNKNOWN
    OP_COUNT

# Where a request in flight has come to.
cdef enum:
    STAGE_IDLE  # the slot holds no request
    STAGE_DATA  # its own I/O is under way
    STAGE_FLUSH  # of a target: the data is done, its own cache is to be flushed
    STAGE_SYNC  # it was written; what it wrote is being made stable before it completes
    STAGE_ROOM  # of a target, which did nothing: its file is synced first, then the stage before goes on
    STAGE_READY  # of a target: done or partly done, but on the real part it would not be yet

cdef enum:
    LATENCY_READ
    LATENCY_WRITE
    LATENCY_FLUSH
    LATENCY_OTHER
    LATENCY_CLASSES

cdef enum:
    EVENT_QUEUE_BROKEN
    EVENT_MALFORMED
    EVENT_IO_ERROR
    EVENT_SYNC_FAILED
    EVENT_MEMORY_LOST
    EVENT_KICK_LOST
    EVENT_BUDGET_SPENT
    EVENT_BUDGET_RESTORED
    EVENT_KINDS

# Why a chain or a ring was refused; the words are in reactor.pyx.
cdef enum:
    FAULT_NONE
    FAULT_RING_JUMP
    FAULT_HEAD_RANGE
    FAULT_HEAD_IN_FLIGHT
    FAULT_DESCRIPTOR_RANGE
    FAULT_CHAIN_LOOP
    FAULT_CHAIN_LENGTH
    FAULT_INDIRECT_REFUSED
    FAULT_INDIRECT_NESTED
    FAULT_INDIRECT_NEXT
    FAULT_INDIRECT_LENGTH
    FAULT_ADDRESS
    FAULT_DIRECTION
    FAULT_NO_STATUS
    FAULT_MEMORY_LOST
    FAULT_REQUEST
    FAULT_COUNT

cdef struct Region:
    uint64_t guest  # first guest-physical address
    uint64_t size  # bytes
    uint64_t user  # first address as the front end knows it; ring addresses are given so
    char *host
    uint32_t *lost  # shared: set by the SIGBUS guard

cdef struct Table:
    uint32_t count
    Region *regions  # sorted by guest address, disjoint

# One queue's use of one table. Requests in flight hold the table that they were parsed with.
cdef struct TableUse:
    Table *table
    uint32_t hint  # region of the last hit
    uint32_t in_flight
    bint retired  # a newer table has taken its place
    uint32_t finished  # shared: the control plane may let go of it

cdef struct SplitRing:
    uint16_t size
    uint16_t next_available  # of the available ring: the entry to take next
    uint16_t seen_available  # the driver's index as last read
    uint16_t next_used  # of the used ring: the entry to write next
    uint16_t published_used  # the index that the driver can see
    bint event_idx
    char *descriptors
    char *available
    char *used

cdef struct Segment:
    uint64_t sector  # 512 bytes
    uint32_t count  # sectors
    uint32_t flags

# A buffer list in host addresses, device-readable pieces first.
cdef struct Chain:
    iovec *iov
    uint32_t count
    uint32_t readable  # pieces
    uint64_t readable_bytes
    uint64_t writable_bytes
    uint64_t last_writable  # guest address of the very last device-writable byte: where the status goes
    int fault  # the request must be refused, but can be answered

cdef struct Gate:
    uint32_t refused  # shared: operations (bits by Operation) that the platform does not allow now
    uint32_t durable  # shared: every write must be stable before it completes
    uint32_t frozen  # shared: what was accepted is not to be written either, nor made stable

cdef struct Statistics:
    uint64_t requests[OP_COUNT]
    uint64_t bytes_read
    uint64_t bytes_written
    uint64_t bytes_discarded
    uint64_t errors
    uint64_t refused  # of them: by the gate
    uint64_t unsupported
    uint64_t malformed
    uint64_t kicks
    uint64_t interrupts
    uint64_t interrupts_suppressed
    uint64_t batches
    uint64_t latency[LATENCY_CLASSES][LATENCY_BUCKETS]

cdef struct EventCount:
    uint64_t count  # shared
    uint32_t queue  # shared: of the last one
    uint32_t detail  # shared: a Fault, or an errno, by kind
    uint64_t told  # how many the control plane has taken

# What the queues of a volume serve. Written by the control plane, read by every reactor that has a queue of it.
cdef struct BindingState:
    int fd  # -1: null, or a target; of a target, the file that holds what it keeps, if any
    int fd_unaligned
    bint block_device
    bint read_only
    bint zero_range
    bint in_memory  # the file is memory (tmpfs): a small transfer is a copy, and never waits for a device
    uint32_t memory_mask  # alignment - 1, bytes
    uint32_t offset_mask
    uint32_t max_segments
    uint32_t max_sectors[OP_COUNT]  # of one range
    uint32_t secure_erase_alignment  # sectors
    int life_time_fd
    int pre_eol_fd
    uint8_t serial[20]
    uint64_t capacity  # shared, sectors
    uint32_t supported  # operations that the backing can do
    uint32_t operations  # shared: those that were negotiated too
    uint32_t indirect  # shared: indirect descriptors were negotiated
    uint32_t write_through  # shared
    uint32_t sync_failed  # shared, latched
    uint32_t injected[OP_COUNT]  # shared: an errno that stands in for the I/O
    Gate gate
    EventCount events[EVENT_KINDS]
    uint32_t events_pending  # shared
    int event_fd
    Target *target  # calls instead of file I/O; NULL: a file. This and what follows is its only reactor's
    bint wants_work  # it was called, or said that there is more to do
    bint critical  # what it asks for comes before what others of its reactor do
    uint64_t foreign_mark  # operations of the target when its rings were last found empty, or served
    uint64_t foreign_most  # shared: that others had begun before one of its requests was taken
    Allowance *allowance  # what it may take; NULL: whatever it likes
    Slot *sync_leader  # of the sync of its file that is under way
    Slot *sync_covered  # those that began to wait before that sync did
    Slot *sync_waiting  # those that came later, in order
    Slot *sync_waiting_last
    uint64_t sync_mark
    uint32_t host_failed  # shared, latched: a sync of its file failed, and it must never hear of one that succeeded

cdef struct Command

cdef struct QueueState:
    uint16_t index
    bint active  # the reactor serves it
    uint32_t broken  # shared: it stopped itself
    bint dirty  # used elements wait to be published
    bint kick_armed  # a read of the kick descriptor is with the kernel
    bint kick_by_poll  # the kernel does not wait in a read of it: it is polled, then read
    bint kick_cancelled
    bint kick_lost
    uint32_t in_flight  # shared
    uint64_t order  # of the next request taken
    int kick_fd
    int call_fd
    int error_fd
    Bell call_bell
    Bell error_bell
    Ringer *ringer  # the reactor's
    int file_index  # among the registered files; -1: not registered
    int file_unaligned_index
    SplitRing ring
    TableUse *use
    BindingState *binding
    Slot *slots  # one per ring entry, found by head
    iovec *iov_pool  # IOV_LIMIT for each slot, touched only by requests of many pieces
    Command *stop_command
    Slot *parts_first  # begun by a target, with more to do: a part in each turn of the loop
    Slot *parts_last
    Slot *work_first  # waiting for a worker; under the pool's lock
    Slot *work_last
    QueueState *work_next
    Statistics statistics
    uint8_t kick_bytes[512]  # what was read from the kick descriptor: never looked at

cdef struct Slot:
    QueueState *queue
    TableUse *use
    Slot *next  # in one list at a time
    iovec *iov  # what is left to transfer
    uint32_t iov_count
    uint16_t head
    uint8_t operation
    uint8_t stage
    bint stable  # the write itself asks for stability (RWF_DSYNC)
    uint8_t retries
    uint64_t order
    uint64_t offset  # bytes
    uint64_t remaining  # bytes
    uint64_t length  # bytes asked for
    uint64_t data_capacity  # bytes that the device may write before the status
    uint64_t started_ns
    uint8_t *status
    char *bounce
    uint32_t bounce_bytes
    int32_t result  # of a worker: 0 or bytes, or -errno
    uint32_t segment_count
    uint32_t segments_done  # by a worker, which takes long ones in parts
    uint64_t sectors_done  # of the next segment
    uint8_t resume  # the stage before STAGE_ROOM or STAGE_READY
    uint64_t ready_ns  # when a target's operations would be done on the real part; 0: at once
    bint held  # it waits for its volume's allowance, and has not begun
    double wear  # bytes of flash that it was charged
    Slot *child  # among the delayed
    TargetProgress progress  # a target's, of the next segment
    uint64_t flush_mark  # a target's, of its flush
    Segment segments[SEGMENT_LIMIT]
    iovec iov_inline[IOV_INLINE]

# What the control plane asks of a reactor. It lives on the asker's stack: the asker waits until it is done.
cdef enum:
    COMMAND_START
    COMMAND_STOP
    COMMAND_MEMORY
    COMMAND_CALL
    COMMAND_ERROR
    COMMAND_ROUND  # nothing but a turn of the loop: what was shared before it is seen after it
    COMMAND_RUN
    COMMAND_EXIT

cdef struct Command:
    int kind
    QueueState *queue
    TableUse *use  # COMMAND_MEMORY: the new one, with the ring's parts where they lie in it
    char *descriptors
    char *available
    char *used
    int fd
    Call *call
    Command *next
    sem_t done

cdef struct Mailbox:
    pthread_mutex_t lock
    Command *first
    Command *last
    uint32_t pending  # shared
    int event_fd

# Threads for what may block: ranges, ioctls, sysfs; and all I/O where io_uring is not to be had.
cdef struct WorkerPool:
    pthread_mutex_t lock
    pthread_cond_t wake
    QueueState *first  # those with slots that wait, in turn
    QueueState *last
    Slot *done
    uint32_t done_pending  # shared
    uint32_t threads
    uint32_t idle
    uint32_t queued  # slots
    bint stopping
    int event_fd  # written when `done` is no longer empty
    pthread_t ids[WORKER_LIMIT]

cdef enum:
    IO_AUTO
    IO_URING_DEFERRED
    IO_URING_PLAIN
    IO_THREADS

cdef struct RegisteredFile:
    int fd
    uint32_t users

cdef struct ReactorState:
    int io_path  # asked for, then taken
    int setup_error  # errno of the path that was asked for and not to be had
    sem_t started
    pthread_t thread
    char name[16]
    io_uring ring
    bint files_registered
    RegisteredFile files[REGISTERED_FILES]
    Mailbox mailbox
    WorkerPool pool
    Ringer ringer
    bint exiting
    uint32_t stopping_count
    QueueState *queues[QUEUES_PER_REACTOR]
    uint32_t queue_count
    QueueState *dirty[QUEUES_PER_REACTOR]
    uint32_t dirty_count
    Slot *backlog  # waiting for a submission entry or a bounce buffer, the longest first
    Slot *backlog_last
    uint32_t critical_count  # of its queues
    uint64_t yielded_ns  # since when those that are not wait for a flash that is busy; 0: they do not
    uint64_t effort  # of a target's calls for the queue whose turn it is, in bytes copied, about
    Slot *delayed  # a heap (delayed_slots.pxd) of those whose time has not come
    uint32_t work_next  # queue whose target was last at work for its own sake
    Slot *finished  # to be completed with `result` in this round: done in this thread, or never begun
    char *bounce_memory
    char *bounce_free[BOUNCE_BUFFERS]
    uint32_t bounce_free_count
    uint64_t now_ns
    uint64_t idle_since_ns  # 0: not idle
    uint64_t poll_window_ns  # how long to look before sleeping, as learned
    uint64_t poll_until_ns
    int32_t poll_credit
    bint waits_for_storage  # while idle: I/O is under way
    bint slow_storage  # it made the reactor sleep lately
    bint held_back  # entries wait for a system call that is due anyway
    bint storage_slept  # since the last time that nothing was under way, the reactor slept for I/O
    uint32_t losses_seen
    uint64_t wakeups  # shared
    bint mailbox_armed
    bint pool_armed
    uint64_t mailbox_count
    uint64_t pool_count
    iovec scratch[IOV_LIMIT + 2]
