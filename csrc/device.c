/*
 * device: what the frontend sets up: memory, ring, life cycle; and the fid calls of Python.
 *
 * The ring runs while it is started (a kick descriptor was given), enabled, mapped and whole.
 * Memory may change while it runs: the device pauses, waits for the requests that threads may be
 * moving data for, changes the table and translates everything again.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "linger.h"

enum {
    QUIESCE_MS = 2000, /* the frontend waits in its main loop: the VM stands still meanwhile */
    NOTIFY_MS = 100, /* for a serving thread to come by: it does at once, unless all of them hang */
    REGIONS_MIN = 8, /* regions of guest memory that a device may have in any case, */
    REGIONS_PART = 8, /* or such a part of its share of descriptors */
};

int v9_init(void)
{
    v9_pressure_init();
    v9_budget_init();
    return v9_mem_init();
}

/* ---- life --------------------------------------------------------------------------------------
 */

v9_device *v9_device_new(const struct v9_device_conf *conf, int32_t *err)
{
    struct v9_device *dev = calloc(1, sizeof(*dev));

    *err = -ENOMEM;
    if (!dev)
        return NULL;
    dev->conf = *conf;
    dev->msize = conf->msize_max;
    dev->mem.limit = conf->mem_regions;
    dev->kick_fd = -1;
    pthread_mutex_init(&dev->lock, NULL);
    v9_cond_init(&dev->idle);
    /* Sparse: a slot costs memory once it was in flight. */
    dev->slots = mmap(NULL, V9_SLOTS * sizeof(*dev->slots), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (dev->slots == MAP_FAILED)
        goto fail;
    *err = v9_fids_init(&dev->fids, conf->max_fids, dev->exports);
    if (*err)
        goto fail_slots;
    *err = v9_threads_start(dev);
    if (!*err)
        return dev;
    if (!v9_threads_stop(dev))
        return NULL; /* a thread that hangs keeps the memory */
    v9_fids_destroy(&dev->fids);
fail_slots:
    munmap(dev->slots, V9_SLOTS * sizeof(*dev->slots));
fail:
    free(dev);
    return NULL;
}

uint32_t v9_device_account(const v9_device *dev)
{
    return dev->fids.nodes.account;
}

static void set_fd(int *where, int fd)
{
    if (*where >= 0)
        v9_budget_close(*where);
    *where = fd;
}

int v9_device_free(v9_device *dev)
{
    v9_ring_pause(dev);
    if (!v9_threads_stop(dev)) {
        v9_pressure_leave(&dev->fids.holder, false);
        return 0; /* they will look at it */
    }
    v9_vring_stop(&dev->ring);
    v9_mem_bury(&dev->graveyard);
    v9_mem_destroy(&dev->mem);
    v9_fids_destroy(&dev->fids);
    set_fd(&dev->kick_fd, -1);
    v9_notifier_set(&dev->notify.call, NULL);
    v9_notifier_set(&dev->notify.err, NULL);
    munmap(dev->slots, V9_SLOTS * sizeof(*dev->slots));
    pthread_cond_destroy(&dev->idle);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
    return 1;
}

/* The mount that an export's root is on, which that keeps; 0 if the host does not tell. */
static uint64_t own_mount(const v9_export *ex)
{
    struct v9_attr attr;

    return v9_attr_glance(ex->conf.root_fd, "", &attr) ? 0 : attr.mnt_id;
}

int v9_device_set_export(v9_device *dev, uint32_t index, v9_export *ex)
{
    uint64_t keeps = 0;

    if (index >= V9_EXPORTS_MAX)
        return -ENOSPC;
    if (!ex->quota && ex->conf.model != V9_MODEL_FILE && v9_linger_start())
        keeps = own_mount(ex);
    pthread_mutex_lock(&dev->lock);
    ex->index = index;
    dev->exports[index] = ex;
    dev->fids.nodes.quotas[index] = ex->quota;
    dev->fids.nodes.keeps[index] = keeps;
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
    return 0;
}

void v9_device_set_msize(v9_device *dev, uint32_t msize)
{
    pthread_mutex_lock(&dev->lock);
    dev->msize = msize < dev->conf.msize_max ? msize : dev->conf.msize_max;
    pthread_mutex_unlock(&dev->lock);
}

void v9_device_set_dialect(v9_device *dev, uint32_t dialect)
{
    pthread_mutex_lock(&dev->lock);
    dev->dialect = (uint8_t)dialect;
    pthread_mutex_unlock(&dev->lock);
    /* Tremove and Twstat work by the name through which the fid was reached. */
    pthread_mutex_lock(&dev->fids.lock);
    __atomic_store_n(&dev->fids.nodes.unshared, dialect == V9_9P2000U, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&dev->fids.lock);
}

void v9_device_stats(v9_device *dev, struct v9_device_stats *out)
{
    pthread_mutex_lock(&dev->lock);
    *out = (struct v9_device_stats){
        .inflight = dev->inflight,
        .requests = dev->requests,
        .upcalls = dev->upcalls,
        .signals = dev->signals,
        .threads = dev->thread_count,
        .broken = dev->ring.broken != NULL,
    };
    pthread_mutex_unlock(&dev->lock);
    pthread_mutex_lock(&dev->fids.lock);
    out->fids = dev->fids.count;
    out->nodes = dev->fids.nodes.count;
    out->parked = dev->fids.nodes.park.count;
    pthread_mutex_unlock(&dev->fids.lock);
}

/* ---- draining ----------------------------------------------------------------------------------
 */

/* Waits until the count (of the requests in flight, or of those in threads) is 0; false on
 * time-out. The device is paused, so the count only falls. */
static bool wait_idle(struct v9_device *dev, const uint32_t *count, uint32_t timeout_ms)
{
    struct timespec until = v9_from_now((int64_t)timeout_ms * 1000000);

    while (*count)
        if (pthread_cond_timedwait(&dev->idle, &dev->lock, &until) == ETIMEDOUT)
            return *count == 0;
    return true;
}

/* The frontend hears of what has ended before the ring has stopped, and of nothing afterwards. */
static void wait_notified(struct v9_device *dev)
{
    struct v9_notify *notify = &dev->notify;
    struct timespec until = v9_from_now((int64_t)NOTIFY_MS * 1000000);

    v9_threads_nudge(dev);
    while (notify->call_due || notify->err_due || notify->writing)
        if (pthread_cond_timedwait(&dev->idle, &dev->lock, &until) == ETIMEDOUT)
            break;
    notify->call_due = notify->err_due = false;
}

void v9_ring_pause(v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    dev->paused = true;
    pthread_mutex_unlock(&dev->lock);
}

uint32_t v9_ring_drain(v9_device *dev, uint32_t timeout_ms)
{
    uint32_t base;

    pthread_mutex_lock(&dev->lock);
    dev->paused = dev->hurry = true;
    v9_threads_nudge(dev);
    if (!wait_idle(dev, &dev->inflight, timeout_ms)) {
        v9_device_kill(dev, true);
        v9_device_attach(dev);
    }
    dev->hurry = false;
    v9_device_signal(dev);
    wait_notified(dev);
    if (dev->started) {
        v9_vring_stop(&dev->ring);
        dev->setup.base = dev->ring.setup.base;
    }
    dev->started = false;
    base = dev->setup.base;
    pthread_mutex_unlock(&dev->lock);
    return base;
}

void v9_device_reset(v9_device *dev, uint32_t keep_memory)
{
    v9_ring_drain(dev, QUIESCE_MS);
    pthread_mutex_lock(&dev->lock);
    if (dev->kick_fd >= 0)
        epoll_ctl(dev->epoll_fd, EPOLL_CTL_DEL, dev->kick_fd, NULL);
    set_fd(&dev->kick_fd, -1);
    v9_notifier_set(&dev->notify.call, NULL);
    v9_notifier_set(&dev->notify.err, NULL);
    dev->enabled = dev->poll_ring = false;
    dev->setup = (struct v9_vring_setup){0};
    dev->unsignalled = 0;
    dev->unheard = false;
    if (!keep_memory)
        v9_mem_clear(&dev->mem);
    v9_mem_restore(&dev->mem);
    dev->msize = dev->conf.msize_max;
    pthread_mutex_unlock(&dev->lock);
    v9_fids_clear(&dev->fids);
    v9_device_set_dialect(dev, V9_9P2000L);
}

/* ---- memory ------------------------------------------------------------------------------------
 */

/* Takes the lock with no thread inside guest memory; returns whether the device was paused. */
static bool begin_memory_change(struct v9_device *dev)
{
    bool paused;

    pthread_mutex_lock(&dev->lock);
    paused = dev->paused;
    dev->paused = true;
    if (!wait_idle(dev, &dev->busy, QUIESCE_MS))
        v9_device_kill(dev, false);
    v9_device_detach(dev);
    return paused;
}

static void end_memory_change(struct v9_device *dev, bool paused)
{
    v9_device_attach(dev);
    dev->paused = paused;
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
}

/* Regions keep their descriptors. They are not refused where the guest has taken all else, so they
 * are bounded on their own, and budget.c leaves room for them. */
static int add_region(struct v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd)
{
    if (dev->mem.count >= REGIONS_MIN && dev->mem.count >= v9_budget_share() / REGIONS_PART)
        return -EMFILE;
    return v9_mem_add(&dev->mem, gpa, size, uva, mmap_offset, fd);
}

int v9_device_mem_add(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd)
{
    int err;

    pthread_mutex_lock(&dev->lock); /* nothing moves: requests in flight go on */
    err = add_region(dev, gpa, size, uva, mmap_offset, fd);
    if (!err && !v9_vring_is_live(&dev->ring))
        v9_device_attach(dev);
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
    return err;
}

int v9_device_mem_remove(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva)
{
    bool paused = begin_memory_change(dev);
    int err = v9_mem_remove(&dev->mem, gpa, size, uva);
    end_memory_change(dev, paused);
    return err;
}

int v9_device_mem_set(v9_device *dev, const struct v9_region_conf *regions, uint32_t count)
{
    bool paused = begin_memory_change(dev);
    int err = 0;

    v9_mem_clear(&dev->mem);
    for (uint32_t i = 0; i < count && !err; i++)
        err = add_region(dev, regions[i].gpa, regions[i].size, regions[i].uva,
                         regions[i].mmap_offset, regions[i].fd);
    if (err)
        v9_mem_clear(&dev->mem);
    end_memory_change(dev, paused);
    return err;
}

/* ---- ring --------------------------------------------------------------------------------------
 */

/*
 * Set-up is for a stopped ring: the caller stops it first (v9_ring_pause, v9_ring_drain). A message
 * is checked alone here, and all of them together when the ring starts.
 */
static int take_setup(struct v9_device *dev, const struct v9_vring_setup *setup)
{
    const int err = dev->started ? -EBUSY : 0;

    if (!err)
        dev->setup = *setup;
    pthread_mutex_unlock(&dev->lock);
    return err;
}

/* Takes the lock, which take_setup gives up. */
static struct v9_vring_setup begin_setup(struct v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    return dev->setup;
}

int v9_device_set_features(v9_device *dev, uint64_t features)
{
    struct v9_vring_setup setup = begin_setup(dev);
    const bool packed = features >> V9_FEATURE_PACKED & 1;

    if (setup.packed != packed)
        setup.base = 0; /* the one layout's means nothing in the other */
    setup.packed = packed;
    setup.indirect = features >> V9_FEATURE_INDIRECT & 1;
    setup.event_idx = features >> V9_FEATURE_EVENT_IDX & 1;
    return take_setup(dev, &setup);
}

int v9_ring_set_num(v9_device *dev, uint32_t num)
{
    struct v9_vring_setup setup = begin_setup(dev);
    const bool valid = num && num <= V9_VRING_MAX && (setup.packed || !(num & (num - 1)));

    if (valid)
        setup.num = num;
    return take_setup(dev, &setup) ? -EBUSY : valid ? 0 : -EINVAL;
}

int v9_ring_set_base(v9_device *dev, uint32_t base)
{
    struct v9_vring_setup setup = begin_setup(dev);
    const bool valid = setup.packed || base <= UINT16_MAX;

    if (valid)
        setup.base = base;
    return take_setup(dev, &setup) ? -EBUSY : valid ? 0 : -EINVAL;
}

int v9_ring_set_addr(v9_device *dev, uint64_t desc, uint64_t used, uint64_t avail)
{
    struct v9_vring_setup setup = begin_setup(dev);

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

/* Starts the ring unless it runs. NULL, or why it cannot. */
static const char *start_ring(struct v9_device *dev)
{
    const char *reason = NULL;

    if (!dev->started) {
        v9_mem_restore(&dev->mem);
        reason = v9_vring_start(&dev->ring, &dev->setup, &dev->mem);
    }
    if (!reason)
        dev->started = dev->ring.must_signal = true;
    return reason;
}

/* Takes the new kick descriptor, -1 for none, in place of the old one. */
static void take_kick(struct v9_device *dev, int fd)
{
    if (dev->kick_fd >= 0)
        epoll_ctl(dev->epoll_fd, EPOLL_CTL_DEL, dev->kick_fd, NULL);
    set_fd(&dev->kick_fd, fd);
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
    v9_threads_nudge(dev);
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
    v9_notifier_set(&dev->notify.call, call);
    /* What was completed while there was no call descriptor is signalled now. */
    dev->ring.must_signal = true;
    dev->unsignalled += dev->unheard;
    v9_device_signal(dev);
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
    return 0;
}

int v9_ring_set_err(v9_device *dev, int32_t fd)
{
    struct v9_notifier *notifier;
    int err = v9_notifier_new(fd, &notifier);

    if (err)
        return err;
    pthread_mutex_lock(&dev->lock);
    v9_notifier_set(&dev->notify.err, notifier);
    pthread_mutex_unlock(&dev->lock);
    return 0;
}

int v9_ring_enable(v9_device *dev, uint32_t enable)
{
    pthread_mutex_lock(&dev->lock);
    dev->enabled = enable != 0;
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev); /* a kick before this was not lost: the ring is looked at again */
    return 0;
}

/* ---- fids, for Python --------------------------------------------------------------------------
 */

static struct v9_fid *fid_of(struct v9_device *dev, uint64_t handle)
{
    return &dev->fids.entries[(uint32_t)handle];
}

int v9_fid_get(v9_device *dev, uint32_t number, struct v9_fid_info *out)
{
    struct v9_node *node;
    struct v9_fid *fid;
    int32_t meta_fd;
    int err = v9_fids_pin(&dev->fids, number, &fid);

    if (err)
        return err;
    node = v9_fids_node(&dev->fids, fid);
    meta_fd = node ? v9_node_meta(v9_node_export(dev, node), node) : -1;
    pthread_mutex_lock(&dev->fids.lock);
    *out = (struct v9_fid_info){
        .handle = v9_fids_handle(&dev->fids, fid),
        .path_fd = -1,
        .meta_fd = meta_fd,
        .io_fd = fid->io_fd,
        .io_flags = fid->io_flags,
        .uid = fid->uid,
        .flags = fid->flags,
    };
    if (node) {
        out->path_fd = node->path_fd;
        out->export = node->export;
        out->st_dev = node->st_dev;
        out->st_ino = node->st_ino;
    }
    pthread_mutex_unlock(&dev->fids.lock);
    return 0;
}

void v9_fid_put(v9_device *dev, uint64_t handle)
{
    v9_fids_unpin(&dev->fids, fid_of(dev, handle));
}

int v9_fid_find(v9_device *dev, uint32_t number, uint64_t *handle)
{
    return v9_fids_find(&dev->fids, number, handle);
}

int v9_fid_add(v9_device *dev, uint32_t number, int32_t path_fd, uint32_t export, uint32_t uid,
               uint32_t flags, const struct v9_attr *attr, uint64_t *handle)
{
    const struct v9_fid_new as = {number, uid, flags, -1, 0, handle};
    const struct v9_found file = {path_fd, -1, export, attr};
    return v9_fids_enter(&dev->fids, &as, path_fd < 0 ? NULL : &file, NULL);
}

int v9_fid_become(v9_device *dev, uint64_t handle, int32_t path_fd, int32_t io_fd, int32_t io_flags,
                  const struct v9_attr *attr)
{
    struct v9_fid *old = fid_of(dev, handle);
    const struct v9_fid_new as = {old->number, old->uid, 0, io_fd, io_flags, NULL};
    const struct v9_found file = {path_fd, -1, v9_fids_node(&dev->fids, old)->export, attr};

    return v9_fids_enter(&dev->fids, &as, &file, old);
}

int v9_fid_mark(v9_device *dev, uint64_t handle, uint32_t flags)
{
    return v9_fids_mark(&dev->fids, handle, flags);
}

int v9_fid_clunk(v9_device *dev, uint64_t handle)
{
    return v9_fids_end(&dev->fids, handle);
}

int v9_fid_clear(v9_device *dev)
{
    return v9_fids_clear(&dev->fids);
}
