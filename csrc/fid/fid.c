#define _GNU_SOURCE
#include "fid/fid.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/commit.h"
#include "fid/known_size.h"
#include "fid/restore.h"
#include "fid/sweeper.h"

int v9_fids_init(struct v9_fids *fids, uint32_t max, void *map, v9_export *const *exports,
                 const struct v9_shrinker_ops *ops)
{
    int err;

    memset(fids, 0, sizeof(*fids));
    err = v9_fid_table_init(fids, max, map);
    return err ? err : v9_fids_serve(fids, exports, ops);
}

int v9_fids_serve(struct v9_fids *fids, v9_export *const *exports,
                  const struct v9_shrinker_ops *ops)
{
    const int account = v9_budget_join();

    if (account < 0)
        return account;
    pthread_mutex_init(&fids->lock, NULL);
    pthread_cond_init(&fids->restored, NULL);
    fids->exports = exports;
    memset(fids->inodes.quotas, 0, sizeof(fids->inodes.quotas));
    memset(fids->inodes.cached_mounts, 0, sizeof(fids->inodes.cached_mounts));
    fids->inodes.account = (uint32_t)account;
    fids->shrinker = (struct v9_shrinker){.ops = ops, .account = (uint32_t)account};
    v9_shrinker_join(&fids->shrinker);
    return 0;
}

void v9_fids_destroy(struct v9_fids *fids)
{
    v9_shrinker_leave(&fids->shrinker, true);
    v9_fids_clear(fids);
    v9_budget_leave(fids->inodes.account);
    v9_fid_table_unmap(fids);
    pthread_cond_destroy(&fids->restored);
    pthread_mutex_destroy(&fids->lock);
}

/* ---- pins and handles ------------------------------------------------------------------------ */

int v9_fids_find(struct v9_fids *fids, uint32_t number, uint64_t *handle)
{
    uint32_t index;

    pthread_mutex_lock(&fids->lock);
    index = v9_fid_table_find(fids, number);
    if (index)
        *handle = v9_fids_handle(fids, &fids->entries[index - 1]);
    pthread_mutex_unlock(&fids->lock);
    return index ? 0 : -EBADF;
}

struct v9_fid *v9_fids_entered(struct v9_fids *fids, uint64_t handle)
{
    struct v9_fid *fid = v9_fids_of(fids, handle);

    if ((uint32_t)handle >= fids->max)
        return NULL;
    return fid->entered && fid->life == handle >> 32 ? fid : NULL;
}

int v9_fids_mark(struct v9_fids *fids, uint64_t handle, uint32_t flags)
{
    struct v9_fid *fid;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    fid = v9_fids_entered(fids, handle);
    if (fid && fid->inode && v9_inode_is_lost(v9_inode_at(&fids->inodes, fid->inode))) {
        err = -ESTALE;
    } else if (fid && fid->io_fd != -1) {
        __atomic_store_n(&fid->flags, fid->flags | flags, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_set_value(struct v9_fids *fids, struct v9_fid *fid, struct v9_xattr_value *value)
{
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (fid->entered && fid->io_fd == -1 && !fid->flags)
        err = v9_xattr_values_add(&fids->values, value);
    if (!err) {
        fid->value = value;
        v9_fids_will_change(fids, fid);
        __atomic_store_n(&fid->flags, V9_FID_XATTR, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_begin_end(struct v9_fids *fids, uint64_t handle)
{
    struct v9_fid *fid;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    fid = v9_fids_entered(fids, handle);
    if (fid && !(fid->flags & V9_FID_ENDING)) {
        __atomic_store_n(&fid->flags, fid->flags | V9_FID_ENDING, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

/* Drops a dentry's reference under the lock. Those above it most often have others. */
static void drop_dentry(struct v9_fids *fids, uint32_t dentry, struct v9_deferred *deferred)
{
    const uint32_t above = v9_dentry_drop(&fids->dentries, dentry, deferred);

    if (above && v9_dentry_at(&fids->dentries, above)->refs > 1)
        v9_dentry_at(&fids->dentries, above)->refs--;
    else
        deferred->dentry = above;
}

/* Under the lock, but others look without it (v9_known_size_may_know). */
static void count_open(struct v9_inode *inode, int32_t more)
{
    __atomic_store_n(&inode->open_fids, inode->open_fids + (uint32_t)more, __ATOMIC_RELAXED);
}

void v9_fids_set_open(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_inode *inode = v9_fids_inode(fids, fid);

    fid->io_used_lately = true;
    count_open(inode, 1);
    if (S_ISDIR(inode->mode)) {
        struct v9_fid_dir *dir = v9_fids_dir(fids, fid);
        dir->offset = 0;
        pthread_mutex_init(&dir->lock, NULL);
    }
    v9_list_append(&fids->open_io, v9_fid_index(fids, fid));
}

static void set_closed(struct v9_fids *fids, const struct v9_fid *fid)
{
    struct v9_inode *inode = v9_fids_inode(fids, fid);

    count_open(inode, -1);
    if (S_ISDIR(inode->mode))
        pthread_mutex_destroy(&v9_fids_dir(fids, fid)->lock);
}

void v9_fids_drop(struct v9_fids *fids, struct v9_fid *fid, struct v9_deferred *deferred)
{
    if (--fid->refs)
        return;
    v9_deferred_close(deferred, fid->io_fd);
    if (fid->io_fd >= 0)
        v9_list_remove(&fids->open_io, v9_fid_index(fids, fid));
    if (fid->flags & V9_FID_XATTR) {
        v9_xattr_values_remove(&fids->values, fid->value);
        deferred->value = fid->value;
    }
    if (fid->io_fd != -1 && fid->inode)
        set_closed(fids, fid);
    if (fid->walked_fids)
        v9_known_size_walked(v9_fids_inode(fids, fid), -fid->walked_fids);
    if (fid->dentry)
        drop_dentry(fids, fid->dentry, deferred);
    if (fid->inode)
        v9_inodes_release(&fids->inodes, fid->inode, deferred);
    v9_fid_table_free(fids, fid);
}

void v9_fids_unpin(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_inode *inode;
    bool last;

    pthread_mutex_lock(&fids->lock);
    inode = v9_fids_inode(fids, fid);
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
    V9_DEFERRED(deferred);

    pthread_mutex_lock(&fids->lock);
    v9_fids_drop(fids, fid, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
}

/* This thread's request: the session of a table that it belongs to. */
static _Thread_local struct {
    const struct v9_fids *fids;
    uint64_t session;
    uint64_t *changes;
    uint32_t export; /* of the file that it has pinned last */
} serving;

/* Adds a pin to the fid that has a number; NULL: none has it. The lock is held. */
static struct v9_fid *add_pin(struct v9_fids *fids, uint32_t number)
{
    const uint32_t index = v9_fid_table_find(fids, number);
    struct v9_fid *fid = &fids->entries[index - 1];
    struct v9_inode *inode;

    if (!index)
        return NULL;
    fid->refs++;
    fid->io_used_lately = true;
    inode = v9_fids_inode(fids, fid);
    if (inode) {
        inode->pins++;
        inode->used_lately = true;
        serving.export = inode->export;
    }
    return fid;
}

/* Restores what a pinned fid's file lacks. The lock is held. */
static int restore(struct v9_fids *fids, struct v9_fid *fid)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);

    if (!inode || (inode->path_fd >= 0 && fid->io_fd != V9_IO_EVICTED))
        return 0;
    return v9_restore_fid(fids, fid);
}

int v9_fids_pin_settled(struct v9_fids *fids, uint32_t number, uint64_t now, struct v9_fid **fid,
                        uint64_t *settled)
{
    int err = -EBADF;

    *settled = 0;
    pthread_mutex_lock(&fids->lock);
    *fid = add_pin(fids, number);
    if (*fid)
        err = restore(fids, *fid);
    if (!err && (*fid)->dentry)
        *settled = v9_dentry_settled(&fids->dentries, (*fid)->dentry, (*fid)->inode, now);
    pthread_mutex_unlock(&fids->lock);
    if (err && *fid)
        v9_fids_unpin(fids, *fid);
    return err;
}

int v9_fids_pin(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    *fid = add_pin(fids, number);
    if (*fid)
        err = restore(fids, *fid);
    pthread_mutex_unlock(&fids->lock);
    if (err && *fid)
        v9_fids_unpin(fids, *fid);
    return err;
}

int v9_fids_pin_evicted(struct v9_fids *fids, uint32_t number, struct v9_fid **fid)
{
    pthread_mutex_lock(&fids->lock);
    *fid = add_pin(fids, number);
    pthread_mutex_unlock(&fids->lock);
    return *fid ? 0 : -EBADF;
}

static bool can_write(const struct v9_fid *fid)
{
    return fid->entered && fid->io_fd != -1 && !fid->flags &&
           (fid->io_flags & O_ACCMODE) != O_RDONLY && !(fid->io_flags & O_APPEND);
}

int v9_fids_pin_writer(struct v9_fids *fids, const struct v9_fid *like, uint32_t uid,
                       struct v9_fid **fid)
{
    int err = -EBADF;

    *fid = NULL;
    pthread_mutex_lock(&fids->lock);
    for (uint32_t index = 0; index < fids->max && !*fid; index++) {
        const struct v9_fid *other = &fids->entries[index];
        if (index == fids->homes && index < fids->unused)
            index = fids->unused - 1; /* none was handed out between them */
        else if (can_write(other) && other->inode == like->inode && other->uid != uid)
            *fid = add_pin(fids, other->number);
    }
    if (*fid)
        err = restore(fids, *fid);
    pthread_mutex_unlock(&fids->lock);
    if (err && *fid)
        v9_fids_unpin(fids, *fid);
    return err;
}

int v9_fids_open(struct v9_fids *fids, struct v9_fid *fid, int32_t io_fd, int32_t io_flags)
{
    int err = -EBADF;
    pthread_mutex_lock(&fids->lock);
    if (fid->io_fd == -1 && !(fid->flags & V9_FID_XATTR)) {
        fid->io_flags = io_flags;
        v9_fids_set_open(fids, fid);
        v9_fids_will_change(fids, fid);
        __atomic_store_n(&fid->io_fd, io_fd, __ATOMIC_RELEASE);
        err = 0;
    }
    pthread_mutex_unlock(&fids->lock);
    return err;
}

/* ---- sessions -------------------------------------------------------------------------------- */

void v9_fids_begin_request(struct v9_fids *fids, uint64_t *changes)
{
    serving.fids = fids;
    serving.session = __atomic_load_n(&fids->session, __ATOMIC_RELAXED);
    serving.changes = changes;
    serving.export = 0;
}

uint32_t v9_fids_pinned_export(void)
{
    return serving.export;
}

void v9_fids_will_change(const struct v9_fids *fids, const struct v9_fid *fid)
{
    if (serving.changes && serving.fids == fids)
        *serving.changes = v9_fids_handle(fids, fid);
    V9_COMMIT();
}

bool v9_fids_is_straggler(const struct v9_fids *fids)
{
    return serving.fids == fids && serving.session != fids->session;
}

/* ---- removing -------------------------------------------------------------------------------- */

/* Takes the number away from an entered fid. The lock is held, and released. */
static void remove_entry(struct v9_fids *fids, struct v9_fid *fid)
{
    V9_DEFERRED(deferred);

    v9_fids_will_change(fids, fid);
    v9_fid_table_withdraw(fids, fid);
    v9_fids_drop(fids, fid, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
}

/* Whether more has to be done when a fid is clunked: it has locks, or a value to be set. */
static bool is_unfinished(const struct v9_fid *fid)
{
    return fid->flags & V9_FID_XATTR ? fid->value->name != NULL : fid->flags != 0;
}

int v9_fids_remove(struct v9_fids *fids, uint32_t number)
{
    uint32_t index;
    int err;

    pthread_mutex_lock(&fids->lock);
    index = v9_fid_table_find(fids, number);
    err = !index ? -EBADF : is_unfinished(&fids->entries[index - 1]) ? -EBUSY : 0;
    if (err)
        pthread_mutex_unlock(&fids->lock);
    else
        remove_entry(fids, &fids->entries[index - 1]);
    return err;
}

int v9_fids_remove_handle(struct v9_fids *fids, uint64_t handle)
{
    struct v9_fid *fid;

    pthread_mutex_lock(&fids->lock);
    fid = v9_fids_entered(fids, handle);
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

bool v9_fids_drop_cached(struct v9_fids *fids, uint32_t ticks)
{
    struct v9_inodes *inodes = &fids->inodes;
    V9_DEFERRED(deferred);
    uint32_t first;
    bool drops;

    pthread_mutex_lock(&fids->lock);
    first = inodes->cached.first;
    drops = first && v9_sweeper_now() - v9_inode_at(inodes, first)->cached_since >= ticks;
    if (drops)
        v9_inode_uncache(inodes, first, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(&deferred);
    return drops;
}

int v9_fids_clear(struct v9_fids *fids)
{
    uint32_t homes, unused;
    uint64_t session;
    bool current;

    pthread_mutex_lock(&fids->lock);
    current = !v9_fids_is_straggler(fids);
    if (current) {
        __atomic_store_n(&fids->session, fids->session + 1, __ATOMIC_RELAXED);
        __atomic_store_n(&fids->renews, false, __ATOMIC_RELAXED);
    }
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
    pthread_mutex_lock(&fids->lock);
    if (!fids->live)
        v9_fid_table_forget(fids);
    pthread_mutex_unlock(&fids->lock);
    while (v9_fids_drop_cached(fids, 0))
        ;
    pthread_mutex_lock(&fids->lock);
    if (!fids->live)
        v9_fid_table_trim(fids);
    pthread_mutex_unlock(&fids->lock);
    return session == __atomic_load_n(&fids->session, __ATOMIC_RELAXED) ? 0 : -ESTALE;
}
