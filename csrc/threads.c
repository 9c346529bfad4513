/*
 * threads: who serves a device's ring.
 *
 * A thread is a runner (it takes requests and runs them to their end, inline), a spare (it sleeps)
 * or keeps watch. conf.threads runners are enough while none is stuck: one thread without contended
 * locks is faster than two. The watch looks once per millisecond while requests are running. When
 * every runner is inside a request and none has started or ended one since the last look, they hang
 * in system calls (a cold disk, an NFS server that is gone): the watch declares them stuck, which
 * begins a new epoch, and turns runner itself; a spare, made if there is none, takes over the
 * watch. A stuck thread that comes back into a later epoch turns spare. Without traffic the watch
 * sleeps for good and costs nothing.
 *
 * A runner without a request looks for the next one for a while (pace.h): the driver need not kick
 * it, and nobody has to wake it. Then it sleeps in epoll on the kick descriptor, edge-triggered, so
 * that it need not be read; and on a timer, for requests that wait for their time.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    WATCH_INTERVAL_NS = 1000000,
    WATCH_IDLE_LOOKS = 50, /* looks without progress or work before the watch goes to sleep */
    RING_POLL_MS = 1,      /* where the frontend gave no kick descriptor */
    STOP_PATIENCE_NS = 300000000, /* for threads that hang while the process ends */
    PAUSES = 8,                   /* of the CPU between two looks at the ring */
    SWITCH_NS = 2000,             /* that it takes at least to run another thread in between */
    SLICE_NS = 100000,            /* that others run at least who have work of their own */
};

static uint32_t looking; /* threads of the process that look for requests */

struct timespec v9_from_now(int64_t ns)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    ns += at.tv_nsec;
    at.tv_sec += ns / 1000000000;
    at.tv_nsec = ns % 1000000000;
    return at;
}

void v9_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void v9_threads_nudge(struct v9_device *dev)
{
    const uint64_t one = 1;

    /* Who is not asleep looks at everything once more, under the lock, before it sleeps. */
    if (!__atomic_load_n(&dev->sleeping, __ATOMIC_RELAXED))
        return;
    while (write(dev->nudge_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void v9_threads_watch(struct v9_device *dev)
{
    if (dev->watch_asleep) {
        dev->watch_asleep = false;
        pthread_cond_signal(&dev->watch);
    }
}

/* ---- roles; all with the lock held -------------------------------------------------------------
 */

static void wait_for_kick(struct v9_device *dev)
{
    struct epoll_event event;
    int timeout = dev->poll_ring && v9_device_can_run(dev) ? RING_POLL_MS : -1;

    __atomic_add_fetch(&dev->sleeping, 1, __ATOMIC_RELAXED);
    v9_device_unlock(dev);
    epoll_wait(dev->epoll_fd, &event, 1, timeout);
    pthread_mutex_lock(&dev->lock);
    __atomic_sub_fetch(&dev->sleeping, 1, __ATOMIC_RELAXED);
    if (v9_device_can_run(dev))
        v9_vring_disarm(&dev->ring);
}

/* Runs one request; false where the thread was declared stuck meanwhile and is a runner no more. */
static bool execute(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch)
{
    const uint64_t epoch = dev->epoch;
    int result;

    dev->progress++;
    dev->executing++;
    v9_threads_watch(dev);
    /* A fellow runner sleeps: it must hear of the next chain, whether it is there already or the
     * driver, who was told to kick for this one only, is yet to add it. */
    if (dev->sleeping && v9_device_can_run(dev) && v9_vring_arm(&dev->ring))
        v9_threads_nudge(dev);
    v9_device_unlock(dev);
    result = v9_request_run(dev, r, scratch);
    pthread_mutex_lock(&dev->lock);
    dev->progress++;
    if (!r->dead)
        dev->busy--;
    v9_request_finish(dev, r, result);
    if (epoch != dev->epoch) {
        v9_device_signal(dev); /* nobody else may come by */
        v9_hub_wake(dev->hub);
        return false;
    }
    dev->executing--;
    return true;
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

/* Of all threads that could look one less does than there are CPUs: the guest needs one to send
 * something from. */
static bool may_look(const struct v9_device *dev)
{
    if (__atomic_add_fetch(&looking, 1, __ATOMIC_RELAXED) < dev->cpu_count)
        return true;
    __atomic_sub_fetch(&looking, 1, __ATOMIC_RELAXED);
    return false;
}

/*
 * Whether another thread had the CPU between two looks: one with work of its own for a while, or
 * the driver itself just long enough to send `r`. With that one it is better to take turns.
 */
static bool is_disturbed(int64_t between, const struct v9_request *r)
{
    return between > (r ? SWITCH_NS : SLICE_NS);
}

/* Looks for a request, from `since` on, for as long as the pace says; NULL: there came none. The
 * lock is free most of the time. */
static struct v9_request *look(struct v9_device *dev, struct v9_pace *pace, int64_t since)
{
    int64_t last = since;

    while (!dev->quit && v9_device_can_run(dev) && !dev->barrier && !dev->starved) {
        const int64_t now = now_ns();
        struct v9_request *r = v9_request_next(dev);
        if (!r)
            v9_device_signal(dev); /* what ended in the attempt */
        if (is_disturbed(now - last, r)) {
            v9_pace_disturbed(pace);
            return r;
        }
        if (r)
            v9_pace_found(pace);
        if (r || now - since >= pace->window)
            return r;
        last = now;
        v9_device_unlock(dev);
        pause_cpu();
        pthread_mutex_lock(&dev->lock);
    }
    return NULL;
}

/* There is no request: waits for the next one, which it may return. */
static struct v9_request *wait_for_request(struct v9_device *dev, struct v9_pace *pace)
{
    const int64_t since = now_ns();
    const bool looks = pace->window && may_look(dev);
    struct v9_request *r = NULL;

    v9_device_signal(dev); /* which may have the driver run in this thread's place at once */
    if (looks) {
        r = look(dev, pace, since);
        __atomic_sub_fetch(&looking, 1, __ATOMIC_RELAXED);
    }
    if (!r &&
        (!v9_device_can_run(dev) || dev->barrier || dev->starved || !v9_vring_arm(&dev->ring))) {
        v9_device_look(dev); /* the ring itself may be gone, and look like one that is empty */
        wait_for_kick(dev);
        v9_pace_slept(pace, now_ns() - since, looks);
    }
    return r;
}

static void be_runner(struct v9_device *dev, struct v9_scratch *scratch)
{
    while (!dev->quit) {
        struct v9_request *r = v9_request_next(dev);
        if (!r)
            r = wait_for_request(dev, &scratch->pace);
        if (r && !execute(dev, r, scratch))
            return;
    }
    dev->runners--;
}

static int spawn(struct v9_device *dev);

/* Every runner is stuck: from here on this thread is the one runner, and another keeps watch. */
static void take_over(struct v9_device *dev)
{
    dev->epoch++;
    dev->executing = 0;
    dev->runners = 1;
    dev->watch_taken = false;
    if (!dev->spares && dev->thread_count < V9_THREADS_MAX)
        spawn(dev); /* if it fails, the thread that comes back first takes the watch */
    pthread_cond_broadcast(&dev->spare);
}

/* Looks after the runners; returns as a runner, or when the device goes. */
static void keep_watch(struct v9_device *dev)
{
    uint64_t seen = dev->progress;
    uint32_t idle = 0;

    while (!dev->quit) {
        struct timespec at = v9_from_now(WATCH_INTERVAL_NS);
        if (idle < WATCH_IDLE_LOOKS) {
            pthread_cond_timedwait(&dev->watch, &dev->lock, &at);
        } else {
            dev->watch_asleep = true;
            while (dev->watch_asleep && !dev->quit)
                pthread_cond_wait(&dev->watch, &dev->lock);
            idle = 0;
        }
        if (dev->executing >= dev->runners && dev->executing && dev->progress == seen) {
            take_over(dev);
            return;
        }
        idle = dev->progress == seen && !dev->executing ? idle + 1 : 0;
        seen = dev->progress;
    }
}

static void take_a_role(struct v9_device *dev, struct v9_scratch *scratch)
{
    if (dev->runners < dev->conf.threads) {
        dev->runners++;
        be_runner(dev, scratch);
    } else if (!dev->watch_taken) {
        dev->watch_taken = true;
        keep_watch(dev);
        if (!dev->quit)
            be_runner(dev, scratch);
    } else {
        dev->spares++;
        pthread_cond_wait(&dev->spare, &dev->lock);
        dev->spares--;
    }
}

static void *serve(void *argument)
{
    struct v9_device *dev = argument;
    struct v9_scratch *scratch = malloc(sizeof(*scratch));

    v9_budget_charge(dev->fids.nodes.account);
    if (scratch) {
        scratch->reply = malloc(dev->conf.msize_max);
        v9_pace_init(&scratch->pace, (int64_t)dev->conf.poll_us * 1000);
    }
    pthread_mutex_lock(&dev->lock);
    while (!dev->quit && scratch && scratch->reply)
        take_a_role(dev, scratch);
    dev->thread_count--;
    pthread_cond_broadcast(&dev->gone);
    pthread_mutex_unlock(&dev->lock);
    if (scratch)
        free(scratch->reply);
    free(scratch);
    return NULL;
}

/* Signals are Python's main thread's; only what a thread does itself (SIGBUS) reaches it here. */
static int spawn(struct v9_device *dev)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    int err;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (CPU_COUNT((const cpu_set_t *)dev->conf.cpus))
        pthread_attr_setaffinity_np(&attr, sizeof(dev->conf.cpus), (const void *)dev->conf.cpus);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    dev->thread_count++;
    err = pthread_create(&thread, &attr, serve, dev);
    if (err)
        dev->thread_count--;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}

/* ---- life --------------------------------------------------------------------------------------
 */

static int watch_fd(int epoll_fd, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int v9_threads_start(struct v9_device *dev)
{
    cpu_set_t cpus;
    int err = 0;

    CPU_ZERO(&cpus);
    sched_getaffinity(0, sizeof(cpus), &cpus);
    dev->cpu_count = (uint32_t)CPU_COUNT(&cpus);
    v9_cond_init(&dev->watch);
    v9_cond_init(&dev->spare);
    v9_cond_init(&dev->gone);
    dev->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    dev->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (dev->epoll_fd < 0 || dev->nudge_fd < 0 || dev->quit_fd < 0 || dev->timer_fd < 0)
        return -errno;
    err = watch_fd(dev->epoll_fd, dev->nudge_fd, EPOLLIN | EPOLLET);
    if (!err)
        err = watch_fd(dev->epoll_fd, dev->timer_fd, EPOLLIN | EPOLLET);
    if (!err)
        err = watch_fd(dev->epoll_fd, dev->quit_fd, EPOLLIN); /* level: it wakes every runner */
    pthread_mutex_lock(&dev->lock);
    for (uint32_t i = 0; !err && i < dev->conf.threads + 1; i++)
        err = spawn(dev);
    pthread_mutex_unlock(&dev->lock);
    return err;
}

bool v9_threads_stop(struct v9_device *dev)
{
    const uint64_t one = 1;
    struct timespec deadline = v9_from_now(STOP_PATIENCE_NS);
    bool all;

    pthread_mutex_lock(&dev->lock);
    dev->quit = true;
    while (write(dev->quit_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_cond_broadcast(&dev->watch);
    pthread_cond_broadcast(&dev->spare);
    while (dev->thread_count &&
           pthread_cond_timedwait(&dev->gone, &dev->lock, &deadline) != ETIMEDOUT)
        ;
    all = dev->thread_count == 0;
    pthread_mutex_unlock(&dev->lock);
    if (!all)
        return false;
    close(dev->epoll_fd);
    close(dev->nudge_fd);
    close(dev->quit_fd);
    close(dev->timer_fd);
    pthread_cond_destroy(&dev->watch);
    pthread_cond_destroy(&dev->spare);
    pthread_cond_destroy(&dev->gone);
    return true;
}
