"""A bounded pool of threads for what may block, and the way of finished slots back to their reactor.

Threads are made when there is work and none is idle, so a reactor that never needs one has none.
"""

from libc.stdint cimport uint32_t, uint64_t

from virtflash.engine.atomics cimport exchange_u32, store_release_u32
from virtflash.engine.blocking_io cimport is_unfinished, perform
from virtflash.engine.state cimport WORKER_LIMIT, QueueState, Slot, WorkerPool
from virtflash.engine.system cimport (
    pthread_cond_broadcast,
    pthread_cond_destroy,
    pthread_cond_init,
    pthread_cond_signal,
    pthread_cond_wait,
    pthread_join,
    pthread_mutex_destroy,
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    start_thread,
    write,
)
from virtflash.engine.transfer_target cimport descriptor_for


cdef inline void pool_init(WorkerPool *pool, int event_fd) noexcept nogil:
    pthread_mutex_init(&pool.lock, NULL)
    pthread_cond_init(&pool.wake, NULL)
    pool.event_fd = event_fd


cdef inline void pool_append(WorkerPool *pool, QueueState *queue) noexcept nogil:
    """It is this queue's turn when that of all others with work has come."""
    queue.work_next = NULL
    if pool.first == NULL:
        pool.first = queue
    else:
        pool.last.work_next = queue
    pool.last = queue


cdef inline void pool_add(WorkerPool *pool, Slot *slot) noexcept nogil:
    """To the end of its queue's work. Called with the lock held."""
    cdef QueueState *queue = slot.queue
    slot.next = NULL
    if queue.work_first == NULL:
        queue.work_first = slot
        pool_append(pool, queue)
    else:
        queue.work_last.next = slot
    queue.work_last = slot
    pool.queued += 1


cdef inline Slot *pool_take(WorkerPool *pool) noexcept nogil:
    """One slot of each queue in turn, so that a guest which asks for much waits for itself; NULL: there is no work."""
    cdef QueueState *queue = pool.first
    cdef Slot *slot
    if queue == NULL:
        return NULL
    pool.first = queue.work_next
    slot = queue.work_first
    queue.work_first = slot.next
    if queue.work_first != NULL:
        pool_append(pool, queue)
    pool.queued -= 1
    return slot


cdef inline Slot *pool_next(WorkerPool *pool) noexcept nogil:
    """The next slot to work on; NULL: the pool is closing. Called with the lock held."""
    pool.idle += 1
    while pool.first == NULL and not pool.stopping:
        pthread_cond_wait(&pool.wake, &pool.lock)
    pool.idle -= 1
    return pool_take(pool)


cdef inline void pool_give_back(WorkerPool *pool, Slot *slot) noexcept nogil:
    """Called with the lock held. The reactor is woken once for all that it finds."""
    cdef uint64_t one = 1
    slot.next = pool.done
    pool.done = slot
    if exchange_u32(&pool.done_pending, 1) == 0:
        write(pool.event_fd, &one, sizeof(one))


cdef inline void *pool_work(void *argument) noexcept nogil:
    cdef WorkerPool *pool = <WorkerPool *>argument
    cdef Slot *slot
    pthread_mutex_lock(&pool.lock)
    while True:
        slot = pool_next(pool)
        if slot == NULL:
            break
        pthread_mutex_unlock(&pool.lock)
        slot.result = perform(slot, descriptor_for(slot))
        pthread_mutex_lock(&pool.lock)
        if is_unfinished(slot):
            pool_add(pool, slot)
        else:
            pool_give_back(pool, slot)
    pthread_mutex_unlock(&pool.lock)
    return NULL


cdef inline bint pool_submit(WorkerPool *pool, Slot *slot) noexcept nogil:
    """Hand a slot to the pool. False: there is no thread to do it and none can be made."""
    cdef bint taken
    pthread_mutex_lock(&pool.lock)
    if pool.queued >= pool.idle and pool.threads < WORKER_LIMIT:
        if start_thread(&pool.ids[pool.threads], pool_work, pool) == 0:
            pool.threads += 1
    taken = pool.threads > 0
    if taken:
        pool_add(pool, slot)
        pthread_cond_signal(&pool.wake)
    pthread_mutex_unlock(&pool.lock)
    return taken


cdef inline Slot *pool_collect(WorkerPool *pool) noexcept nogil:
    """Everything that is done, as a list."""
    cdef Slot *done
    pthread_mutex_lock(&pool.lock)
    store_release_u32(&pool.done_pending, 0)
    done = pool.done
    pool.done = NULL
    pthread_mutex_unlock(&pool.lock)
    return done


cdef inline void pool_close(WorkerPool *pool) noexcept nogil:
    """End the threads; nothing may be queued any more."""
    cdef uint32_t i
    pthread_mutex_lock(&pool.lock)
    pool.stopping = True
    pthread_cond_broadcast(&pool.wake)
    pthread_mutex_unlock(&pool.lock)
    for i in range(pool.threads):
        pthread_join(pool.ids[i], NULL)
    pthread_mutex_destroy(&pool.lock)
    pthread_cond_destroy(&pool.wake)
