#define _GNU_SOURCE
#include "fid.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "idle.h"
#include "linger.h"
#include "told.h"
#include "wire.h"

static size_t round_up(size_t size)
{
    const size_t page = 4096;
    return (size + page - 1) / page * page;
}

static uint32_t buckets_for(uint32_t max)
{
    uint32_t buckets = 1024;

    while (buckets < max)
        buckets *= 2;
    return buckets;
}

enum {
    WAY_BYTES = 512, /* room for each fid's way, if parked; most take much less */
    WALKS = 256,     /* nodes that walks stand on, beside those of fids */
};

/* The arena is sparse: pages that no fid has touched cost nothing. What
 * lingers of the nodes makes room, and the others have a fid each, or a walk. */
int v9_fids_init(struct v9_fids *fids, uint32_t max, v9_export *const *exports)
{
    const uint32_t buckets = buckets_for(max);
    const size_t head = round_up(buckets * sizeof(uint32_t));
    const size_t fid_size = round_up((size_t)max * sizeof(struct v9_fid));
    const size_t node_size = round_up(((size_t)max + WALKS) * sizeof(struct v9_node));
    const size_t dir_size = round_up((size_t)max * sizeof(struct v9_fid_dir));
    const size_t way_size = round_up((size_t)max * WAY_BYTES);
    uint8_t *at;

    memset(fids, 0, sizeof(*fids));
    fids->max = fids->unused = max;
    fids->nodes.max = max + WALKS;
    fids->mask = fids->nodes.mask = buckets - 1;
    fids->map_size = 2 * head + fid_size + node_size + dir_size + way_size;
    fids->fd = memfd_create("vhost9p-fids", MFD_CLOEXEC);
    if (fids->fd < 0)
        return -errno;
    if (ftruncate(fids->fd, (off_t)fids->map_size) < 0)
        goto fail;
    fids->map = mmap(NULL, fids->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fids->fd, 0);
    if (fids->map == MAP_FAILED)
        goto fail;
    at = fids->map;
    fids->buckets = (uint32_t *)at;
    fids->nodes.buckets = (uint32_t *)(at += head);
    fids->entries = (struct v9_fid *)(at += head);
    fids->nodes.entries = (struct v9_node *)(at += fid_size);
    fids->dirs = (struct v9_fid_dir *)(at += node_size);
    v9_heap_init(&fids->nodes.park.heap, at + dir_size, way_size);
    pthread_mutex_init(&fids->lock, NULL);
    pthread_cond_init(&fids->returned, NULL);
    fids->exports = exports;
    fids->holder.give_up = v9_idle_give_up;
    fids->nodes.holder = &fids->holder;
    v9_pressure_join(&fids->holder);
    return 0;
fail:
    close(fids->fd);
    return -errno;
}

void v9_fids_destroy(struct v9_fids *fids)
{
    v9_pressure_leave(&fids->holder, true);
    v9_fids_clear(fids);
    munmap(fids->map, fids->map_size);
    close(fids->fd);
    pthread_cond_destroy(&fids->returned);
    pthread_mutex_destroy(&fids->lock);
}

/* ---- where an entry is: all with the lock held -------------------------------------------------
 */

enum { HOME_AHEAD = 1024 }; /* how far beyond all others a number may be and be at home */

/* The link in a stray's chain that leads to it; one that ends the chain if there is none. */
static uint32_t *find_link(struct v9_fids *fids, uint32_t number)
{
    uint32_t *link = &fids->buckets[number & fids->mask];
    while (*link && fids->entries[*link - 1].number != number)
        link = &fids->entries[*link - 1].next;
    return link;
}

/* Index + 1 of a number's entry, or 0. */
static uint32_t find(struct v9_fids *fids, uint32_t number)
{
    if (number < fids->homes && fids->entries[number].entered &&
        fids->entries[number].number == number)
        return number + 1;
    return fids->strays ? *find_link(fids, number) : 0;
}

/* Lets an entry's number lead to it; nothing else has that number. */
static void publish(struct v9_fids *fids, struct v9_fid *fid)
{
    uint32_t *bucket = &fids->buckets[fid->number & fids->mask];

    fid->entered = true;
    fids->count++;
    if (!fid->stray)
        return;
    fids->strays++;
    fid->next = *bucket;
    *bucket = (uint32_t)(fid - fids->entries) + 1;
}

static void withdraw(struct v9_fids *fids, struct v9_fid *fid)
{
    fid->entered = false;
    fids->count--;
    if (!fid->stray)
        return;
    fids->strays--;
    *find_link(fids, fid->number) = fid->next;
}

/*
 * A free entry for a number: its home if possible; NULL where all are in use. Homes are taken
 * without a look at the free list, which leaves them in it; strays come from the far end.
 */
static struct v9_fid *allocate(struct v9_fids *fids, uint32_t number)
{
    struct v9_fid *fid = NULL;

    if (fids->live == fids->max)
        return NULL;
    fids->live++;
    if (number < fids->max && number < fids->homes + HOME_AHEAD && !fids->entries[number].refs) {
        if (fids->homes <= number)
            fids->homes = number + 1;
        fids->entries[number].stray = false;
        return &fids->entries[number];
    }
    do {
        if (fids->free) {
            fid = &fids->entries[fids->free - 1];
            fids->free = fid->next;
            fid->listed = false;
        } else {
            fid = &fids->entries[--fids->unused];
        }
    } while (fid->refs);
    fid->stray = true;
    return fid;
}

/* Frees an entry whose last reference is gone. */
static void set_free(struct v9_fids *fids, struct v9_fid *fid)
{
    const uint32_t index = (uint32_t)(fid - fids->entries);

    fids->live--;
    if (index < fids->unused || fid->listed)
        return;
    fid->listed = true;
    fid->next = fids->free;
    fids->free = index + 1;
}

/* ---- entries -----------------------------------------------------------------------------------
 */

int v9_fids_flags(struct v9_fids *fids, uint32_t number, uint32_t *flags)
{
    uint32_t index;

    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    if (index)
        *flags = fids->entries[index - 1].flags;
    pthread_mutex_unlock(&fids->lock);
    return index ? 0 : -EBADF;
}

/* What is to be closed once the lock is released: close(2) may take long. */
struct closing {
    struct v9_node_fds node;
    int32_t io_fd;
};

#define NOTHING ((struct closing){V9_NODE_FDS_NONE, -1})

static void close_all(const struct closing *closing)
{
    if (closing->io_fd >= 0)
        close(closing->io_fd);
    v9_node_fds_close(&closing->node);
}

/* A fid, which always stands for a node, has been opened. */
static void set_open(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_node *node = v9_fids_node(fids, fid);

    fid->io_recent = true;
    node->opens++;
    if (S_ISDIR(node->mode)) {
        struct v9_fid_dir *dir = v9_fids_dir(fids, fid);
        dir->read = dir->next = 0;
        pthread_mutex_init(&dir->lock, NULL);
    }
    v9_idle_opened(fids, fid);
}

static void set_closed(struct v9_fids *fids, const struct v9_fid *fid)
{
    struct v9_node *node = v9_fids_node(fids, fid);

    node->opens--;
    if (S_ISDIR(node->mode))
        pthread_mutex_destroy(&v9_fids_dir(fids, fid)->lock);
}

/* Drops one reference under the lock. */
static void drop(struct v9_fids *fids, struct v9_fid *fid, struct closing *closing)
{
    if (--fid->refs)
        return;
    closing->io_fd = fid->io_fd;
    if (fid->io_fd >= 0)
        v9_idle_closed(fids, fid);
    if (fid->io_fd != -1 && fid->node)
        set_closed(fids, fid);
    if (fid->walked)
        v9_told_walked(v9_fids_node(fids, fid), -1);
    if (fid->node)
        v9_nodes_drop(&fids->nodes, fid->node, &closing->node);
    set_free(fids, fid);
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    struct closing closing = NOTHING;
    struct v9_node *node;

    pthread_mutex_lock(&fids->lock);
    node = v9_fids_node(fids, fid);
    if (node)
        node->pins--;
    drop(fids, fid, &closing);
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
}

void v9_fids_release(struct v9_fids *fids, struct v9_fid *fid)
{
    struct closing closing = NOTHING;

    pthread_mutex_lock(&fids->lock);
    drop(fids, fid, &closing);
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
}

int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    struct v9_node *node;
    uint32_t index;
    int err = 0;

    *fid = NULL;
    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    if (index) {
        *fid = &fids->entries[index - 1];
        (*fid)->refs++;
        (*fid)->io_recent = true;
        node = v9_fids_node(fids, *fid);
        if (node) {
            node->pins++;
            node->recent = true;
            if (node->path_fd < 0 || (*fid)->io_fd == V9_IO_PARKED)
                err = v9_idle_return(fids, *fid);
        }
    }
    pthread_mutex_unlock(&fids->lock);
    if (err)
        v9_fids_unpin(fids, *fid);
    v9_pressure_check();
    return index ? err : -EBADF;
}

/* Whether a number may be given to a new entry: nobody has it, or `instead` still does. */
static bool is_vacant(struct v9_fids *fids, uint32_t number, const struct v9_fid *instead)
{
    const uint32_t index = find(fids, number);

    if (number == P9_NOFID)
        return false;
    return instead ? index && &fids->entries[index - 1] == instead : !index;
}

/* Enters a fid under the lock; on success the entry holds a reference of `node` (0: none). */
static int enter(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t node,
                 struct v9_fid *instead, struct closing *closing)
{
    struct v9_fid *fid = allocate(fids, as->number);

    if (!fid)
        return -EMFILE;
    if (instead)
        withdraw(fids, instead);
    *fid = (struct v9_fid){
        .next = fid->next,
        .listed = fid->listed,
        .stray = fid->stray,
        .number = as->number,
        .refs = 1,
        .uid = as->uid,
        .flags = as->flags & ~V9_FID_WALKED,
        .node = node,
        .io_fd = as->io_fd,
        .io_flags = as->io_flags,
        .walked = (as->flags & V9_FID_WALKED) != 0,
    };
    if (fid->walked)
        v9_told_walked(&fids->nodes.entries[node - 1], 1);
    if (fid->io_fd >= 0)
        set_open(fids, fid);
    publish(fids, fid);
    if (instead)
        drop(fids, instead, closing);
    return 0;
}

int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead)
{
    struct closing closing = NOTHING;
    struct closing spare = NOTHING;
    v9_quota *quota = file ? fids->nodes.quotas[file->export] : NULL;
    uint32_t node = 0, account = quota ? v9_quota_meet(quota, file->path_fd) : 0;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, as->number, instead)) {
        err = fids->live < fids->max ? 0 : -EMFILE;
        if (!err && file) {
            node = v9_nodes_hold(&fids->nodes, file, &account, &spare.node);
            err = node ? 0 : -EMFILE;
        }
        if (!err)
            err = enter(fids, as, node, instead, &closing);
    }
    pthread_mutex_unlock(&fids->lock);
    if (account) /* not needed */
        v9_quota_release(quota, account);
    close_all(&spare);
    close_all(&closing);
    v9_pressure_check();
    return err;
}

uint32_t v9_fids_stand(struct v9_fids *fids, const struct v9_found *found)
{
    struct closing closing = NOTHING;
    uint32_t node, no_account = 0; /* nothing within a quota lingers */

    pthread_mutex_lock(&fids->lock);
    node = v9_nodes_hold(&fids->nodes, found, &no_account, &closing.node);
    if (node) {
        fids->nodes.entries[node - 1].pins++;
        v9_node_set_lasting(&fids->nodes, node, v9_nodes_has_one_name(found->attr));
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
    return node;
}

uint32_t v9_fids_meet(struct v9_fids *fids, uint32_t export, const struct v9_attr *attr)
{
    uint32_t node;

    pthread_mutex_lock(&fids->lock);
    node = v9_nodes_meet(&fids->nodes, export, attr);
    if (node)
        fids->nodes.entries[node - 1].pins++;
    pthread_mutex_unlock(&fids->lock);
    return node;
}

void v9_fids_step_off(struct v9_fids *fids, uint32_t node)
{
    struct closing closing = NOTHING;

    pthread_mutex_lock(&fids->lock);
    fids->nodes.entries[node - 1].pins--;
    v9_nodes_drop(&fids->nodes, node, &closing.node);
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
}

int v9_fids_enter_here(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t node,
                       uint32_t version, struct v9_fid *instead)
{
    struct closing closing = NOTHING;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, as->number, instead))
        err = enter(fids, as, node, instead, &closing);
    if (!err) {
        fids->nodes.entries[node - 1].pins--;
        fids->nodes.entries[node - 1].qid.version = version;
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
    v9_pressure_check();
    return err;
}

int v9_fids_clone(struct v9_fids *fids, const struct v9_fid *fid, uint32_t number)
{
    const struct v9_fid_new as = {number, fid->uid, 0, -1, 0};
    struct closing closing = NOTHING;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, number, NULL)) {
        err = enter(fids, &as, fid->node, NULL, &closing);
        if (!err)
            fids->nodes.entries[fid->node - 1].refs++;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags)
{
    int err = -EBADF;
    pthread_mutex_lock(&fids->lock);
    if (fid->io_fd < 0) {
        fid->io_flags = io_flags;
        set_open(fids, fid);
        __atomic_store_n(&fid->io_fd, io_fd, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    v9_pressure_check();
    return err;
}

int v9_fids_remove(struct v9_fids *fids, uint32_t number)
{
    struct closing closing = NOTHING;
    uint32_t index;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    if (index) {
        struct v9_fid *fid = &fids->entries[index - 1];
        withdraw(fids, fid);
        drop(fids, fid, &closing);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(&closing);
    return err;
}

static void remove_among(struct v9_fids *fids, uint32_t from, uint32_t to)
{
    for (uint32_t index = from; index < to && fids->count; index++)
        if (fids->entries[index].entered)
            v9_fids_remove(fids, fids->entries[index].number);
}

void v9_fids_clear(struct v9_fids *fids)
{
    remove_among(fids, 0, fids->homes); /* what lies between was never used */
    remove_among(fids, fids->unused, fids->max);
    while (v9_linger_end(fids, UINT32_MAX))
        ;
}
