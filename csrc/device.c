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
#include "told.h"

enum { QUIESCE_MS = 2000 }; /* the frontend waits in its main loop: the VM stands still meanwhile */

int v9_init(void)
{
    v9_pressure_init();
    return v9_mem_init();
}

/* ---- life --------------------------------------------------------------------------------------
 */

v9_device *v9_device_new(v9_hub *hub, const struct v9_device_conf *conf, int32_t *err)
{
    struct v9_device *dev = calloc(1, sizeof(*dev));

    *err = -ENOMEM;
    if (!dev)
        return NULL;
    dev->conf = *conf;
    dev->hub = hub;
    dev->msize = conf->msize_max;
    dev->kick_fd = dev->call_fd = dev->err_fd = -1;
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

static void set_fd(int *where, int fd)
{
    if (*where >= 0)
        close(*where);
    *where = fd;
}

void v9_device_free(v9_device *dev)
{
    v9_ring_pause(dev);
    if (!v9_threads_stop(dev)) {
        v9_pressure_leave(&dev->fids.holder, false);
        v9_hub_forget(dev->hub, &dev->line);
        return; /* threads hang in system calls and will look at it: left to the process's end */
    }
    v9_hub_forget(dev->hub, &dev->line);
    v9_mem_clear(&dev->mem);
    v9_mem_bury(&dev->graveyard);
    v9_fids_destroy(&dev->fids);
    set_fd(&dev->kick_fd, -1);
    set_fd(&dev->call_fd, -1);
    set_fd(&dev->err_fd, -1);
    munmap(dev->slots, V9_SLOTS * sizeof(*dev->slots));
    pthread_cond_destroy(&dev->idle);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
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

void v9_device_set_features(v9_device *dev, uint64_t features)
{
    pthread_mutex_lock(&dev->lock);
    dev->ring.indirect = features >> V9_FEATURE_INDIRECT & 1;
    dev->ring.event_idx = features >> V9_FEATURE_EVENT_IDX & 1;
    if (dev->ring.packed != (bool)(features >> V9_FEATURE_PACKED & 1))
        v9_vring_set_packed(&dev->ring, !dev->ring.packed);
    pthread_mutex_unlock(&dev->lock);
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
    dev->fids.nodes.unshared = dialect == V9_9P2000U;
    pthread_mutex_unlock(&dev->fids.lock);
}

void v9_device_stats(v9_device *dev, struct v9_device_stats *out)
{
    pthread_mutex_lock(&dev->lock);
    *out = (struct v9_device_stats){
        .fids = dev->fids.count,
        .inflight = dev->inflight,
        .requests = dev->requests,
        .upcalls = dev->upcalls,
        .signals = dev->signals,
        .threads = dev->thread_count,
        .broken = dev->ring.broken != NULL,
    };
    pthread_mutex_unlock(&dev->lock);
    pthread_mutex_lock(&dev->fids.lock);
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
    dev->started = false;
    base = v9_vring_base(&dev->ring);
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
    set_fd(&dev->call_fd, -1);
    set_fd(&dev->err_fd, -1);
    dev->enabled = dev->poll_ring = false;
    dev->ring = (struct v9_vring){0};
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

int v9_device_mem_add(v9_device *dev, uint64_t gpa, uint64_t size, uint64_t uva,
                      uint64_t mmap_offset, int32_t fd)
{
    int err;

    pthread_mutex_lock(&dev->lock); /* nothing moves: requests in flight go on */
    err = v9_mem_add(&dev->mem, gpa, size, uva, mmap_offset, fd);
    if (!err && !dev->ring.desc)
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
        err = v9_mem_add(&dev->mem, regions[i].gpa, regions[i].size, regions[i].uva,
                         regions[i].mmap_offset, regions[i].fd);
    if (err)
        v9_mem_clear(&dev->mem);
    end_memory_change(dev, paused);
    return err;
}

/* ---- ring --------------------------------------------------------------------------------------
 */

int v9_ring_set_num(v9_device *dev, uint32_t num)
{
    int err = -EINVAL;

    pthread_mutex_lock(&dev->lock);
    if (num && num <= V9_VRING_MAX && (dev->ring.packed || !(num & (num - 1)))) {
        dev->ring.num = num;
        err = 0;
    }
    pthread_mutex_unlock(&dev->lock);
    return err;
}

int v9_ring_set_base(v9_device *dev, uint32_t base)
{
    int err;

    pthread_mutex_lock(&dev->lock);
    err = v9_vring_set_base(&dev->ring, base);
    pthread_mutex_unlock(&dev->lock);
    return err;
}

int v9_ring_set_addr(v9_device *dev, uint64_t desc, uint64_t used, uint64_t avail)
{
    int err;

    pthread_mutex_lock(&dev->lock);
    v9_vring_unmap(&dev->ring);
    dev->ring.desc_uva = desc;
    dev->ring.used_uva = used;
    dev->ring.avail_uva = avail;
    dev->ring.broken = NULL;
    v9_mem_restore(&dev->mem);
    err = v9_vring_map(&dev->ring, &dev->mem);
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
    return err;
}

static int duplicate(int fd)
{
    int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return fd >= 0 && copy < 0 ? -errno : copy;
}

int v9_ring_set_kick(v9_device *dev, int32_t fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int copy = fd < 0 ? -1 : duplicate(fd), err = 0;

    if (fd >= 0 && copy < 0)
        return copy;
    pthread_mutex_lock(&dev->lock);
    if (copy >= 0 && epoll_ctl(dev->epoll_fd, EPOLL_CTL_ADD, copy, &event) < 0) {
        err = -errno;
        close(copy);
    } else {
        if (dev->kick_fd >= 0)
            epoll_ctl(dev->epoll_fd, EPOLL_CTL_DEL, dev->kick_fd, NULL);
        set_fd(&dev->kick_fd, copy);
        dev->poll_ring = copy < 0;
        dev->started = true;
        dev->paused = false;
        dev->ring.must_signal = true;
    }
    pthread_mutex_unlock(&dev->lock);
    v9_threads_nudge(dev);
    return err;
}

/* A full pipe or eventfd must not stop the thread that signals. */
static int set_signal_fd(struct v9_device *dev, int *where, int fd)
{
    int copy = fd < 0 ? -1 : duplicate(fd);

    if (fd >= 0 && copy < 0)
        return copy;
    if (copy >= 0)
        fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK);
    pthread_mutex_lock(&dev->lock);
    set_fd(where, copy);
    pthread_mutex_unlock(&dev->lock);
    return 0;
}

int v9_ring_set_call(v9_device *dev, int32_t fd)
{
    int err = set_signal_fd(dev, &dev->call_fd, fd);

    /* What was completed while there was no call descriptor is signalled now. */
    pthread_mutex_lock(&dev->lock);
    dev->ring.must_signal = true;
    dev->unsignalled += dev->unheard;
    v9_device_signal(dev);
    pthread_mutex_unlock(&dev->lock);
    return err;
}

int v9_ring_set_err(v9_device *dev, int32_t fd)
{
    return set_signal_fd(dev, &dev->err_fd, fd);
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

static uint32_t handle_of(struct v9_device *dev, const struct v9_fid *fid)
{
    return (uint32_t)(fid - dev->fids.entries);
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
        .handle = handle_of(dev, fid),
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

void v9_fid_put(v9_device *dev, uint32_t handle)
{
    v9_fids_unpin(&dev->fids, &dev->fids.entries[handle]);
}

int v9_fid_add(v9_device *dev, uint32_t number, int32_t path_fd, uint32_t export, uint32_t uid,
               uint32_t flags, const struct v9_attr *attr)
{
    const struct v9_fid_new as = {number, uid, flags, -1, 0};
    const struct v9_found file = {path_fd, -1, export, attr};
    return v9_fids_enter(&dev->fids, &as, path_fd < 0 ? NULL : &file, NULL);
}

int v9_fid_become(v9_device *dev, uint32_t handle, int32_t path_fd, int32_t io_fd, int32_t io_flags,
                  const struct v9_attr *attr)
{
    struct v9_fid *old = &dev->fids.entries[handle];
    const struct v9_fid_new as = {old->number, old->uid, 0, io_fd, io_flags};
    const struct v9_found file = {path_fd, -1, v9_fids_node(&dev->fids, old)->export, attr};

    return v9_fids_enter(&dev->fids, &as, &file, old);
}

int v9_fid_set_flags(v9_device *dev, uint32_t handle, uint32_t flags)
{
    pthread_mutex_lock(&dev->fids.lock);
    dev->fids.entries[handle].flags = flags;
    pthread_mutex_unlock(&dev->fids.lock);
    return 0;
}

static struct v9_node *node_of(v9_device *dev, uint32_t handle)
{
    return v9_fids_node(&dev->fids, &dev->fids.entries[handle]);
}

void v9_fid_resizing(v9_device *dev, uint32_t handle)
{
    v9_told_changing(node_of(dev, handle));
}

void v9_fid_resized(v9_device *dev, uint32_t handle, int64_t size)
{
    if (size < 0)
        v9_told_changed_nothing(node_of(dev, handle));
    else
        v9_told_resized(node_of(dev, handle), (uint64_t)size);
}

int v9_fid_clunk(v9_device *dev, uint32_t number)
{
    return v9_fids_remove(&dev->fids, number);
}

void v9_fid_clear(v9_device *dev)
{
    v9_fids_clear(&dev->fids);
}
