/* Two threads, a driver and a device, pass counted messages through a small split ring with the primitives of
 * engine/atomics.h, sleeping on semaphores whenever the event indices allow it (virtio 1.4 §2.7.7, §2.7.10).
 *
 * A missing release or acquire shows as a wrong payload (and to ThreadSanitizer as a race on it); a missing full barrier
 * shows as a lost wake-up: both sides sleep, and the alarm ends the run. Usage: ring_stress MESSAGES
 */
#include "atomics.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SIZE = 8 };

static struct {
    uint16_t index, ring[SIZE], used_event;
} available;
static struct {
    uint16_t index, avail_event;
    uint32_t id[SIZE];
} used;
static uint64_t payload[SIZE]; /* plain memory: what the indices must make visible */
static sem_t kick, call;
static unsigned long messages, kicks, calls;

static void kick_if_wanted(uint16_t new_index, uint16_t old)
{
    fence_full();
    if (event_passed(load_relaxed_u16(&used.avail_event), new_index, old)) {
        kicks++;
        sem_post(&kick);
    }
}

static void collect(uint16_t *seen, unsigned long *received)
{
    while (*seen != load_acquire_u16(&used.index)) {
        uint16_t slot = used.id[*seen % SIZE];
        if (payload[slot] != 2 * *received + 1) {
            printf("message %lu came back as %lu\n", *received, (unsigned long)payload[slot]);
            exit(1);
        }
        ++*seen;
        ++*received;
    }
}

static void wait_for_call(uint16_t seen)
{
    store_relaxed_u16(&available.used_event, seen);
    fence_full();
    if (load_acquire_u16(&used.index) == seen)
        while (sem_wait(&call))
            ;
}

static void *drive(void *ignored)
{
    unsigned long sent = 0, received = 0;
    uint16_t index = 0, seen = 0;
    while (received < messages) {
        uint16_t old = index;
        while (sent < messages && (uint16_t)(index - seen) < SIZE) {
            payload[index % SIZE] = 2 * sent++;
            available.ring[index % SIZE] = index % SIZE;
            index++;
        }
        if (index != old) {
            store_release_u16(&available.index, index);
            kick_if_wanted(index, old);
        }
        collect(&seen, &received);
        if (received < messages && ((uint16_t)(index - seen) == SIZE || sent == messages))
            wait_for_call(seen);
    }
    return ignored;
}

static void wait_for_kick(uint16_t next)
{
    store_relaxed_u16(&used.avail_event, next);
    fence_full();
    if (load_acquire_u16(&available.index) == next)
        while (sem_wait(&kick))
            ;
}

static void *serve(void *ignored)
{
    uint16_t next = 0;
    unsigned long served = 0;
    while (served < messages) {
        uint16_t old = next;
        while (next != load_acquire_u16(&available.index)) {
            uint16_t slot = available.ring[next % SIZE];
            payload[slot] += 1;
            used.id[next % SIZE] = slot;
            next++;
            served++;
        }
        if (next != old) {
            store_release_u16(&used.index, next);
            fence_full();
            if (event_passed(load_relaxed_u16(&available.used_event), next, old)) {
                calls++;
                sem_post(&call);
            }
        } else {
            wait_for_kick(next);
        }
    }
    return ignored;
}

int main(int argc, char **argv)
{
    pthread_t driver, device;
    messages = argc > 1 ? strtoul(argv[1], 0, 10) : 1000000;
    alarm(120);
    sem_init(&kick, 0, 0);
    sem_init(&call, 0, 0);
    pthread_create(&device, 0, serve, 0);
    pthread_create(&driver, 0, drive, 0);
    pthread_join(driver, 0);
    pthread_join(device, 0);
    printf("%lu messages, %lu kicks, %lu calls\n", messages, kicks, calls);
    return 0;
}
