/* A target of plain memory that does as it is told: what the engine's tests serve, and what its own cost is measured
 * with. Its calls are those of src/virtflash/backing/target.pxd; `struct control` is also in scripted_target.py. */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { MORE = 0x10000, SYNC = 0x10001, SECURE_ERASE = 3 };
enum { READ, WRITE, FLUSH, CHANGE, LIFETIME, SYNC_BEGINS, SYNCED, WORK, CALLS };

struct progress {
    uint64_t done, stage, passed;
};

struct target {
    void *self;
    int sync_fd;
    int32_t (*read)(void *, uint64_t, const struct iovec *, uint32_t, uint64_t);
    int32_t (*write)(void *, uint64_t, const struct iovec *, uint32_t, uint64_t);
    int32_t (*flush)(void *);
    int32_t (*change)(void *, int, uint64_t, uint64_t, struct progress *);
    int32_t (*lifetime)(void *, uint8_t *);
    uint64_t (*sync_begins)(void *);
    void (*synced)(void *, uint64_t);
    int (*work)(void *);
    uint64_t (*ready_ns)(void *);
    uint64_t now_ns;
    int gentle;
    uint64_t (*busy_ns)(void *);
    uint64_t (*operations)(void *);
    uint32_t *host_failed;
    uint64_t (*programmed)(void *, uint32_t);
    uint32_t caller;
    uint64_t *flush_mark;
};

struct control {
    uint64_t counts[CALLS];   /* of calls */
    int32_t errors[CALLS];    /* what a call returns instead; 0: as usual */
    uint32_t needs_sync[CALLS]; /* so many calls do nothing and ask for a sync first */
    uint64_t part_sectors;    /* of a change in one call; 0: all */
    uint64_t part_ns;         /* for which a part of a change keeps the thread busy */
    uint64_t take_bytes;      /* of a transfer in one call; 0: all */
    uint64_t delay_ns;        /* for which each call would keep the real part busy */
    uint64_t delay_below;     /* sectors: only transfers that begin below it do; 0: none */
    uint64_t work_slices;     /* left to do */
    uint64_t work_endless;    /* there is always more */
    uint64_t mark;            /* the last that `synced` was told */
    uint64_t begun;           /* the last that `sync_begins` gave */
    uint64_t early_work;      /* calls of `work` before the part was ready */
    uint64_t stale_clock;     /* calls with a clock that was more than a second off */
    uint64_t strangers;       /* calls from a thread that is not the first one's */
    uint64_t kinds[4];        /* changes by kind */
    uint64_t thread;
    uint64_t ready_ns;
};

struct scripted {
    struct target target;
    struct control control;
    char *memory;
};

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void look_at_thread(struct control *control)
{
    static _Thread_local uint64_t thread;
    if (!thread)
        thread = (uint64_t)syscall(SYS_gettid);
    if (!control->thread)
        control->thread = thread;
    if (control->thread != thread)
        control->strangers++;
}

/* Count a call; what it is to return at once, or 0: go on. */
static int32_t enter(struct scripted *self, int call, uint64_t busy_ns)
{
    struct control *control = &self->control;
    control->counts[call]++;
    look_at_thread(control);
    if (control->needs_sync[call]) {
        control->needs_sync[call]--;
        return SYNC;
    }
    if (busy_ns || control->delay_below) {
        uint64_t now = clock_ns();
        if (now - self->target.now_ns + 1000000000u > 2000000000u)
            control->stale_clock++;
        if (busy_ns)
            control->ready_ns = now + busy_ns;
    }
    return control->errors[call];
}

static uint64_t busy(struct scripted *self, uint64_t sector)
{
    return sector < self->control.delay_below ? self->control.delay_ns : 0;
}

static int32_t copy(struct scripted *self, int in, uint64_t sector, const struct iovec *iov, uint64_t bytes)
{
    char *at = self->memory + (sector << 9);
    uint64_t done = 0;
    if (self->control.take_bytes && bytes > self->control.take_bytes)
        bytes = self->control.take_bytes;
    for (; done < bytes; iov++) {
        uint64_t piece = iov->iov_len < bytes - done ? iov->iov_len : bytes - done;
        if (in)
            memcpy(at + done, iov->iov_base, piece);
        else
            memcpy(iov->iov_base, at + done, piece);
        done += piece;
    }
    return (int32_t)done;
}

static int32_t target_read(void *own, uint64_t sector, const struct iovec *iov, uint32_t pieces, uint64_t bytes)
{
    struct scripted *self = own;
    int32_t result = enter(self, READ, busy(self, sector));
    (void)pieces;
    return result ? result : copy(self, 0, sector, iov, bytes);
}

static int32_t target_write(void *own, uint64_t sector, const struct iovec *iov, uint32_t pieces, uint64_t bytes)
{
    struct scripted *self = own;
    int32_t result = enter(self, WRITE, busy(self, sector));
    (void)pieces;
    return result ? result : copy(self, 1, sector, iov, bytes);
}

static int32_t target_flush(void *own)
{
    return enter(own, FLUSH, 0);
}

static void keep_busy(uint64_t ns)
{
    uint64_t end = clock_ns() + ns;
    while (ns && clock_ns() < end)
        continue;
}

static int32_t target_change(void *own, int kind, uint64_t sector, uint64_t sectors, struct progress *progress)
{
    struct scripted *self = own;
    struct control *control = &self->control;
    uint64_t part = sectors - progress->done;
    int32_t result = enter(self, CHANGE, busy(self, sector));
    if (result)
        return result;
    if (control->part_sectors && part > control->part_sectors)
        part = control->part_sectors;
    if (progress->done == 0)
        control->kinds[kind]++;
    memset(self->memory + ((sector + progress->done) << 9), kind == SECURE_ERASE ? 0xff : 0, part << 9);
    keep_busy(control->part_ns);
    progress->done += part;
    return progress->done < sectors ? MORE : 0;
}

static int32_t target_lifetime(void *own, uint8_t *three)
{
    three[0] = 2;
    three[1] = 4;
    three[2] = 11;
    return enter(own, LIFETIME, 0);
}

static uint64_t target_sync_begins(void *own)
{
    struct scripted *self = own;
    self->control.counts[SYNC_BEGINS]++;
    look_at_thread(&self->control);
    return ++self->control.begun;
}

static void target_synced(void *own, uint64_t mark)
{
    struct scripted *self = own;
    self->control.counts[SYNCED]++;
    look_at_thread(&self->control);
    self->control.mark = mark;
}

static int target_work(void *own)
{
    struct scripted *self = own;
    self->control.counts[WORK]++;
    look_at_thread(&self->control);
    if (self->control.ready_ns > clock_ns())
        self->control.early_work++;
    if (self->control.work_endless)
        return 1;
    if (self->control.work_slices)
        self->control.work_slices--;
    return self->control.work_slices != 0;
}

static uint64_t target_ready_ns(void *own)
{
    return ((struct scripted *)own)->control.ready_ns;
}

struct scripted *scripted_make(uint64_t bytes, int sync_fd, int lifetime)
{
    struct scripted *self = calloc(1, sizeof(*self));
    if (!self)
        return NULL;
    self->memory = calloc(1, bytes);
    self->target = (struct target){
        self, sync_fd, target_read, target_write, target_flush, target_change, lifetime ? target_lifetime : NULL,
        target_sync_begins, target_synced, target_work, target_ready_ns, 0,
    };
    return self;
}

struct control *scripted_control(struct scripted *self)
{
    return &self->control;
}

char *scripted_memory(struct scripted *self)
{
    return self->memory;
}

void scripted_free(struct scripted *self)
{
    free(self->memory);
    free(self);
}

/* A call for the reactor's thread: add one to a number. */
void scripted_count(void *argument)
{
    ++*(uint64_t *)argument;
}
