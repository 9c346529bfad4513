#define _GNU_SOURCE
#include "server/wait.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "request/notify.h"
#include "request/rate_queue.h"
#include "request/request.h"

enum {
    RING_POLL_MS = 1,  /* if the frontend gave no kick descriptor */
    PAUSES = 8,        /* CPU pauses between two polls of the ring */
    SWITCH_NS = 2000,  /* the shortest time that another thread takes in between */
    SLICE_NS = 100000, /* the same for one that has work of its own */
};

static uint32_t polling; /* threads of the process that poll */

void v9_waiter_init(struct v9_waiter *self, int64_t poll_ns)
{
    *self = (struct v9_waiter){0};
    v9_adaptive_poll_init(&self->poll, poll_ns);
}

uint32_t v9_wait_pollers_max(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    if (sched_getaffinity(0, sizeof(cpus), &cpus) < 0)
        return 0; /* more CPUs than a cpu_set_t has */
    return (uint32_t)(CPU_COUNT(&cpus) < online ? CPU_COUNT(&cpus) : online - 1);
}

static void wait_for_kick(struct v9_device *dev)
{
    struct epoll_event event;
    int timeout = dev->poll_ring && v9_device_can_run(dev) ? RING_POLL_MS : -1;

    __atomic_add_fetch(&dev->sleeping, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&dev->lock);
    epoll_wait(dev->epoll_fd, &event, 1, timeout);
    pthread_mutex_lock(&dev->lock);
    __atomic_sub_fetch(&dev->sleeping, 1, __ATOMIC_RELAXED);
    if (v9_device_can_run(dev))
        v9_virtqueue_disable_notification(&dev->ring);
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_cpu(void)
{
    for (int i = 0; i < PAUSES; i++)
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#else
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
#endif
}

/* The guest needs a CPU to send requests. */
static bool may_poll(const struct v9_device *dev)
{
    if (__atomic_add_fetch(&polling, 1, __ATOMIC_RELAXED) <= dev->pollers_max)
        return true;
    __atomic_sub_fetch(&polling, 1, __ATOMIC_RELAXED);
    return false;
}

/* Whether another thread has taken the CPU from this one since the last call, at whatever time. It
 * is called rarely, so that an old preemption counts once. */
static bool was_switched(struct v9_waiter *self)
{
    const long before = self->switches;
    struct rusage usage;

    if (getrusage(RUSAGE_THREAD, &usage) < 0)
        return false;
    self->switches = usage.ru_nivcsw;
    return usage.ru_nivcsw != before;
}

/*
 * Whether another thread had the CPU between two polls: a thread with work of its own for a while,
 * or the driver just long enough to send `r`. If the driver shares our CPU, it is better to sleep.
 * An interrupt, or the hypervisor, takes time as well, but no CPU that somebody waits for.
 */
static bool was_preempted(struct v9_waiter *self, int64_t between, const struct v9_request *r)
{
    return between > (r ? SWITCH_NS : SLICE_NS) && was_switched(self);
}

/* Polls for a request, for `window` from `since` on; NULL: none came. Releases the lock most of the
 * time. */
static struct v9_request *poll_for_request(struct v9_device *dev, struct v9_waiter *self,
                                           int64_t since, int64_t window)
{
    int64_t last = since;

    while (!dev->quit && v9_device_can_run(dev) && !dev->barrier && !dev->starved) {
        const int64_t now = now_ns();
        struct v9_request *r;
        v9_notify(dev);
        r = v9_request_next(dev);
        if (was_preempted(self, now - last, r)) {
            v9_adaptive_poll_preempted(&self->poll);
            return r;
        }
        if (r)
            v9_adaptive_poll_found(&self->poll, self->last, now - since);
        else if (now - since >= window)
            v9_adaptive_poll_missed(&self->poll, self->last);
        if (r || now - since >= window)
            return r;
        last = now;
        pthread_mutex_unlock(&dev->lock);
        pause_cpu();
        pthread_mutex_lock(&dev->lock);
    }
    return NULL;
}

struct v9_request *v9_wait_for_request(struct v9_device *dev, struct v9_waiter *self)
{
    const int64_t since = now_ns();
    const int64_t window = v9_adaptive_poll_window(&self->poll, self->last);
    struct v9_request *r = NULL;

    v9_device_signal(dev);
    v9_notify(dev); /* the driver may run on this CPU at once */
    if (window && may_poll(dev)) {
        r = poll_for_request(dev, self, since, window);
        __atomic_sub_fetch(&polling, 1, __ATOMIC_RELAXED);
    } else {
        v9_adaptive_poll_slept(&self->poll);
    }
    if (!r && (!v9_device_can_run(dev) || dev->barrier || dev->starved ||
               !v9_virtqueue_enable_notification(&dev->ring))) {
        v9_device_check_memory(dev); /* if the ring's own memory is lost, the ring appears empty */
        if (v9_request_is_due(dev))
            return NULL;
        wait_for_kick(dev);
    }
    return r;
}
