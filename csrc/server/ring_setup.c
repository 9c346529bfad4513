/*
 * ring_setup: how the frontend sets up and starts a device's ring, and its descriptors for kicks
 * and notifications.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/commit.h"
#include "request/notify.h"
#include "server/api.h"

#include "server/ring_setup.h"

/*
 * Only a stopped ring can be set up: the caller stops it first (v9_ring_pause, v9_ring_drain). Each
 * message is checked alone here, and all of them together when the ring starts.
 */
static int take_setup(struct v9_device *dev, const struct v9_virtqueue_setup *setup)
{
    const int err = dev->started ? -EBUSY : 0;

    if (!err)
        dev->setup = *setup;
    pthread_mutex_unlock(&dev->lock);
    return err;
}

/* Takes the lock, which take_setup releases. */
static struct v9_virtqueue_setup begin_setup(struct v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    return dev->setup;
}

int v9_device_set_features(v9_device *dev, uint64_t features)
{
    struct v9_virtqueue_setup setup = begin_setup(dev);
    const bool packed = features >> V9_FEATURE_PACKED & 1;

    if (setup.packed != packed)
        setup.base = 0; /* the base of one layout has no meaning in the other */
    setup.packed = packed;
    setup.indirect = features >> V9_FEATURE_INDIRECT & 1;
    setup.event_idx = features >> V9_FEATURE_EVENT_IDX & 1;
    return take_setup(dev, &setup);
}

int v9_ring_set_num(v9_device *dev, uint32_t num)
{
    struct v9_virtqueue_setup setup = begin_setup(dev);
    const bool valid = num && num <= V9_VRING_MAX && (setup.packed || !(num & (num - 1)));

    if (valid)
        setup.num = num;
    return take_setup(dev, &setup) ? -EBUSY : valid ? 0 : -EINVAL;
}

int v9_ring_set_base(v9_device *dev, uint32_t base)
{
    struct v9_virtqueue_setup setup = begin_setup(dev);
    const bool valid = setup.packed || base <= UINT16_MAX;

    if (valid)
        setup.base = base;
    return take_setup(dev, &setup) ? -EBUSY : valid ? 0 : -EINVAL;
}

int v9_ring_set_addr(v9_device *dev, uint64_t desc, uint64_t used, uint64_t avail)
{
    struct v9_virtqueue_setup setup = begin_setup(dev);

    setup.desc_uva = desc;
    setup.used_uva = used;
    setup.avail_uva = avail;
    return take_setup(dev, &setup);
}

static int duplicate(int fd)
{
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return fd >= 0 && copy < 0 ? -errno : copy;
}

/* Starts the ring unless it runs. NULL, or the reason why it cannot start. */
static const char *start_ring(struct v9_device *dev)
{
    const char *reason = NULL;

    if (!dev->started) {
        v9_mem_restore(&dev->mem);
        reason = v9_virtqueue_start(&dev->ring, &dev->setup, &dev->mem);
    }
    if (!reason)
        dev->started = dev->ring.must_signal = true;
    return reason;
}

static void drop_kick(struct v9_device *dev)
{
    const int fd = dev->kick_fd;

    if (fd < 0)
        return;
    dev->kick_fd = -1;
    V9_COMMIT();
    epoll_ctl(dev->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    v9_budget_close(fd);
}

/* Takes the new kick descriptor, -1 for none, in place of the old one. */
static void take_kick(struct v9_device *dev, int fd)
{
    drop_kick(dev);
    dev->kick_fd = fd;
    dev->poll_ring = fd < 0;
    dev->paused = false;
}

int v9_ring_set_kick(v9_device *dev, int32_t fd, const char **reason)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int copy = duplicate(fd), err = 0;

    *reason = NULL;
    if (fd >= 0 && copy < 0)
        return copy;
    pthread_mutex_lock(&dev->lock);
    if (copy >= 0 && epoll_ctl(dev->epoll_fd, EPOLL_CTL_ADD, copy, &event) < 0)
        err = -errno;
    if (!err && (*reason = start_ring(dev))) {
        err = -EINVAL;
        epoll_ctl(dev->epoll_fd, EPOLL_CTL_DEL, copy, NULL);
    }
    if (!err)
        take_kick(dev, copy);
    pthread_mutex_unlock(&dev->lock);
    if (err && copy >= 0)
        v9_budget_close(copy);
    v9_device_wake(dev);
    return err;
}

uint32_t v9_ring_is_started(v9_device *dev)
{
    bool started;

    pthread_mutex_lock(&dev->lock);
    started = dev->started;
    pthread_mutex_unlock(&dev->lock);
    return started;
}

int v9_ring_set_call(v9_device *dev, int32_t fd)
{
    struct v9_notifier *call;
    int err = v9_notifier_new(fd, &call);

    if (err)
        return err;
    pthread_mutex_lock(&dev->lock);
    v9_notify_set_call(&dev->notify, call);
    /* Signals the completions that had no call descriptor. */
    dev->ring.must_signal = true;
    dev->unsignalled += dev->unheard;
    v9_device_signal(dev);
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev);
    return 0;
}

int v9_ring_set_err(v9_device *dev, int32_t fd)
{
    struct v9_notifier *notifier;
    int err = v9_notifier_new(fd, &notifier);

    if (err)
        return err;
    pthread_mutex_lock(&dev->lock);
    v9_notify_set_err(&dev->notify, notifier);
    pthread_mutex_unlock(&dev->lock);
    return 0;
}

int v9_ring_enable(v9_device *dev, uint32_t enable)
{
    pthread_mutex_lock(&dev->lock);
    dev->enabled = enable != 0;
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev); /* no kick is lost: the ring is checked again */
    return 0;
}

void v9_ring_release(struct v9_device *dev)
{
    drop_kick(dev);
    v9_notify_set_call(&dev->notify, NULL);
    v9_notify_set_err(&dev->notify, NULL);
    dev->setup = (struct v9_virtqueue_setup){0};
    dev->enabled = dev->poll_ring = false;
}
