"""How the control plane speaks to a reactor: commands in a list, one eventfd, and the asker waits for the answer."""

from libc.stdint cimport uint64_t

from virtflash.engine.atomics cimport store_release_u32
from virtflash.engine.state cimport Command, Mailbox
from virtflash.engine.system cimport (
    pthread_mutex_init,
    pthread_mutex_lock,
    pthread_mutex_unlock,
    sem_destroy,
    sem_init,
    sem_post,
    sem_wait,
    write,
)


cdef inline void mailbox_init(Mailbox *mailbox, int event_fd) noexcept nogil:
    pthread_mutex_init(&mailbox.lock, NULL)
    mailbox.event_fd = event_fd


cdef inline void mailbox_ask(Mailbox *mailbox, Command *command) noexcept nogil:
    """Hand a command to the reactor and wait until it is done. Never called by a reactor."""
    cdef uint64_t one = 1
    sem_init(&command.done, 0, 0)
    command.next = NULL
    pthread_mutex_lock(&mailbox.lock)
    if mailbox.first == NULL:
        mailbox.first = command
    else:
        mailbox.last.next = command
    mailbox.last = command
    store_release_u32(&mailbox.pending, 1)
    pthread_mutex_unlock(&mailbox.lock)
    write(mailbox.event_fd, &one, sizeof(one))
    while sem_wait(&command.done):
        continue  # interrupted by a signal
    sem_destroy(&command.done)


cdef inline Command *mailbox_take(Mailbox *mailbox) noexcept nogil:
    """All commands that wait, as a list."""
    cdef Command *first
    pthread_mutex_lock(&mailbox.lock)
    store_release_u32(&mailbox.pending, 0)
    first = mailbox.first
    mailbox.first = mailbox.last = NULL
    pthread_mutex_unlock(&mailbox.lock)
    return first


cdef inline void mailbox_done(Command *command) noexcept nogil:
    """The last touch of a command: it lives on the asker's stack, which goes on from here."""
    sem_post(&command.done)
