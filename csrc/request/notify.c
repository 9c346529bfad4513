#define _GNU_SOURCE
#include "request/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/commit.h"
#include "base/proc.h"
#include "base/sys.h"
#include "request/state.h"

/* Opens a file description of our own if possible; else duplicates the frontend's. -errno. */
static int own_descriptor(int fd, uint32_t mode)
{
    char path[V9_PROC_PATH];
    int copy = -1;

    if (S_ISFIFO(mode)) {
        v9_proc_path(fd, path);
        copy = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    }
    if (copy >= 0)
        return copy;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return -errno;
    if (!S_ISSOCK(mode))
        fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK);
    return copy;
}

int v9_notifier_new(int fd, struct v9_notifier **notifier)
{
    struct stat st;
    int copy;

    *notifier = NULL;
    if (fd < 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    copy = own_descriptor(fd, st.st_mode);
    if (copy < 0)
        return copy;
    *notifier = malloc(sizeof(**notifier));
    if (!*notifier) {
        v9_budget_close(copy);
        return -ENOMEM;
    }
    **notifier = (struct v9_notifier){copy, S_ISSOCK(st.st_mode), 1};
    return 0;
}

static void put(struct v9_notifier *notifier)
{
    if (!notifier || --notifier->users)
        return;
    v9_budget_close(notifier->fd); /* closing an eventfd, a pipe or a unix socket does not block */
    free(notifier);
}

/* A successor of this process finds the descriptor, not the notifier. */
static void set(struct v9_notifier **where, int32_t *fd, struct v9_notifier *notifier)
{
    *fd = notifier ? notifier->fd : -1;
    V9_COMMIT();
    put(*where);
    *where = notifier;
}

void v9_notify_set_call(struct v9_notify *notify, struct v9_notifier *notifier)
{
    set(&notify->call, &notify->call_fd, notifier);
}

void v9_notify_set_err(struct v9_notify *notify, struct v9_notifier *notifier)
{
    set(&notify->err, &notify->err_fd, notifier);
}

static struct v9_notifier *recover(int32_t *fd)
{
    struct v9_notifier *notifier = *fd >= 0 ? malloc(sizeof(*notifier)) : NULL;
    struct stat st;

    if (notifier && fstat(*fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)) {
        *notifier = (struct v9_notifier){*fd, S_ISSOCK(st.st_mode), 1};
        return notifier;
    }
    free(notifier);
    *fd = -1;
    return NULL;
}

void v9_notify_recover(struct v9_notify *notify)
{
    notify->call = recover(&notify->call_fd);
    notify->err = recover(&notify->err_fd);
    notify->call_due = notify->err_due = notify->writing = false;
}

static void write_one(struct v9_device *dev, struct v9_notifier *notifier)
{
    const uint64_t one = 1;
    ssize_t put_bytes;

    dev->notify.writing = true;
    dev->notify.thread = pthread_self();
    dev->notify.count++;
    notifier->users++;
    v9_device_wake_watchdog(dev);
    pthread_mutex_unlock(&dev->lock);
    /* A full descriptor returns EAGAIN, or blocks until the watchdog interrupts the write. In both
     * cases its reader has been woken already. */
    put_bytes = notifier->is_socket
                    ? send(notifier->fd, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL)
                    : write(notifier->fd, &one, sizeof(one));
    if (put_bytes < 0)
        errno = 0;
    pthread_mutex_lock(&dev->lock);
    put(notifier);
    dev->notify.writing = false;
}

void v9_notify(struct v9_device *dev)
{
    struct v9_notify *notify = &dev->notify;

    while (v9_notify_is_due(notify)) {
        const bool is_err = notify->err_due;
        struct v9_notifier *notifier = is_err ? notify->err : notify->call;
        *(is_err ? &notify->err_due : &notify->call_due) = false;
        if (notifier)
            write_one(dev, notifier);
        else if (!is_err)
            dev->unheard = true;
        pthread_cond_broadcast(&dev->idle);
    }
}

void v9_notify_check(struct v9_notify *notify)
{
    if (notify->writing && notify->count == notify->seen)
        pthread_kill(notify->thread, v9_sys_wake_signal());
    notify->seen = notify->count;
}

/* ---- waking threads -------------------------------------------------------------------------- */

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

void v9_device_wake(struct v9_device *dev)
{
    const uint64_t one = 1;

    /* A thread that is not asleep checks everything once more, under the lock, before it sleeps. */
    if (!__atomic_load_n(&dev->sleeping, __ATOMIC_RELAXED))
        return;
    while (write(dev->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

void v9_device_wake_watchdog(struct v9_device *dev)
{
    if (dev->watchdog_asleep) {
        dev->watchdog_asleep = false;
        pthread_cond_signal(&dev->watchdog);
    }
}

void v9_device_signal(struct v9_device *dev)
{
    if (!dev->unsignalled)
        return;
    dev->unsignalled = 0;
    if (!v9_virtqueue_is_live(&dev->ring) || !v9_virtqueue_should_signal(&dev->ring))
        return;
    dev->unheard = !dev->notify.call;
    if (dev->unheard)
        return;
    dev->signals++;
    dev->notify.call_due = true;
}

void v9_device_schedule_report(struct v9_device *dev)
{
    dev->report_due = true;
    v9_device_wake(dev);
}
