#define _GNU_SOURCE
#include "fid/evict.h"

#include <errno.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "export/containment.h"
#include "fid/lost_writes.h"
#include "fid/restore.h"
#include "fid/sweeper.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* ---- inodes ---------------------------------------------------------------------------------- */

/* Marks an inode as one that is being evicted, and takes a reference, unless it is in use or
 * `spares` what was used lately. The lock is held. */
static bool claim_inode(struct v9_fids *fids, uint32_t index, bool spares)
{
    struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
    const bool is_spared = spares && inode->used_lately;

    if (inode->pins || inode->evicting)
        return false;
    inode->used_lately = false;
    if (is_spared)
        return false;
    inode->evicting = true;
    inode->refs++;
    return true;
}

static bool claim_unopened_inode(struct v9_fids *fids, uint32_t index, bool spares)
{
    return !v9_inode_at(&fids->inodes, index)->open_fids && claim_inode(fids, index, spares);
}

/* Adds a user to the mount's anchor, which is made if there is none. */
static int use_anchor(struct v9_fids *fids, v9_export *ex, const struct v9_identity *is, int32_t fd,
                      const struct v9_recipe *recipe, uint32_t host_mode, bool *by_handle)
{
    struct v9_recipe_store *store = &fids->inodes.recipes;
    struct v9_anchor *anchor;
    int32_t made = -1;

    pthread_mutex_lock(&fids->lock);
    anchor = v9_recipes_anchor(store, is->mnt_id);
    if (!anchor || anchor->fd < 0) {
        pthread_mutex_unlock(&fids->lock);
        made = v9_recipe_anchor(ex, fd, is, recipe, host_mode, by_handle);
        if (made < 0)
            return made;
        pthread_mutex_lock(&fids->lock);
        anchor = v9_recipes_anchor(store, is->mnt_id);
    }
    if (anchor && made >= 0)
        made = v9_recipes_equip_anchor(anchor, made, *by_handle);
    else if (!anchor && (anchor = v9_recipes_add_anchor(store, is->mnt_id, made, *by_handle)))
        made = -1;
    if (anchor) {
        anchor->users++;
        *by_handle = anchor->by_handle;
    }
    pthread_mutex_unlock(&fids->lock);
    if (made >= 0)
        v9_budget_close(made);
    return anchor ? 0 : -ENFILE;
}

/* Whether the path leads to the file, as it must where handles do not open it. */
static int try_path(v9_export *ex, const struct v9_identity *is, const struct v9_recipe *recipe)
{
    int fd = v9_recipe_open(ex, is, recipe, -1);

    if (fd >= 0)
        v9_budget_close(fd);
    return fd < 0 ? fd : 0;
}

/* Evicts a claimed inode; whether that was possible. */
static bool evict_inode(struct v9_fids *fids, uint32_t index)
{
    struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
    struct v9_recipe_store *store = &fids->inodes.recipes;
    const struct v9_identity is = v9_inode_identity(inode);
    v9_export *ex = fids->exports[inode->export];
    const uint32_t begun = v9_seqcount_read_begin(&ex->moves);
    const int32_t fd = inode->path_fd; /* it stays while the inode is marked */
    V9_DEFERRED(deferred);
    uint32_t host_mode, stored = 0;
    bool is_anchored, by_handle;
    struct v9_recipe recipe;
    int err = v9_recipe_make(ex, fd, &is, &recipe, &host_mode);

    if (!err)
        err = use_anchor(fids, ex, &is, fd, &recipe, host_mode, &by_handle);
    is_anchored = !err;
    if (!err && !by_handle)
        err = try_path(ex, &is, &recipe);
    pthread_mutex_lock(&fids->lock);
    inode->evicting = false;
    if (!err && !inode->pins && !inode->used_lately && !v9_seqcount_read_retry(&ex->moves, begun))
        stored = v9_recipes_put(store, &recipe);
    if (stored) {
        inode->btime_conclusive = recipe.btime_conclusive;
        v9_inode_evict(&fids->inodes, index, stored, &deferred);
    } else {
        inode->used_lately = true;
        if (is_anchored)
            v9_deferred_close(&deferred, v9_recipes_leave_anchor(store, is.mnt_id));
    }
    v9_inodes_release(&fids->inodes, index, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(&deferred);
    return stored;
}

/* ---- open files ------------------------------------------------------------------------------ */

/* Whether nobody uses an open fid but its number, and `others` that count as users. One without a
 * number is there for its pins alone. */
static bool is_idle(const struct v9_fid *fid, uint32_t others)
{
    return fid->entered && fid->refs == 1 + others && !fid->flags;
}

/* As claim_inode, of an open fid. */
static bool claim_io(struct v9_fids *fids, uint32_t index, bool spares)
{
    struct v9_fid *fid = &fids->entries[index - 1];
    const bool is_spared = spares && fid->io_used_lately;

    if (!is_idle(fid, 0))
        return false;
    fid->io_used_lately = false;
    fid->refs += !is_spared;
    return !is_spared;
}

/* tmpfs has stable directory positions since Linux 6.6. */
static bool is_at_least(int major, int minor)
{
    struct utsname host;
    int is_major = 0, is_minor = 0;

    return uname(&host) == 0 && sscanf(host.release, "%d.%d", &is_major, &is_minor) == 2 &&
           (is_major > major || (is_major == major && is_minor >= minor));
}

/* Whether a position in a directory means the same to a descriptor that is opened later, as NFS
 * needs it. Not so where each descriptor has a list or a cursor of its own (overlayfs, libfs). */
static bool positions_last(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case EXT4_SUPER_MAGIC: /* ext2 and ext3 as well */
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
        return true;
    case TMPFS_MAGIC:
        return is_at_least(6, 6);
    default:
        return false;
    }
}

/* Whether an open file can be reopened as it is. An ordinary user may lose the permission
 * meanwhile, and with it what the guest has still to write: not so for reading only. */
static bool can_reopen(v9_export *ex, const struct v9_fid *fid, bool was_read, bool *has_name)
{
    struct stat st;
    int fd;

    if (geteuid() && (fid->io_flags & O_ACCMODE) != O_RDONLY)
        return false;
    if (fstat(fid->io_fd, &st) < 0 || (was_read && !positions_last(fid->io_fd)))
        return false;
    *has_name = st.st_nlink > 0;
    fd = v9_export_open(ex, fid->io_fd, v9_fid_reopen_flags(ex, fid));
    if (fd >= 0)
        v9_budget_close(fd);
    return fd >= 0;
}

/* Whether nobody uses a claimed fid, and it is a directory that has been read. */
static bool look_at_claimed(struct v9_fids *fids, const struct v9_fid *fid, bool *was_read)
{
    bool idle;

    pthread_mutex_lock(&fids->lock);
    idle = is_idle(fid, 1);
    *was_read = idle && S_ISDIR(v9_fids_inode(fids, fid)->mode) && v9_fids_dir(fids, fid)->offset;
    pthread_mutex_unlock(&fids->lock);
    return idle;
}

/* Evicts the descriptor of a claimed fid; whether that was possible. */
static bool evict_io(struct v9_fids *fids, uint32_t index)
{
    struct v9_fid *fid = &fids->entries[index - 1];
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    V9_DEFERRED(deferred);
    bool has_name = false, was_read;
    const bool can = look_at_claimed(fids, fid, &was_read) &&
                     can_reopen(fids->exports[inode->export], fid, was_read, &has_name);
    const int lost = can ? v9_lost_writes_flush(fid) : 0;

    pthread_mutex_lock(&fids->lock);
    v9_lost_writes_note(fid, lost);
    /* A file without a name is reopened by its inode, which is not evicted then. */
    if (can && is_idle(fid, 1) && !fid->io_used_lately && (has_name || inode->path_fd >= 0)) {
        v9_deferred_close(&deferred, fid->io_fd);
        v9_list_remove(&fids->open_io, index);
        fid->io_fd = V9_IO_EVICTED;
        if (S_ISDIR(inode->mode))
            v9_fids_dir(fids, fid)->offset = 0; /* where it will stand */
    }
    fid->io_used_lately = !deferred.fd_count;
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(&deferred);
    v9_fids_release(fids, fid);
    return deferred.fd_count;
}

/* ---- classes --------------------------------------------------------------------------------- */

enum { LOOKS = 8192 }; /* entries that are looked at for one to be evicted */

/* Descriptors of one class, with the offset of their list in v9_fids. */
static const struct class
{
    size_t list;
    bool (*claim)(struct v9_fids *fids, uint32_t index, bool spares);
    bool (*evict)(struct v9_fids *fids, uint32_t index);
} classes[] = {
    {offsetof(struct v9_fids, inodes.open), claim_unopened_inode, evict_inode},
    {offsetof(struct v9_fids, inodes.open), claim_inode, evict_inode},
    {offsetof(struct v9_fids, open_io), claim_io, evict_io},
};

/* Claims the least recently used entry that may be evicted; 0: there is none. Where all were used
 * lately, the second round spares none. */
static uint32_t choose(struct v9_fids *fids, const struct class *class)
{
    struct v9_list *list = (struct v9_list *)(void *)((char *)fids + class->list);
    uint32_t looks, index = 0;
    bool is_claimed = false;

    pthread_mutex_lock(&fids->lock);
    looks = list->count < LOOKS / 2 ? 2 * list->count : LOOKS;
    for (uint32_t look = 0; look < looks && !is_claimed; look++) {
        index = list->first;
        v9_list_move_to_end(list, index);
        is_claimed = class->claim(fids, index, look < looks / 2);
    }
    pthread_mutex_unlock(&fids->lock);
    return is_claimed ? index : 0;
}

static uint32_t evict_class(struct v9_fids *fids, const struct class *class, uint32_t batch)
{
    uint32_t index, evicted = 0;

    for (uint32_t i = 0; i < 2 * batch && evicted < batch; i++) {
        index = choose(fids, class);
        if (!index)
            break;
        evicted += class->evict(fids, index);
    }
    return evicted;
}

static struct v9_fids *fids_of(struct v9_shrinker *shrinker)
{
    return (struct v9_fids *)(void *)((char *)shrinker - offsetof(struct v9_fids, shrinker));
}

static uint32_t evict(struct v9_shrinker *shrinker, uint32_t batch)
{
    struct v9_fids *fids = fids_of(shrinker);
    uint32_t evicted = 0;

    while (evicted < batch && v9_fids_drop_cached(fids, 0))
        evicted++;
    for (size_t i = 0; !evicted && fids->exports && i < sizeof(classes) / sizeof(*classes); i++)
        evicted = evict_class(fids, &classes[i], batch);
    return evicted;
}

static bool expire(struct v9_shrinker *shrinker)
{
    struct v9_fids *fids = fids_of(shrinker);
    bool any;

    while (v9_fids_drop_cached(fids, V9_GRACE_TICKS + 1))
        ;
    pthread_mutex_lock(&fids->lock);
    any = fids->inodes.cached.count > 0;
    pthread_mutex_unlock(&fids->lock);
    return any;
}

const struct v9_shrinker_ops v9_evict_ops = {evict, expire};
