/*
 * recover: a device whose process died, before another one goes on with it.
 *
 * The device lies in memory that both processes have, at the same address, and so do the requests,
 * fids, names and files of its guest (fid/recover.h, request/recover.h). Here are the ring and
 * guest memory, which are mapped again, and the descriptors for kicks and notifications. Threads
 * and locks begin anew; exports are opened by whoever starts the device.
 *
 * A file may have been created and opened by a request that did not come so far as to say so. Its
 * descriptor is an *orphan*: it is in the table, and nobody owns it. It may be all that opens the
 * file, whose mode can deny that to everybody. So the request gets it back, before orphans are
 * closed. All devices of a VM have one table: what nobody owns is known once all are recovered.
 *
 * Whoever recovers the device blames the death before, and has suspects tried once the device is
 * started and before it begins (request/suspects.h). What ends process after process before they
 * serve is given up: the fids at first, then all of it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/proc.h"
#include "base/wire.h"
#include "fid/lost.h"
#include "fid/recover.h"
#include "request/notify.h"
#include "request/recover.h"
#include "request/suspects.h"
#include "server/api.h"
#include "server/device.h"

/* A trial holds up the whole process, and with it a frontend that waits for an answer. */
enum { TRIAL_NS = 1000000000, OVERDUE_MAX = 3 };

/* ---- who owns a descriptor ------------------------------------------------------------------- */

struct list {
    int32_t *fds;
    uint32_t count, room;
};

static void add(void *context, int32_t fd)
{
    struct list *list = context;

    if (fd < 0)
        return;
    if (list->count < list->room)
        list->fds[list->count] = fd;
    list->count++;
}

uint32_t v9_device_descriptors(const v9_device *dev, int32_t *fds, uint32_t room)
{
    struct list list = {fds, 0, room};

    for (uint32_t i = 0; i < dev->mem.count; i++)
        add(&list, dev->mem.regions[i].fd);
    add(&list, dev->kick_fd);
    add(&list, dev->notify.call_fd);
    add(&list, dev->notify.err_fd);
    v9_fids_list_descriptors(&dev->fids, add, &list);
    v9_requests_list_descriptors(dev, add, &list);
    return list.count;
}

static bool is_in(const struct list *list, int32_t fd)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (list->fds[i] == fd)
            return true;
    return false;
}

/* ---- orphans --------------------------------------------------------------------------------- */

/* What a request has created, where its process died: nobody had the name before. */
static bool find_created(const struct v9_request *r, struct stat *st)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE + 4, r->data + r->data_size, false};
    const int dir_fd = v9_evidence_making(&r->evidence);
    char name[V9_NAME_SIZE];
    const char *bytes;
    uint16_t size;

    if (r->done || dir_fd < 0 || (r->type != P9_TLCREATE && r->type != P9_TCREATE) ||
        r->created.path_fd >= 0 || r->evidence.made >= 0)
        return false;
    bytes = v9_in_string(&in, &size);
    if (in.bad || size >= sizeof(name))
        return false;
    memcpy(name, bytes, size);
    name[size] = 0;
    return fstatat(dir_fd, name, st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st->st_mode);
}

/* How a descriptor opens a file: O_RDONLY, O_WRONLY or O_RDWR; -1: it does not, or is another's. */
static int access_to(const struct stat *file, int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || flags & O_PATH || fstat(fd, &st) < 0 || st.st_dev != file->st_dev ||
        st.st_ino != file->st_ino)
        return -1;
    return flags & O_ACCMODE;
}

/* The descriptor of a file that allows most, among those that nobody owns; -1: there is none. */
static int find_orphan(const struct stat *file, const struct list *owned)
{
    char path[V9_PROC_PATH];
    const struct dirent *entry;
    int found = -1, most = -1;
    DIR *all;

    v9_proc_fds(path);
    all = opendir(path);
    while (all && (entry = readdir(all))) {
        const int32_t fd = atoi(entry->d_name);
        const int access = fd > 2 ? access_to(file, fd) : -1;
        if (access <= most || is_in(owned, fd))
            continue;
        most = access;
        found = fd;
    }
    if (all)
        closedir(all);
    return found;
}

/* Gives a request the orphan of the file that it has created, which is owned from then on. */
static void adopt_orphan(struct v9_request *r, struct list *owned)
{
    struct stat file;
    const int fd = find_created(r, &file) ? find_orphan(&file, owned) : -1;

    if (fd < 0)
        return;
    v9_evidence_adopt(&r->evidence, fd);
    add(owned, fd);
}

uint32_t v9_device_adopt_orphans(v9_device *dev, const int32_t *owned, uint32_t count)
{
    const uint32_t room = count + V9_SLOTS; /* one for each request */
    struct list list = {malloc(room * sizeof(*owned)), count, room};

    if (!list.fds)
        return 0; /* the files are opened again by their names */
    memcpy(list.fds, owned, count * sizeof(*owned));
    for (struct v9_request *r = dev->again; r; r = r->next)
        adopt_orphan(r, &list);
    free(list.fds);
    return list.count - count;
}

/* ---- all of it ------------------------------------------------------------------------------- */

/* Whether kicks can come by a descriptor. */
static bool is_kick(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

/* A process may have died while it hid files: they are of no export then. */
static void forget_hidden(struct v9_device *dev)
{
    bool served[V9_EXPORTS_MAX];

    memset(served, true, sizeof(served));
    v9_lost_forget_exports(&dev->fids, served);
}

int v9_device_recover(v9_device *dev, uint32_t max_fids)
{
    int err;

    if (!v9_device_locate(dev, max_fids))
        return 0;
    forget_hidden(dev);
    memset(dev->exports, 0, sizeof(dev->exports));
    dev->retired = NULL;
    dev->trace = NULL;
    err = v9_fids_recover(&dev->fids);
    if (err)
        return err;
    v9_requests_detach_dead(dev);
    v9_mem_recover(&dev->mem);
    v9_virtqueue_recover(&dev->ring, &dev->mem);
    v9_notify_recover(&dev->notify);
    dev->paused = !dev->started;
    dev->report_due = dev->broken_unreported = false;
    if (!is_kick(dev->kick_fd))
        dev->kick_fd = -1;
    if (dev->dialect > V9_9P2000U)
        dev->dialect = V9_9P2000L;
    v9_requests_recover(dev);
    return 1;
}

/* ---- descriptors that are lost -----------------------------------------------------------------
 */

enum { RING_FDS = 3 };

static uint32_t count_session(const v9_device *dev)
{
    return RING_FDS + (dev->mem.count < V9_MEM_REGIONS ? dev->mem.count : V9_MEM_REGIONS);
}

/* Where the number of a descriptor of the session is. */
static int32_t *session_fd(v9_device *dev, uint32_t index)
{
    int32_t *const of_ring[RING_FDS] = {&dev->kick_fd, &dev->notify.call_fd, &dev->notify.err_fd};

    return index < RING_FDS ? of_ring[index] : &dev->mem.regions[index - RING_FDS].fd;
}

uint32_t v9_device_session_descriptors(v9_device *dev, int32_t *fds, uint32_t room)
{
    const uint32_t count = count_session(dev);

    for (uint32_t i = 0; i < count && i < room; i++)
        fds[i] = *session_fd(dev, i);
    return count;
}

int v9_device_lose_descriptors(v9_device *dev, uint32_t max_fids, const int32_t *known,
                               const int32_t *instead, uint32_t count)
{
    if (!v9_device_locate(dev, max_fids))
        return 0;
    if (count != count_session(dev))
        return -ESTALE;
    for (uint32_t i = 0; i < count; i++)
        if (*session_fd(dev, i) != known[i] && *session_fd(dev, i) != instead[i])
            return -ESTALE;
    for (uint32_t i = 0; i < count; i++)
        *session_fd(dev, i) = instead[i];
    v9_lost_forget_descriptors(&dev->fids);
    v9_requests_lose_descriptors(dev);
    return 0;
}

void v9_device_hide(v9_device *dev, uint32_t max_fids, uint32_t index, const char *root,
                    const v9_hidden_paths *paths)
{
    if (v9_device_locate(dev, max_fids))
        v9_lost_forget_hidden(&dev->fids, index, root, paths);
}

int v9_device_keep_exports(v9_device *dev, uint32_t max_fids, const uint32_t *indexes,
                           uint32_t count)
{
    bool served[V9_EXPORTS_MAX] = {true};
    int err;

    if (!v9_device_locate(dev, max_fids))
        return 0;
    for (uint32_t i = 0; i < count; i++)
        if (indexes[i] < V9_EXPORTS_MAX)
            served[indexes[i]] = true;
    for (uint32_t i = 0; i < V9_EXPORTS_MAX; i++)
        if (!served[i])
            dev->throttles[i] = (struct v9_token_bucket){0};
    v9_requests_leave_exports(dev, served);
    if (!v9_lost_forget_exports(&dev->fids, served))
        return 0;
    err = v9_fids_recover(&dev->fids);
    return err ? err : 1;
}

uint32_t v9_device_lost_fids(v9_device *dev)
{
    return v9_lost_count(&dev->fids);
}

/* ---- who ended the process ------------------------------------------------------------------- */

uint32_t v9_device_running(v9_device *dev, uint32_t max_fids)
{
    return v9_device_locate(dev, max_fids) ? v9_suspects_running(dev) : 0;
}

uint32_t v9_device_is_trying(const v9_device *dev)
{
    return dev->begun && dev->on_trial;
}

void v9_device_blame(v9_device *dev, uint32_t max_fids, uint32_t blame)
{
    if (v9_device_locate(dev, max_fids))
        v9_suspects_blame(dev, blame);
}

void v9_device_try_suspects(v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    v9_suspects_try(dev, TRIAL_NS, OVERDUE_MAX);
    pthread_mutex_unlock(&dev->lock);
}

void v9_device_begin(v9_device *dev)
{
    pthread_mutex_lock(&dev->lock);
    dev->awaits_start = false;
    pthread_mutex_unlock(&dev->lock);
    v9_device_wake(dev);
}

/* ---- giving up ------------------------------------------------------------------------------- */

int v9_device_lose_fids(v9_device *dev, uint32_t max_fids)
{
    if (!v9_device_locate(dev, max_fids))
        return 0;
    memset(&dev->fids, 0, sizeof(dev->fids));
    v9_device_locate(dev, max_fids);
    if (madvise(dev->fids.map, v9_fid_table_size(max_fids), MADV_REMOVE) < 0)
        return -errno;
    v9_requests_fail(dev);
    return v9_fid_table_init(&dev->fids, max_fids, dev->fids.map);
}

void v9_device_lose_all(v9_device *dev, uint32_t max_fids)
{
    dev->begun = false;
    v9_device_locate(dev, max_fids);
    madvise(dev->fids.map, v9_fid_table_size(max_fids), MADV_REMOVE);
    madvise(dev->slots, V9_SLOTS * sizeof(*dev->slots), MADV_REMOVE);
}
