/* Guest memory is a file that its owner may truncate while we use it; the next access is then a SIGBUS.
 *
 * The handler puts a page of zeroes over the one that faulted, marks the region as lost, and lets the access go on.
 * Whoever owns queues over that region sees the mark and stops them. A fault outside guest memory goes to the handler
 * that was there before; one that is put in place later (Python's faulthandler) is found when the next region is added.
 *
 * The list of ranges is read by the handler at any instruction, so entries are taken and given up with atomics only.
 */
#ifndef VIRTFLASH_SIGBUS_GUARD_H
#define VIRTFLASH_SIGBUS_GUARD_H

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

enum { GUARD_RANGES = 4096 };

struct guard_range {
    _Atomic uintptr_t start; /* 0: free; 1: being filled in */
    _Atomic uintptr_t end;
    size_t page; /* bytes: the page size of the memory behind it */
    uint32_t *lost;
};

static struct guard_range guard_ranges[GUARD_RANGES];
static _Atomic uint32_t guard_losses; /* counts marks, so that one comparison tells a reactor that there is news */
static struct sigaction guard_previous;
static __thread int guard_passing_on; /* handlers may have one another as their previous one */

static int guard_replace_page(struct guard_range *range, uintptr_t address)
{
    void *page = (void *)(address & ~(uintptr_t)(range->page - 1));
    if (mmap(page, range->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return 0;
    __atomic_store_n(range->lost, 1, __ATOMIC_RELEASE);
    atomic_fetch_add(&guard_losses, 1);
    return 1;
}

/* A range with that address cannot be given up now: who faulted there uses it. Another one may be, between two looks. */
static int guard_covers(struct guard_range *range, uintptr_t address)
{
    uintptr_t start = atomic_load(&range->start);
    uintptr_t end = atomic_load(&range->end);
    return start > 1 && address >= start && address < end && atomic_load(&range->start) == start;
}

static int guard_mend(uintptr_t address)
{
    for (int i = 0; i < GUARD_RANGES; i++)
        if (guard_covers(&guard_ranges[i], address) && guard_replace_page(&guard_ranges[i], address))
            return 1;
    return 0;
}

static void guard_pass_on(int number, siginfo_t *info, void *context)
{
    int known = guard_previous.sa_flags & SA_SIGINFO
        || (guard_previous.sa_handler != SIG_DFL && guard_previous.sa_handler != SIG_IGN);
    if (!known || guard_passing_on) {
        signal(number, SIG_DFL); /* a fault repeats and ends the process as it would have; a signal is sent again */
        if (info->si_code <= 0)
            raise(number);
        return;
    }
    guard_passing_on = 1;
    if (guard_previous.sa_flags & SA_SIGINFO)
        guard_previous.sa_sigaction(number, info, context);
    else
        guard_previous.sa_handler(number);
    guard_passing_on = 0;
}

static void guard_handle(int number, siginfo_t *info, void *context)
{
    int before = errno;
    if (info->si_code <= 0 || !guard_mend((uintptr_t)info->si_addr)) /* <= 0: sent by somebody, about no address */
        guard_pass_on(number, info, context);
    errno = before;
}

/* Have the handler in place, before whichever was there. Called with Python's lock held, so never twice at once. */
static int guard_install(void)
{
    struct sigaction action = {.sa_sigaction = guard_handle, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NODEFER};
    struct sigaction present;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, NULL, &present))
        return -1;
    if (present.sa_flags & SA_SIGINFO && present.sa_sigaction == guard_handle)
        return 0;
    guard_previous = present;
    return sigaction(SIGBUS, &action, NULL);
}

/* Guard `bytes` at `start`; returns the entry to release, or -1 when there are none left. */
static int guard_add(void *start, size_t bytes, size_t page, uint32_t *lost)
{
    if (guard_install())
        return -1;
    for (int i = 0; i < GUARD_RANGES; i++) {
        uintptr_t none = 0;
        if (atomic_compare_exchange_strong(&guard_ranges[i].start, &none, 1)) {
            guard_ranges[i].page = page;
            guard_ranges[i].lost = lost;
            atomic_store(&guard_ranges[i].end, (uintptr_t)start + bytes);
            atomic_store_explicit(&guard_ranges[i].start, (uintptr_t)start, memory_order_release);
            return i;
        }
    }
    return -1;
}

static void guard_remove(int entry)
{
    atomic_store(&guard_ranges[entry].start, 0);
}

/* Read a byte that may be lost. */
static inline void touch(const char *byte)
{
    (void)*(const volatile char *)byte;
}

static uint32_t guard_loss_count(void)
{
    return atomic_load_explicit(&guard_losses, memory_order_relaxed);
}

#endif
