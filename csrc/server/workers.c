/*
 * workers: the threads that serve a device's ring.
 *
 * A thread is a runner (it takes requests and runs them to their end, inline), the watchdog, or a
 * spare (it sleeps). conf.threads runners are enough while none is stuck: one thread without
 * contended locks is faster than two. While requests are running, the watchdog checks the runners
 * once per millisecond. If every runner has been asleep inside a request since the last check, they
 * all hang in system calls (a cold disk, a lost NFS server). The watchdog then declares them stuck,
 * which begins a new round, and becomes a runner itself. A spare, started if there is none, becomes
 * the watchdog. A stuck thread that returns in a later round becomes a spare, or ends if there is
 * one. Without traffic, the watchdog sleeps and costs nothing.
 *
 * A runner that computes is not stuck: another thread would only take the CPU from it. A runner is
 * asleep if it used no CPU time between two checks and does not just wait for a CPU. A runner that
 * waits for the interpreter is not stuck either: the next request may need the interpreter as well.
 *
 * A runner without a request polls for the next one, or sleeps (server/wait.h).
 */
#define _GNU_SOURCE
#include "server/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/proc.h"
#include "p9/dispatch.h"
#include "request/notify.h"
#include "request/rate_queue.h"
#include "request/request.h"
#include "request/upcall.h"
#include "server/wait.h"

enum {
    WATCHDOG_INTERVAL_NS = 1000000,
    WATCHDOG_IDLE_CHECKS = 50,    /* checks without progress or work before the watchdog sleeps */
    STOP_PATIENCE_NS = 300000000, /* for threads that hang while the process ends */
    STOP_WAITS = 30,              /* of that length, for those that are late */
    SPARES_KEPT = 1,              /* idle spares; more of them end */
};

/* A serving thread. */
struct thread {
    struct v9_scratch scratch;
    struct v9_waiter waiter;
};

/* ---- roles; all with the lock held ----------------------------------------------------------- */

/* Marks a runner as busy with something that may take long. */
static void begin_work(struct v9_device *dev, struct v9_worker *worker)
{
    worker->used = -1;
    worker->next = dev->at_work;
    dev->at_work = worker;
    dev->progress++;
    dev->executing++;
    dev->working++;
    v9_device_wake_watchdog(dev);
    /* Another runner sleeps and has to be woken for the next chain. If the chain is available
     * already, we wake it; else the driver has to kick. */
    if (dev->sleeping && v9_device_can_run(dev) && v9_virtqueue_enable_notification(&dev->ring))
        v9_device_wake(dev);
}

/* False if the thread was declared stuck meanwhile, and is no runner any more. */
static bool end_work(struct v9_device *dev, struct v9_worker *worker, uint64_t round)
{
    struct v9_worker **at = &dev->at_work;

    dev->progress++;
    dev->working--;
    if (round != dev->watchdog_round) {
        v9_device_signal(dev); /* the other runners may be asleep */
        v9_notify(dev);
        return false;
    }
    while (*at != worker)
        at = &(*at)->next;
    *at = worker->next;
    dev->executing--;
    return true;
}

/* Runs a request to its end. */
static bool execute(struct v9_device *dev, struct v9_request *r, struct thread *self)
{
    const uint64_t round = dev->watchdog_round;
    struct v9_scratch *scratch = &self->scratch;
    int result;

    self->waiter.last = r->type;
    begin_work(dev, &scratch->worker);
    v9_fids_begin_request(&dev->fids, &r->changes);
    v9_evidence_begin(&r->evidence, r->again);
    pthread_mutex_unlock(&dev->lock);
    result = v9_p9_run(dev, r, scratch);
    r->export = (uint16_t)v9_fids_pinned_export();
    pthread_mutex_lock(&dev->lock);
    if (!r->dead)
        dev->busy--;
    if (result == -V9_NOT_OURS && !r->dead) {
        v9_upcall_request(dev, r, scratch);
        v9_evidence_begin(NULL, false);
    } else {
        v9_request_finish(dev, r, result);
    }
    return end_work(dev, &scratch->worker, round);
}

static bool report_to_python(struct v9_device *dev, struct v9_worker *worker)
{
    const uint64_t round = dev->watchdog_round;

    begin_work(dev, worker);
    v9_upcall_report(dev, worker);
    return end_work(dev, worker, round);
}

static void be_runner(struct v9_device *dev, struct thread *self)
{
    while (!dev->quit) {
        struct v9_request *r;
        v9_notify(dev);
        if (dev->report_due && !report_to_python(dev, &self->scratch.worker))
            return;
        r = v9_request_next(dev);
        if (!r)
            r = v9_wait_for_request(dev, &self->waiter);
        if (r && !execute(dev, r, self))
            return;
    }
    dev->runners--;
}

static int spawn(struct v9_device *dev);

/* Every runner is stuck: this thread becomes the only runner, and another the watchdog. */
static void take_over(struct v9_device *dev)
{
    dev->watchdog_round++;
    dev->executing = 0;
    dev->at_work = NULL;
    dev->runners = 1;
    dev->watchdog_taken = false;
    if (!dev->spares && dev->thread_count < V9_THREADS_MAX)
        spawn(dev); /* if it fails, the first thread that returns becomes the watchdog */
    pthread_cond_broadcast(&dev->spare);
}

static int64_t cpu_time(const struct v9_worker *worker)
{
    struct timespec used;
    return clock_gettime(worker->clock, &used) ? 0
                                               : (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* Whether a thread that uses no CPU time waits for something that may never come: not for a CPU
 * and, inside Python, not for the interpreter. A wait for the interpreter is a futex(2) with a
 * time-out. */
static bool is_asleep(int32_t tid, bool in_python)
{
    char path[V9_PROC_PATH], text[256];
    unsigned long timeout = 0;
    long number = 0;
    ssize_t size;
    int fd;

    v9_proc_system_call(tid, path);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true; /* the kernel does not report it */
    size = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[size < 0 ? 0 : size] = '\0';
    if (!strncmp(text, "running", 7))
        return false;
    return !in_python || sscanf(text, "%ld %*x %*x %*x %lx", &number, &timeout) != 2 ||
           number != SYS_futex || !timeout;
}

/* Whether all runners have been asleep inside their requests since the last check. */
static bool are_stuck(struct v9_device *dev)
{
    struct v9_worker found[V9_THREADS_MAX];
    const uint64_t seen = dev->progress;
    uint32_t count = 0;
    bool stuck = dev->executing >= dev->runners && dev->executing;

    for (struct v9_worker *each = dev->at_work; each; each = each->next) {
        const int64_t used = cpu_time(each);
        stuck = stuck && used == each->used;
        each->used = used;
        found[count].tid = each->tid;
        found[count++].in_python = __atomic_load_n(&each->in_python, __ATOMIC_RELAXED);
    }
    if (!stuck)
        return false;
    pthread_mutex_unlock(&dev->lock);
    while (stuck && count--)
        stuck = is_asleep(found[count].tid, found[count].in_python);
    pthread_mutex_lock(&dev->lock);
    return stuck && dev->progress == seen;
}

/* Checks the runners; returns as a runner, or when the device ends. */
static void be_watchdog(struct v9_device *dev)
{
    uint64_t seen = dev->progress;
    uint32_t idle = 0;

    while (!dev->quit) {
        struct timespec at = v9_from_now(WATCHDOG_INTERVAL_NS);
        if (idle < WATCHDOG_IDLE_CHECKS) {
            pthread_cond_timedwait(&dev->watchdog, &dev->lock, &at);
        } else {
            dev->watchdog_asleep = true;
            while (dev->watchdog_asleep && !dev->quit)
                pthread_cond_wait(&dev->watchdog, &dev->lock);
            idle = 0;
        }
        v9_notify_check(&dev->notify);
        if (are_stuck(dev)) {
            take_over(dev);
            return;
        }
        idle = dev->progress == seen && !dev->executing && !dev->notify.writing ? idle + 1 : 0;
        seen = dev->progress;
    }
}

/* False if no role is left for this thread. */
static bool take_a_role(struct v9_device *dev, struct thread *self)
{
    if (dev->runners < dev->conf.threads) {
        dev->runners++;
        be_runner(dev, self);
    } else if (!dev->watchdog_taken) {
        dev->watchdog_taken = true;
        be_watchdog(dev);
        if (!dev->quit)
            be_runner(dev, self);
    } else if (dev->spares < SPARES_KEPT) {
        dev->spares++;
        pthread_cond_wait(&dev->spare, &dev->lock);
        dev->spares--;
    } else {
        return false;
    }
    return true;
}

static void *serve(void *argument)
{
    struct v9_device *dev = argument;
    struct thread *self = malloc(sizeof(*self));

    v9_budget_charge(dev->fids.inodes.account);
    if (self) {
        self->scratch.reply = malloc(dev->conf.msize_max);
        v9_waiter_init(&self->waiter, (int64_t)dev->conf.poll_us * 1000);
        self->scratch.worker = (struct v9_worker){.tid = (int32_t)gettid()};
        pthread_getcpuclockid(pthread_self(), &self->scratch.worker.clock);
    }
    pthread_mutex_lock(&dev->lock);
    while (!dev->quit && self && self->scratch.reply && take_a_role(dev, self))
        ;
    dev->thread_count--;
    pthread_cond_broadcast(&dev->gone);
    pthread_mutex_unlock(&dev->lock);
    if (self)
        free(self->scratch.reply);
    free(self);
    return NULL;
}

/* Python's main thread handles signals. A serving thread receives only those of its own faults
 * (SIGBUS) and the one that interrupts its system calls. */
static int spawn(struct v9_device *dev)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    int err;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, v9_sys_wake_signal());
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

/* ---- life ------------------------------------------------------------------------------------ */

static int add_to_epoll(int epoll_fd, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* Nobody serves the device. */
static void begin_anew(struct v9_device *dev)
{
    dev->quit = dev->watchdog_taken = dev->watchdog_asleep = false;
    dev->thread_count = dev->runners = dev->spares = 0;
    dev->sleeping = dev->working = dev->executing = 0;
    dev->at_work = NULL;
}

int v9_workers_start(struct v9_device *dev)
{
    int err = 0;

    begin_anew(dev);
    dev->pollers_max = v9_wait_pollers_max();
    v9_cond_init(&dev->watchdog);
    v9_cond_init(&dev->spare);
    v9_cond_init(&dev->gone);
    dev->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    dev->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    dev->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (dev->epoll_fd < 0 || dev->wake_fd < 0 || dev->quit_fd < 0 || dev->timer_fd < 0)
        return -errno;
    err = add_to_epoll(dev->epoll_fd, dev->wake_fd, EPOLLIN | EPOLLET);
    if (!err)
        err = add_to_epoll(dev->epoll_fd, dev->timer_fd, EPOLLIN | EPOLLET);
    if (!err)
        err = add_to_epoll(dev->epoll_fd, dev->quit_fd, EPOLLIN); /* wakes every runner */
    if (!err && dev->kick_fd >= 0) /* of a device that was recovered */
        err = add_to_epoll(dev->epoll_fd, dev->kick_fd, EPOLLIN | EPOLLET);
    pthread_mutex_lock(&dev->lock);
    v9_device_signal(dev);
    for (uint32_t i = 0; !err && i < dev->conf.threads + 1; i++)
        err = spawn(dev);
    pthread_mutex_unlock(&dev->lock);
    return err;
}

/* Waits until the threads have ended; false if some are left. Those that are inside a request may
 * hang there. The others end once the host gives them a CPU, which may take long, or once the
 * frontend's descriptor takes what they write. The lock is held. */
static bool wait_for_end(struct v9_device *dev)
{
    int waits = 0;

    while (dev->thread_count && waits < STOP_WAITS) {
        struct timespec until = v9_from_now(STOP_PATIENCE_NS);
        if (pthread_cond_timedwait(&dev->gone, &dev->lock, &until) == ETIMEDOUT)
            waits = dev->thread_count == dev->working ? STOP_WAITS : waits + 1;
    }
    return !dev->thread_count;
}

bool v9_workers_stop(struct v9_device *dev)
{
    const uint64_t one = 1;
    bool all;

    pthread_mutex_lock(&dev->lock);
    dev->quit = true;
    while (write(dev->quit_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    pthread_cond_broadcast(&dev->watchdog);
    pthread_cond_broadcast(&dev->spare);
    all = wait_for_end(dev);
    pthread_mutex_unlock(&dev->lock);
    if (!all)
        return false;
    close(dev->epoll_fd);
    close(dev->wake_fd);
    close(dev->quit_fd);
    close(dev->timer_fd);
    pthread_cond_destroy(&dev->watchdog);
    pthread_cond_destroy(&dev->spare);
    pthread_cond_destroy(&dev->gone);
    return true;
}
