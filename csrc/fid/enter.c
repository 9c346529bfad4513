#define _GNU_SOURCE
#include "fid/enter.h"

#include <errno.h>
#include <string.h>

#include "base/commit.h"
#include "base/refusal.h"
#include "base/wire.h"
#include "fid/forget.h"
#include "fid/known_size.h"
#include "quota/quota.h"

/* Whether a number may be given to a new entry: nobody has it, or `instead` still does and nothing
 * hangs on that; and the session has not ended under a request that hung. */
static bool is_vacant(struct v9_fids *fids, uint32_t number, const struct v9_fid *instead)
{
    const uint32_t index = v9_fid_table_find(fids, number);

    if (number == P9_NOFID || v9_fids_is_straggler(fids))
        return false;
    if (!instead)
        return !index;
    return index && &fids->entries[index - 1] == instead && instead->io_fd == -1 && !instead->flags;
}

/* A new fid gets the name by which it was reached, which leads to its inode. */
static void name(struct v9_fids *fids, struct v9_fid *fid, const struct v9_route *route,
                 struct v9_deferred *deferred)
{
    fid->dentry = v9_dentry_follow(&fids->dentries, route);
    if (!fid->dentry)
        return;
    v9_fids_inode(fids, fid)->refs++;
    v9_dentry_bind(&fids->dentries, fid->dentry, fid->inode, route->now, deferred);
}

/* Lets a number lead to a fid, and no more to another: as one step, if the process dies in it. */
static void publish(struct v9_fids *fids, struct v9_fid *fid, struct v9_fid *instead)
{
    fids->old = instead ? v9_fid_index(fids, instead) : 0;
    V9_COMMIT();
    fids->young = v9_fid_index(fids, fid);
    V9_COMMIT();
    v9_fid_table_publish(fids, fid);
    V9_COMMIT();
    if (instead)
        v9_fid_table_withdraw(fids, instead);
    V9_COMMIT();
    fids->young = 0;
}

static int refuse_fid(const struct v9_fids *fids)
{
    return v9_refuse(EMFILE, V9_REFUSED_FIDS, fids->max);
}

/* Enters a fid under the lock; on success the entry holds a reference of `inode` (0: none), and of
 * `dentry`, its name where as->route does not lead to it (0: none). */
static int enter(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode, uint32_t dentry,
                 struct v9_fid *instead, struct v9_deferred *deferred)
{
    struct v9_fid *fid = v9_fid_table_allocate(fids, as->number);

    if (!fid)
        return refuse_fid(fids);
    *fid = (struct v9_fid){
        .link.next = fid->link.next, /* while it is listed */
        .listed = fid->listed,
        .stray = fid->stray,
        .life = fid->life + 1,
        .number = as->number,
        .refs = 1,
        .uid = as->uid,
        .flags = (as->flags & ~(V9_FID_WALKED | V9_FID_MOVED)) | (as->value ? V9_FID_XATTR : 0u),
        .value = as->value,
        .inode = inode,
        .dentry = dentry,
        .io_fd = as->io_fd,
        .io_flags = as->io_flags,
        .walked_fids = (uint8_t)(as->flags / V9_FID_WALKED),
    };
    if (fid->walked_fids)
        v9_known_size_walked(v9_inode_at(&fids->inodes, inode), fid->walked_fids);
    if (fid->io_fd >= 0)
        v9_fids_set_open(fids, fid);
    if (as->route)
        name(fids, fid, as->route, deferred);
    if (as->handle)
        *as->handle = v9_fids_handle(fids, fid);
    v9_fids_will_change(fids, fid);
    publish(fids, fid, instead);
    if (instead)
        v9_fids_drop(fids, instead, deferred);
    return 0;
}

/* An account of the quota for a file, by what was known of it if it cannot be looked at now. 0
 * without a quota, -EMFILE where there is no room. */
static int acquire_account(const struct v9_fids *fids, const struct v9_found *file)
{
    v9_quota *quota = fids->inodes.quotas[file->export];
    int held = quota ? v9_quota_acquire(quota, file->path_fd) : 0;

    if (held >= 0 || held == -EMFILE)
        return held;
    held = (int)v9_quota_hold(quota, file->attr->st_dev, file->attr->st_ino, !file->attr->nlink);
    return held ? held : -EMFILE;
}

static void release_account(const struct v9_fids *fids, const struct v9_found *file,
                            uint32_t account)
{
    if (account)
        v9_quota_release(fids->inodes.quotas[file->export], account);
}

/* Enters a fid for a file, whose account is `held` or could not be acquired: that takes over the
 * account. So many entries were `reserved` for it. */
static int enter_for(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                     struct v9_fid *instead, int held, uint32_t reserved)
{
    V9_DEFERRED(deferred);
    uint32_t inode = 0, account = held > 0 ? (uint32_t)held : 0;
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    fids->live -= reserved;
    if (is_vacant(fids, as->number, instead)) {
        err = fids->live < fids->max ? 0 : refuse_fid(fids);
        if (!err && file) {
            inode = v9_inodes_acquire(&fids->inodes, file, &account, &deferred);
            err = inode ? 0 : held < 0 ? held : -EMFILE;
        }
        if (!err && as->value)
            err = v9_xattr_values_add(&fids->values, as->value);
        if (!err)
            err = enter(fids, as, inode, 0, instead, &deferred);
    }
    pthread_mutex_unlock(&fids->lock);
    release_account(fids, file, account); /* not needed */
    v9_fids_finish(fids, &deferred);
    return err;
}

int v9_fids_enter(struct v9_fids *fids, const struct v9_fid_new *as, const struct v9_found *file,
                  struct v9_fid *instead)
{
    return enter_for(fids, as, file, instead, file ? acquire_account(fids, file) : 0, 0);
}

/* An entry that is reserved counts as live, and is none yet: after a death there is none. */
int v9_fids_reserve(struct v9_fids *fids, struct v9_fid *directory, const struct v9_created *made,
                    uint32_t export, const struct v9_attr *attr, struct v9_fid_room *room)
{
    const struct v9_found file = {made->path_fd, made->meta_fd, export, attr};
    const int held = acquire_account(fids, &file);
    int err = held < 0 ? held : 0;

    *room = (struct v9_fid_room){directory, file, held > 0 ? (uint32_t)held : 0};
    pthread_mutex_lock(&fids->lock);
    if (!is_vacant(fids, directory->number, directory))
        err = -EBADF;
    else if (!err && fids->live == fids->max)
        err = refuse_fid(fids);
    if (!err)
        fids->live++;
    pthread_mutex_unlock(&fids->lock);
    if (err)
        release_account(fids, &file, room->account);
    return err;
}

int v9_fids_become(struct v9_fids *fids, const struct v9_fid_room *room, const char *name,
                   const struct v9_created *made)
{
    const struct v9_fid *directory = room->directory;
    const struct v9_route route = {directory->dentry, -1, 0, (uint32_t)strlen(name), name, 0};
    const struct v9_fid_new as = {directory->number, directory->uid, 0,   made->io_fd,
                                  made->io_flags,    &route,         NULL};

    return enter_for(fids, &as, &room->file, room->directory, (int)room->account, 1);
}

void v9_fids_leave_room(struct v9_fids *fids, const struct v9_fid_room *room)
{
    pthread_mutex_lock(&fids->lock);
    fids->live--;
    pthread_mutex_unlock(&fids->lock);
    release_account(fids, &room->file, room->account);
}

uint32_t v9_fids_acquire_inode(struct v9_fids *fids, const struct v9_found *found)
{
    V9_DEFERRED(deferred);
    uint32_t inode, no_account = 0; /* nothing within a quota is cached */

    pthread_mutex_lock(&fids->lock);
    inode = v9_inodes_acquire(&fids->inodes, found, &no_account, &deferred);
    if (inode) {
        v9_inode_at(&fids->inodes, inode)->pins++;
        v9_inode_set_cacheable(&fids->inodes, inode, v9_inodes_has_one_name(found->attr));
    }
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
    return inode;
}

uint32_t v9_fids_lookup_inode(struct v9_fids *fids, uint32_t export, const struct v9_attr *attr)
{
    uint32_t inode;

    pthread_mutex_lock(&fids->lock);
    inode = v9_inodes_lookup(&fids->inodes, export, attr);
    if (inode)
        v9_inode_at(&fids->inodes, inode)->pins++;
    pthread_mutex_unlock(&fids->lock);
    return inode;
}

int v9_fids_enter_inode(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                        uint32_t version, struct v9_fid *instead)
{
    V9_DEFERRED(deferred);
    int err = -EBADF;

    pthread_mutex_lock(&fids->lock);
    if (is_vacant(fids, as->number, instead))
        err = enter(fids, as, inode, 0, instead, &deferred);
    if (!err) {
        v9_inode_at(&fids->inodes, inode)->pins--;
        v9_inode_renew_version(v9_inode_at(&fids->inodes, inode), version);
    }
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
    return err;
}

/* Enters a fid for an inode and a name that others refer to, under the lock. */
static int enter_again(struct v9_fids *fids, const struct v9_fid_new *as, uint32_t inode,
                       uint32_t dentry, struct v9_fid *instead, struct v9_deferred *deferred)
{
    if (!is_vacant(fids, as->number, instead))
        return -EBADF;
    if (fids->live == fids->max)
        return refuse_fid(fids);
    v9_inode_at(&fids->inodes, inode)->refs++; /* before the old fid goes */
    if (dentry)
        v9_dentry_at(&fids->dentries, dentry)->refs++;
    return enter(fids, as, inode, dentry, instead, deferred);
}

int v9_fids_clone(struct v9_fids *fids, const struct v9_fid *fid, uint32_t number, bool named)
{
    const struct v9_fid_new as = {.number = number, .uid = fid->uid, .io_fd = -1};
    V9_DEFERRED(deferred);
    int err;

    pthread_mutex_lock(&fids->lock);
    err = enter_again(fids, &as, fid->inode, named ? fid->dentry : 0, NULL, &deferred);
    pthread_mutex_unlock(&fids->lock);
    return err;
}

int v9_fids_move(struct v9_fids *fids, struct v9_fid *fid)
{
    const uint32_t flags = fid->walked_fids ? V9_FID_MOVED : 0;
    const struct v9_fid_new as = {
        .number = fid->number, .uid = fid->uid, .flags = flags, .io_fd = -1};
    V9_DEFERRED(deferred);
    uint32_t inode;
    int err = 0;

    pthread_mutex_lock(&fids->lock);
    inode = v9_dentry_at(&fids->dentries, fid->dentry)->inode;
    if (!v9_dentry_is(&fids->dentries, fid->dentry, fid->inode)) {
        err = inode ? enter_again(fids, &as, inode, fid->dentry, fid, &deferred) : -ENOENT;
        if (!err)
            v9_fids_moved(&fids->entries[v9_fid_table_find(fids, fid->number) - 1], fid);
        err = err ? err : 1;
    }
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
    return err;
}
