#define _GNU_SOURCE
#include "request/rate_queue.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>

#include "request/state.h"

enum { NS = 1000000000 };

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * NS + now.tv_nsec;
}

int v9_export_set_throttle(v9_export *ex, const struct v9_token_bucket_conf *conf)
{
    struct v9_rate_queues *queues = aligned_alloc(_Alignof(struct v9_rate_queues), sizeof(*queues));

    if (!queues)
        return -ENOMEM;
    *queues = (struct v9_rate_queues){0};
    v9_token_bucket_init(&queues->fresh, conf, now_ns());
    queues->bucket = &queues->fresh;
    for (int i = 0; i < 2; i++)
        queues->waiting[i].last = &queues->waiting[i].first;
    ex->rate_queues = queues;
    return 0;
}

void v9_rate_queues_keep(struct v9_rate_queues *queues, struct v9_token_bucket *kept)
{
    v9_token_bucket_go_on(&queues->fresh, kept);
    *kept = queues->fresh;
    queues->bucket = kept;
}

static bool is_write(const struct v9_request *r)
{
    return r->type == P9_TWRITE;
}

int v9_rate_queue_admit(v9_device *dev, const v9_export *ex, struct v9_request *r, uint32_t bytes)
{
    struct v9_rate_queues *queues = ex->rate_queues;
    const bool write = is_write(r);
    int64_t now;
    bool wait;

    if (!queues || r->admitted)
        return 0;
    r->rate_queues = queues;
    r->bytes = bytes;
    pthread_mutex_lock(&dev->lock);
    now = now_ns();
    wait = !dev->hurry &&
           (queues->waiting[write].first || v9_token_bucket_wait(queues->bucket, write, now));
    if (!wait)
        v9_token_bucket_pour(queues->bucket, write, bytes, now);
    pthread_mutex_unlock(&dev->lock);
    return wait ? -V9_NOT_YET : 0;
}

/* ---- the timer; all below with the lock held ------------------------------------------------- */

/* Nanoseconds until one of an export's requests may start; INT64_MAX: none waits. */
static int64_t shortest_wait(struct v9_rate_queues *queues, int64_t now)
{
    int64_t shortest = INT64_MAX;

    for (int write = 0; write < 2; write++) {
        int64_t wait = queues->waiting[write].first
                           ? v9_token_bucket_wait(queues->bucket, write, now)
                           : INT64_MAX;
        shortest = wait < shortest ? wait : shortest;
    }
    return shortest;
}

/* Sets the timer that wakes a thread when the first request is due. */
static void set_timer(v9_device *dev, int64_t now)
{
    int64_t wait = INT64_MAX, due;
    struct itimerspec at = {0};

    for (uint32_t i = 0; dev->rate_limited && i < V9_EXPORTS_MAX; i++) {
        const v9_export *ex = dev->exports[i];
        int64_t its = ex && ex->rate_queues ? shortest_wait(ex->rate_queues, now) : INT64_MAX;
        wait = its < wait ? its : wait;
    }
    due = wait < INT64_MAX - now ? now + wait : INT64_MAX;
    if (due == dev->due)
        return;
    dev->due = due;
    at.it_value = (struct timespec){.tv_sec = due / NS, .tv_nsec = due % NS};
    timerfd_settime(dev->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* ---- waiting --------------------------------------------------------------------------------- */

void v9_rate_queue_enter(v9_device *dev, struct v9_request *r)
{
    struct v9_queue *queue = &r->rate_queues->waiting[is_write(r)];

    r->state = V9_RATE_LIMITED;
    r->next = NULL;
    r->link = queue->last;
    *queue->last = r;
    queue->last = &r->next;
    dev->rate_limited++;
    dev->counts->exports[r->export].throttled++;
    r->waits_ns = now_ns();
    set_timer(dev, r->waits_ns);
}

void v9_rate_queue_leave(v9_device *dev, struct v9_request *r)
{
    struct v9_queue *queue = &r->rate_queues->waiting[is_write(r)];

    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    else
        queue->last = r->link;
    dev->rate_limited--;
}

/* Returns the first of an export's requests if it is due. Reads and writes alternate, so that
 * neither waits for all of the other. If a new session waits, requests are returned at once, with
 * EINTR. */
static struct v9_request *next_of(v9_device *dev, struct v9_rate_queues *queues, int64_t now)
{
    for (int i = 0; i < 2; i++) {
        const bool write = queues->write_first != (i == 1);
        struct v9_request *r = queues->waiting[write].first;
        if (r && dev->barrier) {
            r->error = -EINTR;
            return r;
        }
        if (!r || (!dev->hurry && v9_token_bucket_wait(queues->bucket, write, now)))
            continue;
        queues->write_first = !write;
        v9_token_bucket_pour(queues->bucket, write, r->bytes, now);
        return r;
    }
    return NULL;
}

struct v9_request *v9_rate_queue_next(v9_device *dev)
{
    struct v9_request *r = NULL;
    int64_t now;

    if (!dev->rate_limited || v9_device_is_held(dev))
        return NULL;
    now = now_ns();
    if (now < dev->due && !dev->hurry && !dev->barrier)
        return NULL;
    for (uint32_t i = 0; !r && i < V9_EXPORTS_MAX; i++)
        if (dev->exports[i] && dev->exports[i]->rate_queues)
            r = next_of(dev, dev->exports[i]->rate_queues, now);
    if (r) {
        v9_rate_queue_leave(dev, r);
        r->admitted = true;
        dev->counts->exports[r->export].waited_ns += (uint64_t)(now - r->waits_ns);
    }
    set_timer(dev, now);
    return r;
}
