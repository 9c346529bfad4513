/*
 * device: a device's life cycle, its memory table and its draining. The ring's set-up is in
 * server/ring_setup.c.
 *
 * The ring runs while it is started (a kick descriptor was given), enabled, mapped and not broken.
 * The memory table may change meanwhile: the device pauses, waits for the requests whose threads
 * may be using guest memory, changes the table, and translates all addresses again.
 */
#define _GNU_SOURCE
#include "request/request.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/host_stat.h"
#include "export/containment.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/known_size.h"
#include "fid/sweeper.h"
#include "p9/handler.h"
#include "request/notify.h"
#include "request/reply.h"
#include "server/api.h"
#include "server/ring_setup.h"
#include "server/workers.h"

enum {
    QUIESCE_MS = 2000, /* the frontend waits in its main loop, so the VM makes no progress */
    NOTIFY_MS = 100,   /* for a serving thread to notify: at once, unless all of them hang */
    REGIONS_MIN = 8,   /* regions of guest memory that a device may always have, */
    REGIONS_PART = 8,  /* or its share of descriptors divided by this, if that is more */
};

int v9_init(void)
{
    v9_shrinker_init();
    v9_budget_init();
    return v9_mem_init();
}

/* ---- life ------------------------------------------------------------------------------------ */

v9_device *v9_device_new(const struct v9_device_conf *conf, int32_t *err)
{
    struct v9_device *dev = calloc(1, sizeof(*dev));

    *err = -ENOMEM;
    if (!dev)
        return NULL;
    dev->conf = *conf;
    dev->msize = conf->msize_max;
    dev->mem.limit = conf->mem_regions;
    dev->mem.limit_bytes = conf->mem_bytes;
    dev->kick_fd = -1;
    pthread_mutex_init(&dev->lock, NULL);
    v9_cond_init(&dev->idle);
    /* Sparse: a slot takes no memory before its first use. */
    dev->slots = mmap(NULL, V9_SLOTS * sizeof(*dev->slots), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (dev->slots == MAP_FAILED)
        goto fail;
    *err = v9_fids_init(&dev->fids, conf->max_fids, dev->exports, &v9_evict_ops);
    if (*err)
        goto fail_slots;
    dev->fids.values.max = conf->max_xattr;
    *err = v9_workers_start(dev);
    if (!*err)
        return dev;
    if (!v9_workers_stop(dev))
        return NULL; /* a thread that hangs still uses the memory */
    v9_fids_destroy(&dev->fids);
fail_slots:
    munmap(dev->slots, V9_SLOTS * sizeof(*dev->slots));
fail:
    free(dev);
    return NULL;
}

uint32_t v9_device_account(const v9_device *dev)
{
    return dev->fids.inodes.account;
}

int v9_device_free(v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    dev->paused = true;
    v9_ring_release(dev);
    pthread_mutex_unlock(&dev->lock);
    if (!v9_workers_stop(dev)) {
        v9_shrinker_leave(&dev->fids.shrinker, false);
        return 0; /* threads that hang still use the device */
    }
    v9_virtqueue_stop(&dev->ring);
    v9_mem_retire(&dev->retired);
    v9_mem_destroy(&dev->mem);
    v9_fids_destroy(&dev->fids);
    munmap(dev->slots, V9_SLOTS * sizeof(*dev->slots));
    pthread_cond_destroy(&dev->idle);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
    return 1;
}

/* The mount id of an export's root, whose inodes are cached; 0 if the host does not report it. */
static uint64_t own_mount(const v9_export *ex)
{
    struct v9_attr attr;

    return v9_host_stat(ex->conf.root_fd, "", &attr) ? 0 : attr.mnt_id;
}

int v9_device_set_export(v9_device *dev, uint32_t index, v9_export *ex)
{
    uint64_t cached_mount = 0;

    if (index >= V9_EXPORTS_MAX)
        return -ENOSPC;
    if (!ex->quota && ex->conf.model != V9_MODEL_FILE && v9_sweeper_start())
        cached_mount = own_mount(ex);
    pthread_mutex_lock(&dev->lock);
    ex->index = index;
    dev->exports[index] = ex;
    dev->fids.inodes.quotas[index] = ex->quota;
    dev->fids.inodes.cached_mounts[index] = cached_mount;
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev);
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
    /* Tremove and Twstat of 9P2000.u use the name by which the fid was reached. */
    pthread_mutex_lock(&dev->fids.lock);
    __atomic_store_n(&dev->fids.inodes.unshared, dialect == V9_9P2000U, __ATOMIC_RELAXED);
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
    out->inodes = dev->fids.inodes.count;
    out->evicted = dev->fids.inodes.recipes.count;
    pthread_mutex_unlock(&dev->fids.lock);
}

/* ---- draining -------------------------------------------------------------------------------- */

/* Waits until the count (requests in flight, or running ones) is 0; false on time-out. The device
 * is paused, so the count only falls. */
static bool wait_idle(struct v9_device *dev, const uint32_t *count, uint32_t timeout_ms)
{
    struct timespec until = v9_from_now((int64_t)timeout_ms * 1000000);

    while (*count)
        if (pthread_cond_timedwait(&dev->idle, &dev->lock, &until) == ETIMEDOUT)
            return *count == 0;
    return true;
}

/* Waits until the frontend is notified of all completions: after the ring has stopped, no
 * notification may follow. */
static void wait_notified(struct v9_device *dev)
{
    struct v9_notify *notify = &dev->notify;
    struct timespec until = v9_from_now((int64_t)NOTIFY_MS * 1000000);

    v9_device_wake(dev);
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
    v9_device_wake(dev);
    if (!wait_idle(dev, &dev->inflight, timeout_ms)) {
        v9_device_kill(dev, true);
        v9_device_attach(dev);
    }
    dev->hurry = false;
    v9_device_signal(dev);
    wait_notified(dev);
    if (dev->started) {
        v9_virtqueue_stop(&dev->ring);
        dev->setup.base = dev->ring.setup.base;
    }
    dev->started = false;
    base = dev->setup.base;
    pthread_mutex_unlock(&dev->lock);
    return base;
}

void v9_device_reset(v9_device *dev, uint32_t memory_stays)
{
    v9_ring_drain(dev, QUIESCE_MS);
    pthread_mutex_lock(&dev->lock);
    v9_ring_release(dev);
    dev->unsignalled = 0;
    dev->unheard = false;
    if (!memory_stays)
        v9_mem_clear(&dev->mem);
    v9_mem_restore(&dev->mem);
    dev->msize = dev->conf.msize_max;
    pthread_mutex_unlock(&dev->lock);
    v9_fids_clear(&dev->fids);
    v9_device_set_dialect(dev, V9_9P2000L);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Takes the lock when no thread uses guest memory any more; returns whether the device was
 * paused. */
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
    v9_device_wake(dev);
}

/* A region keeps a descriptor. The budget of the device never refuses it, so the number of regions
 * has its own limit, and base/budget.c leaves room for them. */
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

    pthread_mutex_lock(&dev->lock); /* no address changes: requests in flight continue */
    err = add_region(dev, gpa, size, uva, mmap_offset, fd);
    if (!err && !v9_virtqueue_is_live(&dev->ring))
        v9_device_attach(dev);
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev);
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
