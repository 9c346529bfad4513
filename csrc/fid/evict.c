#define _GNU_SOURCE
#include "fid/evict.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "export/containment.h"
#include "fid/cached.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

enum {
    LOOKS = 8192,  /* inodes or fids that are looked at for one to be parked */
    SETTLE = 1000, /* times, 1 ms each, that a change of names is waited for */
};

static struct v9_inode *node_at(struct v9_fids *fids, uint32_t index)
{
    return &fids->inodes.entries[index - 1];
}

/* ---- coming back -------------------------------------------------------------------------------
 */

/*
 * A inode that is not shared stands for one name of its file: a handle leads to the file and to any
 * of its names, so it will do only where there is one.
 */
static int follow(v9_export *ex, const struct v9_inode *inode, const struct v9_recipe *way,
                  int32_t anchor_fd)
{
    const struct v9_identity is = v9_inode_identity(inode);
    int fd = v9_recipe_follow(ex, &is, way, inode->shared ? anchor_fd : -1);
    struct stat st;

    if (inode->shared || fd != -ESTALE || anchor_fd < 0)
        return fd;
    fd = v9_recipe_follow(ex, &is, way, anchor_fd);
    if (fd < 0 || (fstat(fd, &st) == 0 && (st.st_nlink == 1 || S_ISDIR(st.st_mode))))
        return fd;
    v9_budget_close(fd);
    return -ESTALE;
}

/* Uses the anchor of a mount on which something is parked, which may come back by another way while
 * the lock is released: the anchor stays. Its descriptor, to open files by handle, or -1. */
static int32_t enter_anchor(struct v9_fids *fids, uint64_t mnt_id)
{
    struct v9_anchor *anchor = v9_evicted_anchor(&fids->inodes.park, mnt_id);

    anchor->users++;
    return anchor->by_handle ? anchor->fd : -1;
}

/* The lock is held, but released to close what nobody uses any more. */
static void leave_anchor(struct v9_fids *fids, uint64_t mnt_id)
{
    const int32_t fd = v9_evicted_leave_anchor(&fids->inodes.park, mnt_id);

    if (fd < 0)
        return;
    pthread_mutex_unlock(&fids->lock);
    v9_budget_close(fd);
    pthread_mutex_lock(&fids->lock);
}

/*
 * Opens a parked inode's file again, and its metadata file (-1: none); the lock is released
 * meanwhile. A name that is just being changed is looked for again, unless it is the change itself
 * that asks (`patient` false).
 */
static int find_again(struct v9_fids *fids, const struct v9_inode *inode, int32_t io_fd,
                      bool patient, int32_t *meta_fd)
{
    const struct timespec pause = {0, 1000000};
    v9_export *ex = fids->exports[inode->export];
    struct v9_recipe way;
    int32_t anchor_fd;
    bool settled;
    int fd = -ESTALE;

    for (int i = 0; i < SETTLE && fd == -ESTALE && inode->path_fd < 0; i++) {
        const uint32_t moment = v9_seqcount_read_begin(&ex->moves);
        v9_evicted_load(&fids->inodes.park, inode->way, inode->export, &way);
        anchor_fd = enter_anchor(fids, inode->mnt_id);
        pthread_mutex_unlock(&fids->lock);
        fd = io_fd >= 0 ? v9_export_reopen(ex, io_fd) : follow(ex, inode, &way, anchor_fd);
        *meta_fd = fd >= 0 ? v9_mapped_find(ex, fd) : -1;
        settled = !patient || !v9_seqcount_read_retry(&ex->moves, moment);
        if (fd == -ESTALE && !settled)
            nanosleep(&pause, NULL);
        pthread_mutex_lock(&fids->lock);
        leave_anchor(fids, inode->mnt_id);
        if (settled)
            break;
    }
    return fd;
}

/* The caller holds the lock, which is released meanwhile, and a pin of the inode. */
static int return_node(struct v9_fids *fids, uint32_t index, int32_t io_fd, bool patient)
{
    struct v9_inode *inode = node_at(fids, index);
    struct v9_inode_fds spare = V9_INODE_FDS_NONE;
    int32_t meta_fd = -1;
    int fd;

    while (inode->path_fd < 0) {
        if (inode->returning) {
            pthread_cond_wait(&fids->returned, &fids->lock);
            continue;
        }
        inode->returning = true;
        fd = find_again(fids, inode, io_fd, patient, &meta_fd);
        inode->returning = false;
        pthread_cond_broadcast(&fids->returned);
        if (fd >= 0 && inode->path_fd < 0)
            v9_inode_wake(&fids->inodes, index, fd, &spare);
        else if (fd >= 0)
            spare.path_fd = fd; /* a walk has come here meanwhile */
        else if (inode->path_fd < 0)
            return fd;
        spare.meta_fd = v9_inode_adopt(inode, meta_fd < 0 ? -1 : meta_fd);
        pthread_mutex_unlock(&fids->lock);
        v9_inode_fds_close(&spare);
        spare = V9_INODE_FDS_NONE;
        pthread_mutex_lock(&fids->lock);
    }
    return 0;
}

static int reopen_flags(const struct v9_fid *fid)
{
    return fid->io_flags & ~(O_TRUNC | O_CREAT | O_EXCL);
}

static int return_io(struct v9_fids *fids, struct v9_fid *fid)
{
    const struct v9_inode *inode = v9_fids_node(fids, fid);
    v9_export *ex = fids->exports[inode->export];
    int fd;

    while (fid->io_fd == V9_IO_EVICTED) {
        if (fid->io_returning) {
            pthread_cond_wait(&fids->returned, &fids->lock);
            continue;
        }
        fid->io_returning = true;
        pthread_mutex_unlock(&fids->lock);
        fd = v9_export_open(ex, inode->path_fd, reopen_flags(fid));
        pthread_mutex_lock(&fids->lock);
        fid->io_returning = false;
        pthread_cond_broadcast(&fids->returned);
        if (fd < 0)
            return fd;
        fid->io_fd = fd;
        v9_evict_opened(fids, fid);
    }
    return 0;
}

int v9_evict_return(struct v9_fids *fids, const struct v9_fid *pinned)
{
    struct v9_fid *fid = &fids->entries[pinned - fids->entries];
    int err = return_node(fids, fid->inode, fid->io_fd, true);

    return err ? err : return_io(fids, fid);
}

int v9_evict_return_node(struct v9_fids *fids, uint32_t inode)
{
    return return_node(fids, inode, -1, true);
}

/* The next parked inode of a file after `index`, which is in its chain (0: the first), with a
 * reference more; 0: there is none. */
static uint32_t next_parked(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino, uint32_t index)
{
    do
        index = v9_inodes_of(&fids->inodes, st_dev, st_ino, index);
    while (index && (!node_at(fids, index)->refs || node_at(fids, index)->path_fd >= 0));
    if (index)
        node_at(fids, index)->refs++;
    return index;
}

/* Drops a inode's reference; the lock is released meanwhile. */
static void drop_node(struct v9_fids *fids, uint32_t index)
{
    struct v9_inode_fds spare;

    v9_inodes_drop(&fids->inodes, index, &spare);
    pthread_mutex_unlock(&fids->lock);
    v9_inode_fds_close(&spare);
    pthread_mutex_lock(&fids->lock);
}

int v9_evict_return_file(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino)
{
    uint32_t index, next;
    int err, lack = 0;

    pthread_mutex_lock(&fids->lock);
    index = next_parked(fids, st_dev, st_ino, 0);
    for (; index; index = next) {
        next = next_parked(fids, st_dev, st_ino, index); /* what is back may be in no chain */
        node_at(fids, index)->pins++;
        err = return_node(fids, index, -1, false);
        if (v9_budget_lacks(err))
            lack = err;
        node_at(fids, index)->pins--;
        drop_node(fids, index);
        if (next && node_at(fids, next)->path_fd >= 0) { /* somebody else has brought it back */
            drop_node(fids, next);
            next = next_parked(fids, st_dev, st_ino, 0);
        }
    }
    pthread_mutex_unlock(&fids->lock);
    return lack;
}

/* ---- parking inodes -----------------------------------------------------------------------------
 */

/* The least recently used inode that may be parked, with a reference, marked; or 0. Where all were
 * used since they were looked at last, the search does not go on for ever. */
static uint32_t choose_node(struct v9_fids *fids, bool open_ones)
{
    struct v9_inodes *inodes = &fids->inodes;
    const uint32_t looks = inodes->awake.count < LOOKS / 2 ? 2 * inodes->awake.count : LOOKS;
    uint32_t index;

    for (uint32_t look = 0; look < looks; look++) {
        struct v9_inode *inode = node_at(fids, index = inodes->awake.oldest);
        const bool recent = inode->recent && look < looks / 2;
        v9_inode_renew(inodes, index);
        if (inode->pins || inode->parking || (inode->opens && !open_ones))
            continue;
        inode->recent = false;
        if (!recent) {
            inode->parking = true;
            inode->refs++;
            return index;
        }
    }
    return 0;
}

/* Takes a use of the mount's anchor, made if there is none. The lock is not held. */
static int use_anchor(struct v9_fids *fids, v9_export *ex, const struct v9_inode *inode, int32_t fd,
                      const struct v9_recipe *way, uint32_t host_mode, bool *by_handle)
{
    const struct v9_identity is = v9_inode_identity(inode);
    struct v9_anchor *anchor;
    int32_t made = -1;

    pthread_mutex_lock(&fids->lock);
    anchor = v9_evicted_anchor(&fids->inodes.park, is.mnt_id);
    if (!anchor) {
        pthread_mutex_unlock(&fids->lock);
        made = v9_recipe_anchor(ex, fd, &is, way, host_mode, by_handle);
        if (made < 0)
            return made;
        pthread_mutex_lock(&fids->lock);
        anchor = v9_evicted_anchor(&fids->inodes.park, is.mnt_id);
    }
    if (!anchor &&
        (anchor = v9_evicted_add_anchor(&fids->inodes.park, is.mnt_id, made, *by_handle)))
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

/* Whether the file is found by its path, as it has to be where handles do not open it. */
static int try_path(v9_export *ex, const struct v9_inode *inode, const struct v9_recipe *way)
{
    const struct v9_identity is = v9_inode_identity(inode);
    int fd = v9_recipe_follow(ex, &is, way, -1);

    if (fd >= 0)
        v9_budget_close(fd);
    return fd < 0 ? fd : 0;
}

/* Parks a inode that was chosen; whether it could be. The lock is not held. */
static bool park_node(struct v9_fids *fids, uint32_t index)
{
    struct v9_inode *inode = node_at(fids, index);
    const struct v9_identity is = v9_inode_identity(inode);
    v9_export *ex = fids->exports[inode->export];
    const uint32_t moment = v9_seqcount_read_begin(&ex->moves);
    const int32_t fd = inode->path_fd; /* ours until the mark is taken off */
    struct v9_inode_fds parked = V9_INODE_FDS_NONE, dropped;
    uint32_t host_mode, stored = 0;
    bool anchored, by_handle;
    struct v9_recipe way;
    int err = v9_recipe_note(ex, fd, &is, &way, &host_mode);

    if (!err)
        err = use_anchor(fids, ex, inode, fd, &way, host_mode, &by_handle);
    anchored = !err;
    if (!err && !by_handle)
        err = try_path(ex, inode, &way);
    pthread_mutex_lock(&fids->lock);
    inode->parking = false;
    if (!err && !inode->pins && !inode->recent && !v9_seqcount_read_retry(&ex->moves, moment))
        stored = v9_evicted_store(&fids->inodes.park, &way);
    if (stored) {
        inode->btime_conclusive = way.btime_conclusive;
        v9_inode_park(&fids->inodes, index, stored, &parked);
    } else {
        inode->recent = true;
        if (anchored)
            parked.anchor_fd = v9_evicted_leave_anchor(&fids->inodes.park, is.mnt_id);
    }
    v9_inodes_drop(&fids->inodes, index, &dropped);
    pthread_mutex_unlock(&fids->lock);
    v9_inode_fds_close(&parked);
    v9_inode_fds_close(&dropped);
    return stored;
}

/* ---- parking open files ------------------------------------------------------------------------
 */

void v9_evict_opened(struct v9_fids *fids, struct v9_fid *fid)
{
    const uint32_t index = (uint32_t)(fid - fids->entries) + 1;

    fid->io_older = fids->newest_open;
    fid->io_newer = 0;
    *(fid->io_older ? &fids->entries[fid->io_older - 1].io_newer : &fids->oldest_open) = index;
    fids->newest_open = index;
    fids->open_count++;
}

void v9_evict_closed(struct v9_fids *fids, struct v9_fid *fid)
{
    *(fid->io_older ? &fids->entries[fid->io_older - 1].io_newer : &fids->oldest_open) =
        fid->io_newer;
    *(fid->io_newer ? &fids->entries[fid->io_newer - 1].io_older : &fids->newest_open) =
        fid->io_older;
    fids->open_count--;
}

/* Whether nobody uses an open fid but its number, and `others` that count as users. One without a
 * number is there for its pins alone. */
static bool is_idle(const struct v9_fid *fid, uint32_t others)
{
    return fid->entered && fid->refs == 1 + others && !fid->flags;
}

/* *moved: it is a directory that has been read. */
static struct v9_fid *choose_open(struct v9_fids *fids, bool *moved)
{
    const uint32_t looks = fids->open_count < LOOKS / 2 ? 2 * fids->open_count : LOOKS;

    for (uint32_t look = 0; look < looks; look++) {
        struct v9_fid *fid = &fids->entries[fids->oldest_open - 1];
        const bool recent = fid->io_recent && look < looks / 2;
        v9_evict_closed(fids, fid);
        v9_evict_opened(fids, fid); /* to the end of the list */
        if (!is_idle(fid, 0))
            continue;
        fid->io_recent = false;
        if (!recent) {
            *moved = S_ISDIR(v9_fids_node(fids, fid)->mode) && v9_fids_dir(fids, fid)->offset;
            fid->refs++;
            return fid;
        }
    }
    return NULL;
}

/* tmpfs has them since Linux 6.6. */
static bool is_at_least(int major, int minor)
{
    struct utsname host;
    int is_major = 0, is_minor = 0;

    return uname(&host) == 0 && sscanf(host.release, "%d.%d", &is_major, &is_minor) == 2 &&
           (is_major > major || (is_major == major && is_minor >= minor));
}

/* Whether a position in a directory means the same to whoever opens it anew, as it has to for NFS.
 * Not so where a descriptor has a list or a cursor of its own (overlayfs, libfs). */
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

/* Whether an open file can be opened once more as it is. An ordinary user may lose the permission
 * meanwhile, and with it what the guest has still to write: not so for reading only. */
static bool can_reopen(v9_export *ex, const struct v9_fid *fid, bool moved, bool *named)
{
    struct stat st;
    int fd;

    if (geteuid() && (fid->io_flags & O_ACCMODE) != O_RDONLY)
        return false;
    if (fstat(fid->io_fd, &st) < 0 || (moved && !positions_last(fid->io_fd)))
        return false;
    *named = st.st_nlink > 0;
    fd = v9_export_open(ex, fid->io_fd, reopen_flags(fid));
    if (fd >= 0)
        v9_budget_close(fd);
    return fd >= 0;
}

static bool park_open(struct v9_fids *fids, struct v9_fid *fid, bool moved)
{
    const struct v9_inode *inode = v9_fids_node(fids, fid);
    bool named = false;
    const bool can = can_reopen(fids->exports[inode->export], fid, moved, &named);
    int32_t io_fd = -1;

    pthread_mutex_lock(&fids->lock);
    /* The other is who chose it. A file without a name is opened again by its inode, which is not
     * parked then. */
    if (can && is_idle(fid, 1) && !fid->io_recent && (named || inode->path_fd >= 0)) {
        io_fd = fid->io_fd;
        v9_evict_closed(fids, fid);
        fid->io_fd = V9_IO_EVICTED;
        if (S_ISDIR(inode->mode))
            v9_fids_dir(fids, fid)->offset = 0; /* where it will stand */
    }
    fid->io_recent = io_fd < 0;
    pthread_mutex_unlock(&fids->lock);
    if (io_fd >= 0)
        v9_budget_close(io_fd);
    v9_fids_release(fids, fid);
    return io_fd >= 0;
}

/* ---- giving up ---------------------------------------------------------------------------------
 */

static uint32_t give_nodes_up(struct v9_fids *fids, uint32_t batch, bool open_ones)
{
    uint32_t index, given = 0;

    for (uint32_t i = 0; i < 2 * batch && given < batch; i++) {
        pthread_mutex_lock(&fids->lock);
        index = choose_node(fids, open_ones);
        pthread_mutex_unlock(&fids->lock);
        if (!index)
            break;
        given += park_node(fids, index);
    }
    return given;
}

static uint32_t give_open_up(struct v9_fids *fids, uint32_t batch)
{
    struct v9_fid *fid;
    uint32_t given = 0;
    bool moved;

    for (uint32_t i = 0; i < 2 * batch && given < batch; i++) {
        pthread_mutex_lock(&fids->lock);
        fid = choose_open(fids, &moved);
        pthread_mutex_unlock(&fids->lock);
        if (!fid)
            break;
        given += park_open(fids, fid, moved);
    }
    return given;
}

uint32_t v9_evict_give_up(struct v9_shrinker *holder, uint32_t batch)
{
    struct v9_fids *fids = (struct v9_fids *)((char *)holder - offsetof(struct v9_fids, holder));
    uint32_t given;

    given = v9_cached_end(fids, batch);
    if (given || !fids->exports)
        return given;
    given = give_nodes_up(fids, batch, false);
    if (!given)
        given = give_nodes_up(fids, batch, true);
    if (!given)
        given = give_open_up(fids, batch);
    return given;
}

/* ---- renames -----------------------------------------------------------------------------------
 */

static void renew_all(struct v9_fids *fids)
{
    struct v9_evicted *park = &fids->inodes.park;

    for (uint32_t i = 0; i < fids->inodes.used; i++) {
        struct v9_inode *inode = &fids->inodes.entries[i];
        if (inode->refs && inode->path_fd < 0)
            inode->way = v9_evicted_renew(park, inode->way, inode->export);
    }
    v9_evicted_clear_journal(park);
}

void v9_evict_renamed(struct v9_fids *fids, uint32_t export, const char *old, const char *new)
{
    pthread_mutex_lock(&fids->lock);
    if (fids->inodes.park.count) {
        if (v9_evicted_is_full(&fids->inodes.park))
            renew_all(fids);
        v9_evicted_renamed(&fids->inodes.park, export, old, new);
    }
    pthread_mutex_unlock(&fids->lock);
}
