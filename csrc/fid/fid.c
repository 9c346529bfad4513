#define _GNU_SOURCE
#include "fid/fid.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/wire.h"
#include "fid/cached.h"
#include "fid/evict.h"
#include "fid/known_size.h"

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
    WAY_BYTES = 512, /* room for each fid's name and way, if parked; most take much less */
    WALKS = 256,     /* inodes that walks stand on, beside those of fids */
};

/* What lies in the arena. It is sparse: pages that no fid has touched cost nothing. What lingers of
 * the inodes makes room, and the others have a fid each, or a walk. */
struct layout {
    size_t heads, entries, inodes, dirs, ways; /* their sizes in bytes */
};

static size_t lay_out(uint32_t max, struct layout *sizes)
{
    sizes->heads = round_up(buckets_for(max) * sizeof(uint32_t));
    sizes->entries = round_up((size_t)max * sizeof(struct v9_fid));
    sizes->inodes = round_up(((size_t)max + WALKS) * sizeof(struct v9_inode));
    sizes->dirs = round_up((size_t)max * sizeof(struct v9_fid_dir));
    sizes->ways = round_up((size_t)max * WAY_BYTES);
    return 3 * sizes->heads + sizes->entries + sizes->inodes + sizes->dirs + sizes->ways;
}

static void furnish(struct v9_fids *fids, const struct layout *sizes)
{
    const uint32_t buckets = fids->mask + 1;
    struct v9_inodes *inodes = &fids->inodes;
    struct v9_dentries *dentries = &fids->dentries;
    uint8_t *at = fids->map;
    uint32_t *files, *names;

    fids->buckets = (uint32_t *)at;
    files = (uint32_t *)(at += sizes->heads);
    names = (uint32_t *)(at += sizes->heads);
    fids->entries = (struct v9_fid *)(at += sizes->heads);
    inodes->entries = (struct v9_inode *)(at += sizes->entries);
    inodes->files = v9_hash_of(files, buckets, at + offsetof(struct v9_inode, link),
                               sizeof(struct v9_inode), 1);
    fids->dirs = (struct v9_fid_dir *)(at += sizes->inodes);
    at += sizes->dirs;
    v9_arena_init(&inodes->park.heap, at, sizes->ways);
    *dentries =
        (struct v9_dentries){.heap = &inodes->park.heap, .inodes = inodes, .key = fids->key};
    dentries->names =
        v9_hash_of(names, buckets, at + offsetof(struct v9_dentry, link), V9_ARENA_UNIT, 0);
}

int v9_fids_init(struct v9_fids *fids, uint32_t max, v9_export *const *exports)
{
    const int account = v9_budget_join();
    struct layout sizes;
    int err;

    if (account < 0)
        return account;
    memset(fids, 0, sizeof(*fids));
    fids->fd = -1;
    if (getrandom(&fids->key, sizeof(fids->key), 0) != sizeof(fids->key))
        goto fail;
    fids->key |= 1;
    fids->max = fids->unused = max;
    fids->inodes.max = max + WALKS;
    fids->mask = buckets_for(max) - 1;
    fids->map_size = lay_out(max, &sizes);
    fids->fd = memfd_create("vhost9p-fids", MFD_CLOEXEC);
    if (fids->fd < 0)
        goto fail;
    if (ftruncate(fids->fd, (off_t)fids->map_size) < 0)
        goto fail;
    fids->map = mmap(NULL, fids->map_size, PROT_READ | PROT_WRITE, MAP_SHARED, fids->fd, 0);
    if (fids->map == MAP_FAILED)
        goto fail;
    furnish(fids, &sizes);
    pthread_mutex_init(&fids->lock, NULL);
    pthread_cond_init(&fids->returned, NULL);
    fids->exports = exports;
    fids->holder.give_up = v9_evict_give_up;
    fids->holder.account = fids->inodes.account = (uint32_t)account;
    v9_shrinker_join(&fids->holder);
    return 0;
fail:
    err = -errno;
    v9_budget_close(fids->fd);
    v9_budget_leave((uint32_t)account);
    return err;
}

void v9_fids_destroy(struct v9_fids *fids)
{
    v9_shrinker_leave(&fids->holder, true);
    v9_fids_clear(fids);
    v9_budget_leave(fids->inodes.account);
    munmap(fids->map, fids->map_size);
    v9_budget_close(fids->fd);
    pthread_cond_destroy(&fids->returned);
    pthread_mutex_destroy(&fids->lock);
}

/* ---- where an entry is: all with the lock held -------------------------------------------------
 */

enum { HOME_AHEAD = 1024 }; /* how far beyond all others a number may be and be at home */

static uint32_t *bucket_of(const struct v9_fids *fids, uint32_t number)
{
    return &fids->buckets[(number * fids->key >> 32) & fids->mask];
}

/* Index + 1 of a stray's entry, or 0. */
static uint32_t find_stray(const struct v9_fids *fids, uint32_t number)
{
    uint32_t index = *bucket_of(fids, number);

    while (index && fids->entries[index - 1].number != number)
        index = fids->entries[index - 1].next;
    return index;
}

/* Index + 1 of a number's entry, or 0. */
static uint32_t find(struct v9_fids *fids, uint32_t number)
{
    if (number < fids->homes && fids->entries[number].entered &&
        fids->entries[number].number == number)
        return number + 1;
    return fids->strays ? find_stray(fids, number) : 0;
}

/* Lets an entry's number lead to it; nothing else has that number. */
static void publish(struct v9_fids *fids, struct v9_fid *fid)
{
    uint32_t *bucket = bucket_of(fids, fid->number);

    fid->entered = true;
    fids->count++;
    if (!fid->stray)
        return;
    fids->strays++;
    fid->before = 0;
    fid->next = *bucket;
    *bucket = (uint32_t)(fid - fids->entries) + 1;
    if (fid->next)
        fids->entries[fid->next - 1].before = *bucket;
}

static void withdraw(struct v9_fids *fids, struct v9_fid *fid)
{
    fid->entered = false;
    fids->count--;
    if (!fid->stray)
        return;
    fids->strays--;
    *(fid->before ? &fids->entries[fid->before - 1].next : bucket_of(fids, fid->number)) =
        fid->next;
    if (fid->next)
        fids->entries[fid->next - 1].before = fid->before;
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

int v9_fids_find(struct v9_fids *fids, uint32_t number, uint64_t *handle)
{
    uint32_t index;

    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    if (index)
        *handle = v9_fids_handle(fids, &fids->entries[index - 1]);
    pthread_mutex_unlock(&fids->lock);
    return index ? 0 : -EBADF;
}

/* The entered fid of a handle, or NULL, under the lock. */
static struct v9_fid *held_by(struct v9_fids *fids, uint64_t handle)
{
    struct v9_fid *fid = v9_fids_of(fids, handle);

    return fid->entered && fid->life == handle >> 32 ? fid : NULL;
}

/* Whether a fid may get these flags, or keep them where it has them already. */
static bool may_mark(const struct v9_fid *fid, uint32_t flags)
{
    const bool is_open = fid->io_fd != -1;

    return (flags | fid->flags) & V9_FID_UPCALL ? !is_open && !(fid->flags & ~flags) : is_open;
}

int v9_fids_mark(struct v9_fids *fids, uint64_t handle, uint32_t flags)
{
    struct v9_fid *fid;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    fid = held_by(fids, handle);
    if (fid && may_mark(fid, flags)) {
        __atomic_store_n(&fid->flags, fid->flags | flags, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

/* What is to be closed once the lock is released: v9_budget_close may take long. */
struct closing {
    struct v9_inode_fds inode, named; /* the fid's, and its dentry's */
    struct v9_inode_fds before;       /* what a name led to before */
    uint32_t dentry;                  /* one of which a reference is to be dropped */
    int32_t io_fd;
};

#define NOTHING ((struct closing){V9_INODE_FDS_NONE, V9_INODE_FDS_NONE, V9_INODE_FDS_NONE, 0, -1})

/* Without the lock. */
static void close_all(struct v9_fids *fids, const struct closing *closing)
{
    if (closing->io_fd >= 0)
        v9_budget_close(closing->io_fd);
    v9_inode_fds_close(&closing->inode);
    v9_inode_fds_close(&closing->named);
    v9_inode_fds_close(&closing->before);
    v9_fids_drop_dentry(fids, closing->dentry);
}

/* Drops a dentry's reference under the lock. Those above it most often have others. */
static void drop_dentry(struct v9_fids *fids, uint32_t dentry, struct closing *closing)
{
    const uint32_t above = v9_dentry_drop(&fids->dentries, dentry, &closing->named);

    if (above && v9_dentry_at(&fids->dentries, above)->refs > 1)
        v9_dentry_at(&fids->dentries, above)->refs--;
    else
        closing->dentry = above;
}

/* A fid, which always stands for a inode, has been opened. */
static void set_open(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_inode *inode = v9_fids_node(fids, fid);

    fid->io_recent = true;
    inode->opens++;
    if (S_ISDIR(inode->mode)) {
        struct v9_fid_dir *dir = v9_fids_dir(fids, fid);
        dir->offset = 0;
        pthread_mutex_init(&dir->lock, NULL);
    }
    v9_evict_opened(fids, fid);
}

static void set_closed(struct v9_fids *fids, const struct v9_fid *fid)
{
    struct v9_inode *inode = v9_fids_node(fids, fid);

    inode->opens--;
    if (S_ISDIR(inode->mode))
        pthread_mutex_destroy(&v9_fids_dir(fids, fid)->lock);
}

/* Drops one reference under the lock. */
static void drop(struct v9_fids *fids, struct v9_fid *fid, struct closing *closing)
{
    if (--fid->refs)
        return;
    closing->io_fd = fid->io_fd;
    if (fid->io_fd >= 0)
        v9_evict_closed(fids, fid);
    if (fid->io_fd != -1 && fid->inode)
        set_closed(fids, fid);
    if (fid->walked)
        v9_known_size_walked(v9_fids_node(fids, fid), -fid->walked);
    if (fid->dentry)
        drop_dentry(fids, fid->dentry, closing);
    if (fid->inode)
        v9_inodes_drop(&fids->inodes, fid->inode, &closing->inode);
    set_free(fids, fid);
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_inode *inode;
    bool last;

    pthread_mutex_lock(&fids->lock);
    inode = v9_fids_node(fids, fid);
    if (inode)
        inode->pins--;
    last = fid->refs == 1;
    fid->refs -= !last;
    pthread_mutex_unlock(&fids->lock);
    if (last)
        v9_fids_release(fids, fid);
}

void v9_fids_release(struct v9_fids *fids, struct v9_fid *fid)
{
    struct closing closing = NOTHING;

    pthread_mutex_lock(&fids->lock);
    drop(fids, fid, &closing);
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
}

static int pin(struct v9_fids *fids, uint32_t number, bool brings_back, struct v9_fid **fid)
{
    struct v9_inode *inode;
    uint32_t index;
    int err = 0;

    *fid = NULL;
    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    if (index) {
        *fid = &fids->entries[index - 1];
        (*fid)->refs++;
        (*fid)->io_recent = true;
        inode = v9_fids_node(fids, *fid);
        if (inode) {
            inode->pins++;
            inode->recent = true;
            if (brings_back && (inode->path_fd < 0 || (*fid)->io_fd == V9_IO_EVICTED))
                err = v9_evict_return(fids, *fid);
        }
    }
    pthread_mutex_unlock(&fids->lock);
    if (err)
        v9_fids_unpin(fids, *fid);
    return index ? err : -EBADF;
}

int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    return pin(fids, number, true, fid);
}

int v9_fids_pin_parked(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    return pin(fids, number, false, fid);
}

/* The session that this thread's request belongs to, of a table. */
static _Thread_local struct {
    const struct v9_fids *fids;
    uint64_t session;
} serving;

void v9_fids_begin(struct v9_fids *fids)
{
    serving.fids = fids;
    serving.session = __atomic_load_n(&fids->session, __ATOMIC_RELAXED);
}

/* Whether this thread's request has hung until its session ended. The lock is held. */
static bool is_straggler(const struct v9_fids *fids)
{
    return serving.fids == fids && serving.session != fids->session;
}

/* Whether a number may be given to a new entry: nobody has it, or `instead` still does and nothing
 * hangs on that; and the session has not ended under a request that hung. */
static bool is_vacant(struct v9_fids *fids, uint32_t number, const struct v9_fid *instead)
{
    const uint32_t index = find(fids, number);

    if (number == P9_NOFID || is_straggler(fids))
        return false;
    if (!instead)
        return !index;
    return index && &fids->entries[index - 1] == instead && instead->io_fd == -1 && !instead->flags;
}

/* A new fid gets the name by which it was reached, which leads to its inode. */
static void name(struct v9_fids *fids, struct v9_fid *fid, const struct v9_route *route,
                 struct closing *closing)
{
    fid->dentry = v9_dentry_follow(&fids->dentries, route);
    if (!fid->dentry)
        return;
    v9_fids_node(fids, fid)->refs++;
    v9_dentry_bind(&fids->dentries, fid->dentry, fid->inode, route->now, &closing->before);
}

/* Enters a fid under the lock; on success the entry holds a reference of `inode` (0: none). */
static int enter(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
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
        .life = fid->life + 1,
        .number = as->number,
        .refs = 1,
        .uid = as->uid,
        .flags = as->flags & ~(V9_FID_WALKED | V9_FID_MOVED),
        .inode = inode,
        .io_fd = as->io_fd,
        .io_flags = as->io_flags,
        .walked = (uint8_t)(as->flags / V9_FID_WALKED),
    };
    if (fid->walked)
        v9_known_size_walked(&fids->inodes.entries[inode - 1], fid->walked);
    if (fid->io_fd >= 0)
        set_open(fids, fid);
    if (as->route)
        name(fids, fid, as->route, closing);
    publish(fids, fid);
    if (as->handle)
        *as->handle = v9_fids_handle(fids, fid);
    if (instead)
        drop(fids, instead, closing);
    return 0;
}

int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead)
{
    struct closing closing = NOTHING;
    struct closing spare = NOTHING;
    v9_quota *quota = file ? fids->inodes.quotas[file->export] : NULL;
    uint32_t inode = 0, account = quota ? v9_quota_acquire(quota, file->path_fd) : 0;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, as->number, instead)) {
        err = fids->live < fids->max ? 0 : -EMFILE;
        if (!err && file) {
            inode = v9_inodes_hold(&fids->inodes, file, &account, &spare.inode);
            err = inode ? 0 : -EMFILE;
        }
        if (!err)
            err = enter(fids, as, inode, instead, &closing);
    }
    pthread_mutex_unlock(&fids->lock);
    if (account) /* not needed */
        v9_quota_release(quota, account);
    close_all(fids, &spare);
    close_all(fids, &closing);
    return err;
}

int v9_fids_become(struct v9_fids *fids, struct v9_fid *directory, const char *name,
                   const struct v9_created *made, uint32_t export, const struct v9_attr *attr)
{
    const struct v9_route route = {directory->dentry, -1, 0, (uint32_t)strlen(name), name, 0};
    const struct v9_fid_new as = {directory->number, directory->uid, 0,   made->io_fd,
                                  made->io_flags,    &route,         NULL};
    const struct v9_found file = {made->path_fd, made->meta_fd, export, attr};

    return v9_fids_enter(fids, &as, &file, directory);
}

uint32_t v9_fids_stand(struct v9_fids *fids, const struct v9_found *found)
{
    struct closing closing = NOTHING;
    uint32_t inode, no_account = 0; /* nothing within a quota lingers */

    pthread_mutex_lock(&fids->lock);
    inode = v9_inodes_hold(&fids->inodes, found, &no_account, &closing.inode);
    if (inode) {
        fids->inodes.entries[inode - 1].pins++;
        v9_inode_set_lasting(&fids->inodes, inode, v9_inodes_has_one_name(found->attr));
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
    return inode;
}

uint32_t v9_fids_meet(struct v9_fids *fids, uint32_t export, const struct v9_attr *attr)
{
    uint32_t inode;

    pthread_mutex_lock(&fids->lock);
    inode = v9_inodes_meet(&fids->inodes, export, attr);
    if (inode)
        fids->inodes.entries[inode - 1].pins++;
    pthread_mutex_unlock(&fids->lock);
    return inode;
}

void v9_fids_step_off(struct v9_fids *fids, uint32_t inode)
{
    struct closing closing = NOTHING;

    pthread_mutex_lock(&fids->lock);
    fids->inodes.entries[inode - 1].pins--;
    v9_inodes_drop(&fids->inodes, inode, &closing.inode);
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
}

int v9_fids_enter_here(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                       uint32_t version, struct v9_fid *instead)
{
    struct closing closing = NOTHING;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, as->number, instead))
        err = enter(fids, as, inode, instead, &closing);
    if (!err) {
        fids->inodes.entries[inode - 1].pins--;
        v9_inode_renew_version(&fids->inodes.entries[inode - 1], version);
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
    return err;
}

/* Enters a fid for a inode and its name under the lock. */
static int enter_again(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                       uint32_t dentry, struct v9_fid *instead, struct closing *closing)
{
    int err;

    if (!is_vacant(fids, as->number, instead))
        return -EBADF;
    fids->inodes.entries[inode - 1].refs++; /* before the old fid goes */
    if (dentry)
        v9_dentry_at(&fids->dentries, dentry)->refs++;
    err = enter(fids, as, inode, instead, closing);
    if (err) {
        fids->inodes.entries[inode - 1].refs--;
        if (dentry)
            v9_dentry_at(&fids->dentries, dentry)->refs--;
        return err;
    }
    fids->entries[find(fids, as->number) - 1].dentry = dentry;
    return 0;
}

int v9_fids_clone(struct v9_fids *fids, const struct v9_fid *fid, uint32_t number, bool named)
{
    const struct v9_fid_new as = {number, fid->uid, 0, -1, 0, NULL, NULL};
    struct closing closing = NOTHING;
    int err;

    pthread_mutex_lock(&fids->lock);
    err = enter_again(fids, &as, fid->inode, named ? fid->dentry : 0, NULL, &closing);
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_move(struct v9_fids *fids, struct v9_fid *fid)
{
    const uint32_t flags = fid->walked ? V9_FID_MOVED : 0;
    const struct v9_fid_new as = {fid->number, fid->uid, flags, -1, 0, NULL, NULL};
    struct closing closing = NOTHING;
    uint32_t inode;
    int err = 0;

    pthread_mutex_lock(&fids->lock);
    inode = v9_dentry_at(&fids->dentries, fid->dentry)->inode;
    if (!v9_dentry_is(&fids->dentries, fid->dentry, fid->inode)) {
        err = inode ? enter_again(fids, &as, inode, fid->dentry, fid, &closing) : -ENOENT;
        err = err ? err : 1;
    }
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
    return err;
}

int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags)
{
    int err = -EBADF;
    pthread_mutex_lock(&fids->lock);
    if (fid->io_fd == -1 && !(fid->flags & V9_FID_UPCALL)) {
        fid->io_flags = io_flags;
        set_open(fids, fid);
        __atomic_store_n(&fid->io_fd, io_fd, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

/* Takes the number away from an entered fid. The lock is held, and released. */
static void remove_entry(struct v9_fids *fids, struct v9_fid *fid)
{
    struct closing closing = NOTHING;

    withdraw(fids, fid);
    drop(fids, fid, &closing);
    pthread_mutex_unlock(&fids->lock);
    close_all(fids, &closing);
}

int v9_fids_remove(struct v9_fids *fids, uint32_t number)
{
    uint32_t index;
    int err;

    pthread_mutex_lock(&fids->lock);
    index = find(fids, number);
    err = !index ? -EBADF : fids->entries[index - 1].flags ? -EBUSY : 0;
    if (err)
        pthread_mutex_unlock(&fids->lock);
    else
        remove_entry(fids, &fids->entries[index - 1]);
    return err;
}

int v9_fids_end(struct v9_fids *fids, uint64_t handle)
{
    struct v9_fid *fid;

    pthread_mutex_lock(&fids->lock);
    fid = held_by(fids, handle);
    if (fid)
        remove_entry(fids, fid);
    else
        pthread_mutex_unlock(&fids->lock);
    return fid ? 0 : -EBADF;
}

/* Removes the entries of a range, unless another session has begun, whose entries they may be. */
static void remove_among(struct v9_fids *fids, uint32_t from, uint32_t to, uint64_t session)
{
    bool any = true;

    for (uint32_t index = from; any && index < to; index++) {
        pthread_mutex_lock(&fids->lock);
        any = fids->count > 0 && fids->session == session;
        if (any && fids->entries[index].entered)
            remove_entry(fids, &fids->entries[index]);
        else
            pthread_mutex_unlock(&fids->lock);
    }
}

/* An empty table begins anew: to clear it the next time takes as long as what was entered since,
 * not as what ever was. */
static void forget_numbers(struct v9_fids *fids)
{
    pthread_mutex_lock(&fids->lock);
    if (!fids->live) {
        for (uint32_t index = fids->free; index; index = fids->entries[index - 1].next)
            fids->entries[index - 1].listed = false;
        fids->homes = fids->free = 0;
        fids->unused = fids->max;
    }
    pthread_mutex_unlock(&fids->lock);
}

int v9_fids_clear(struct v9_fids *fids)
{
    uint32_t homes, unused;
    uint64_t session;
    bool current;

    pthread_mutex_lock(&fids->lock);
    current = !is_straggler(fids);
    if (current)
        __atomic_store_n(&fids->session, fids->session + 1, __ATOMIC_RELAXED);
    session = fids->session;
    homes = fids->homes;
    unused = fids->unused;
    pthread_mutex_unlock(&fids->lock);
    if (!current)
        return -ESTALE;
    if (serving.fids == fids)
        serving.session = session;
    remove_among(fids, 0, homes, session); /* what lies between was never used */
    remove_among(fids, unused, fids->max, session);
    forget_numbers(fids);
    while (v9_cached_end(fids, UINT32_MAX))
        ;
    return session == __atomic_load_n(&fids->session, __ATOMIC_RELAXED) ? 0 : -ESTALE;
}
