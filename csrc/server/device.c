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
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "base/commit.h"
#include "base/host_stat.h"
#include "export/containment.h"
#include "fid/enter.h"
#include "fid/evict.h"
#include "fid/known_size.h"
#include "fid/recover.h"
#include "fid/sweeper.h"
#include "fs/xattr.h"
#include "p9/handler.h"
#include "request/notify.h"
#include "request/rate_queue.h"
#include "request/recover.h"
#include "request/reply.h"
#include "server/api.h"
#include "server/device.h"
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
    return v9_mapping_init();
}

/* ---- life ------------------------------------------------------------------------------------ */

/* A device, its slots and counts; its fid table's memory follows. Sparse: a slot takes no memory
 * before its first use. */
struct area {
    struct v9_device device;
    _Alignas(4096) struct v9_request slots[V9_SLOTS];
    _Alignas(4096) struct v9_counts counts;
};

/* Where the parts are; not believed after a death, like anything that can be told without. */
static void locate(struct v9_device *dev, uint32_t max_fids)
{
    struct area *area = (struct area *)dev;

    dev->slots = area->slots;
    dev->counts = &area->counts;
    dev->fids.map = area + 1;
    dev->fids.max = max_fids;
}

/* In zeros. */
static void begin_memory(struct v9_device *dev, uint32_t max_fids)
{
    locate(dev, max_fids);
    dev->kick_fd = dev->notify.call_fd = dev->notify.err_fd = -1;
}

uint64_t v9_device_size(uint32_t max_fids)
{
    return sizeof(struct area) + v9_fid_table_size(max_fids);
}

v9_device *v9_device_at(void *memory, uint32_t max_fids)
{
    v9_device_locate(memory, max_fids);
    return memory;
}

v9_device *v9_device_reserve(uint32_t max_fids)
{
    void *memory = mmap(NULL, v9_device_size(max_fids), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return memory == MAP_FAILED ? NULL : v9_device_at(memory, max_fids);
}

void v9_device_memory(uint32_t max_fids, uint32_t msize_max, struct v9_device_memory *out)
{
    *out = (struct v9_device_memory){
        .files = v9_fid_table_size(max_fids) - V9_XATTR_VALUES_ROOM,
        .values = V9_XATTR_VALUES_ROOM,
        .requests = sizeof(struct area),
        .thread = sizeof(struct v9_scratch) + msize_max + V9_XATTR_ROOM + XATTR_LIST_MAX,
        .slots = V9_SLOTS,
        .threads = V9_THREADS_MAX,
    };
}

bool v9_device_locate(v9_device *dev, uint32_t max_fids)
{
    if (dev->begun) {
        locate(dev, max_fids);
    } else { /* whatever a process has left that died before it served */
        memset(dev, 0, sizeof(*dev));
        begin_memory(dev, max_fids);
    }
    return dev->begun;
}

/* What each process begins with that serves the device. */
static void begin_process(struct v9_device *dev, const struct v9_device_conf *conf)
{
    dev->conf = *conf;
    dev->awaits_start = conf->awaits_start;
    dev->mem.limit = conf->mem_regions;
    dev->mem.limit_bytes = conf->mem_bytes;
    memset(dev->exports, 0, sizeof(dev->exports));
    dev->trace = NULL;
    pthread_mutex_init(&dev->lock, NULL);
    v9_cond_init(&dev->idle);
}

/* A device that nobody has served yet. */
static int begin(struct v9_device *dev, const struct v9_device_conf *conf)
{
    int err = v9_fids_init(&dev->fids, conf->max_fids, dev->fids.map, dev->exports, &v9_evict_ops);

    if (err)
        return err;
    dev->msize = conf->msize_max;
    V9_COMMIT();
    dev->begun = true;
    return 0;
}

static void unmap(struct v9_device *dev)
{
    v9_fids_destroy(&dev->fids);
    pthread_cond_destroy(&dev->idle);
    pthread_mutex_destroy(&dev->lock);
    munmap(dev, sizeof(struct area));
}

static void adopt(void *context, int32_t fd)
{
    const struct v9_device *dev = context;

    v9_budget_adopt(fd, dev->fids.inodes.account);
}

/* A device that was recovered. */
static int resume(struct v9_device *dev)
{
    const int err = v9_fids_resume(&dev->fids, dev->exports, &v9_evict_ops);

    if (dev->msize > dev->conf.msize_max)
        dev->msize = dev->conf.msize_max;
    if (!err)
        v9_requests_list_descriptors(dev, adopt, dev);
    return err;
}

int v9_device_start(v9_device *dev, const struct v9_device_conf *conf)
{
    int err;

    begin_process(dev, conf);
    err = dev->begun ? resume(dev) : begin(dev, conf);
    if (err)
        return err;
    dev->fids.values.max = conf->max_xattr;
    err = v9_workers_start(dev);
    if (err)
        v9_workers_stop(dev); /* no more: the state is the next process's */
    return err;
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
    v9_mem_retire(&dev->mem, &dev->retired);
    v9_mem_destroy(&dev->mem);
    unmap(dev);
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
    dev->fids.inodes.quotas[index] = ex->quota;
    v9_inodes_hold_accounts(&dev->fids.inodes, index); /* no request runs before the first export */
    pthread_mutex_lock(&dev->lock);
    ex->index = index;
    dev->exports[index] = ex;
    if (dev->fids.inodes.exports <= index)
        dev->fids.inodes.exports = index + 1;
    dev->fids.inodes.cached_mounts[index] = cached_mount;
    if (ex->rate_queues)
        v9_rate_queues_keep(ex->rate_queues, &dev->throttles[index]);
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

uint64_t v9_device_answered(const v9_device *dev)
{
    return __atomic_load_n(&dev->answered, __ATOMIC_RELAXED);
}

void v9_device_session(v9_device *dev, struct v9_device_session *out)
{
    pthread_mutex_lock(&dev->lock);
    *out = (struct v9_device_session){dev->msize, dev->dialect, dev->setup.num};
    pthread_mutex_unlock(&dev->lock);
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

/* ---- as others see it ------------------------------------------------------------------------ */

uint64_t v9_device_counts_at(uint32_t index)
{
    return offsetof(struct area, counts.exports) + index * sizeof(struct v9_export_counts);
}

uint32_t v9_device_view_size(void)
{
    return sizeof(struct v9_device);
}

void v9_device_view(const void *copy, struct v9_device_view *out)
{
    const struct v9_device *dev = copy; /* whose pointers lead nowhere */

    *out = (struct v9_device_view){
        .requests = dev->requests,
        .answered = dev->answered,
        .upcalls = dev->upcalls,
        .signals = dev->signals,
        .values_bytes = dev->fids.values.bytes,
        .fids = dev->fids.count,
        .inodes = dev->fids.inodes.count,
        .evicted = dev->fids.inodes.recipes.count,
        .values = dev->fids.values.count,
        .inflight = dev->inflight,
        .rate_limited = dev->rate_limited,
        .dead = dev->dead,
        .threads = dev->thread_count,
        .regions = dev->mem.count,
        .msize = dev->msize,
        .dialect = dev->dialect,
        .started = dev->started,
        .broken = dev->ring.broken != NULL,
        .ring_size = dev->setup.num,
    };
    for (uint32_t i = 0; i < out->regions && i < V9_MEM_REGIONS; i++)
        out->guest_memory += dev->mem.regions[i].size;
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
        V9_COMMIT(); /* the frontend may ask once more */
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
    dev->changing = false;
    v9_mem_restore(&dev->mem);
    dev->msize = dev->conf.msize_max;
    pthread_mutex_unlock(&dev->lock);
    v9_fids_clear(&dev->fids);
    v9_device_set_dialect(dev, V9_9P2000L);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Takes the lock when no thread uses guest memory any more. If the process dies before the end,
 * nothing begins in its successor until the frontend's message is handled again. */
static void begin_memory_change(struct v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    dev->changing = true;
    if (!wait_idle(dev, &dev->busy, QUIESCE_MS))
        v9_device_kill(dev, false);
    v9_device_detach(dev);
}

static void end_memory_change(struct v9_device *dev)
{
    v9_device_attach(dev);
    dev->changing = false;
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
    int err;

    begin_memory_change(dev);
    err = v9_mem_remove(&dev->mem, gpa, size, uva);
    end_memory_change(dev);
    return err;
}

uint32_t v9_device_mem_count(v9_device *dev)
{
    uint32_t count;

    pthread_mutex_lock(&dev->lock);
    count = dev->mem.count;
    pthread_mutex_unlock(&dev->lock);
    return count;
}

int v9_device_mem_set(v9_device *dev, const struct v9_region_conf *regions, uint32_t count)
{
    int err = 0;

    begin_memory_change(dev);
    v9_mem_clear(&dev->mem);
    for (uint32_t i = 0; i < count && !err; i++)
        err = add_region(dev, regions[i].gpa, regions[i].size, regions[i].uva,
                         regions[i].mmap_offset, regions[i].fd);
    if (err)
        v9_mem_clear(&dev->mem);
    end_memory_change(dev);
    return err;
}
