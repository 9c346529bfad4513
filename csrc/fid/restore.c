#define _GNU_SOURCE
#include "fid/restore.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <time.h>

#include "export/containment.h"
#include "mapped/mapped.h"

enum { SETTLE = 1000 }; /* times, 1 ms each, that a change of names is waited for */

/* Finishes what was deferred, without the lock. */
static void finish_unlocked(struct v9_fids *fids, const struct v9_deferred *deferred)
{
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(deferred);
    pthread_mutex_lock(&fids->lock);
}

/* ---- inodes ---------------------------------------------------------------------------------- */

/* Whether the operator hides a file by now, which the guest has reached before. */
static bool is_hidden(v9_export *ex, int32_t fd)
{
    char path[PATH_MAX];

    return ex->hidden && v9_export_path(ex, fd, "", path) > 0 &&
           v9_hidden_paths_hide(ex->hidden, path);
}

static int unless_hidden(v9_export *ex, int32_t fd)
{
    if (fd < 0 || !is_hidden(ex, fd))
        return fd;
    v9_budget_close(fd);
    return -ESTALE;
}

/*
 * An inode that is not shared stands for one name of its file. A handle leads to the file and to
 * any of its names, so it will do only where there is one.
 */
static int open_recipe(v9_export *ex, const struct v9_inode *inode, const struct v9_recipe *recipe,
                       int32_t anchor_fd)
{
    const struct v9_identity is = v9_inode_identity(inode);
    int fd = v9_recipe_open(ex, &is, recipe, inode->shared ? anchor_fd : -1);
    struct stat st;

    if (inode->shared || fd != -ESTALE || anchor_fd < 0)
        return fd;
    fd = v9_recipe_open(ex, &is, recipe, anchor_fd);
    if (fd < 0 || (fstat(fd, &st) == 0 && (st.st_nlink == 1 || S_ISDIR(st.st_mode))))
        return fd;
    v9_budget_close(fd);
    return -ESTALE;
}

/* One without a descriptor gets another one, if possible. The anchor has a user. */
static void reopen_anchor(struct v9_fids *fids, v9_export *ex, struct v9_anchor *anchor)
{
    int32_t fd;

    pthread_mutex_unlock(&fids->lock);
    fd = v9_recipe_open_anchor(ex, anchor->mnt_id);
    pthread_mutex_lock(&fids->lock);
    if (fd >= 0)
        fd = v9_recipes_equip_anchor(anchor, fd, true);
    if (fd >= 0) {
        pthread_mutex_unlock(&fids->lock);
        v9_budget_close(fd);
        pthread_mutex_lock(&fids->lock);
    }
}

/* Another thread may restore the last inode of the mount while the lock is released, so the anchor
 * gets one more user. Its descriptor, to open files by handle, or -1. */
static int32_t enter_anchor(struct v9_fids *fids, v9_export *ex, uint64_t mnt_id)
{
    struct v9_anchor *anchor = v9_recipes_anchor(&fids->inodes.recipes, mnt_id);

    anchor->users++;
    if (anchor->fd < 0)
        reopen_anchor(fids, ex, anchor);
    return anchor->by_handle ? anchor->fd : -1;
}

static void leave_anchor(struct v9_fids *fids, uint64_t mnt_id)
{
    V9_DEFERRED(deferred);

    v9_deferred_close(&deferred, v9_recipes_leave_anchor(&fids->inodes.recipes, mnt_id));
    if (deferred.fd_count)
        finish_unlocked(fids, &deferred);
}

/*
 * Reopens an evicted inode's file, and its metadata file (-1: none). A name that is just being
 * changed is looked for again, unless the change itself asks (`patient` false).
 */
static int reopen(struct v9_fids *fids, const struct v9_inode *inode, int32_t io_fd, bool patient,
                  int32_t *meta_fd)
{
    const struct timespec pause = {0, 1000000};
    v9_export *ex = fids->exports[inode->export];
    struct v9_recipe recipe;
    int32_t anchor_fd;
    bool settled;
    int fd = -ESTALE;

    for (int i = 0; i < SETTLE && fd == -ESTALE && inode->path_fd < 0; i++) {
        const uint32_t begun = v9_seqcount_read_begin(&ex->moves);
        anchor_fd = enter_anchor(fids, ex, inode->mnt_id);
        if (inode->path_fd >= 0) { /* a walk has come here meanwhile */
            leave_anchor(fids, inode->mnt_id);
            break;
        }
        v9_recipes_get(&fids->inodes.recipes, inode->recipe, inode->export, &recipe);
        pthread_mutex_unlock(&fids->lock);
        fd = io_fd >= 0 ? v9_export_reopen(ex, io_fd) : open_recipe(ex, inode, &recipe, anchor_fd);
        fd = unless_hidden(ex, fd);
        *meta_fd = fd >= 0 ? v9_mapped_find(ex, fd) : -1;
        settled = !patient || !v9_seqcount_read_retry(&ex->moves, begun);
        if (fd == -ESTALE && !settled)
            nanosleep(&pause, NULL);
        pthread_mutex_lock(&fids->lock);
        leave_anchor(fids, inode->mnt_id);
        if (settled)
            break;
    }
    return fd;
}

/* The caller has a pin of the inode. */
static int restore_inode(struct v9_fids *fids, uint32_t index, int32_t io_fd, bool patient)
{
    struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
    int32_t meta_fd = -1;
    int fd;

    while (inode->path_fd < 0) {
        V9_DEFERRED(deferred);
        if (inode->restoring) {
            pthread_cond_wait(&fids->restored, &fids->lock);
            continue;
        }
        inode->restoring = true;
        fd = reopen(fids, inode, io_fd, patient, &meta_fd);
        inode->restoring = false;
        pthread_cond_broadcast(&fids->restored);
        if (fd >= 0 && inode->path_fd < 0)
            v9_inode_restore(&fids->inodes, index, fd, &deferred);
        else if (fd >= 0)
            v9_deferred_close(&deferred, fd); /* a walk has come here meanwhile */
        else if (inode->path_fd < 0)
            return fd;
        v9_deferred_close(&deferred, v9_inode_adopt(inode, meta_fd < 0 ? -1 : meta_fd));
        finish_unlocked(fids, &deferred);
    }
    return 0;
}

int v9_restore_inode(struct v9_fids *fids, uint32_t inode)
{
    return restore_inode(fids, inode, -1, true);
}

/* ---- open files ------------------------------------------------------------------------------ */

static int restore_io(struct v9_fids *fids, struct v9_fid *fid)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    v9_export *ex = fids->exports[inode->export];
    int fd;

    while (fid->io_fd == V9_IO_EVICTED) {
        if (fid->io_restoring) {
            pthread_cond_wait(&fids->restored, &fids->lock);
            continue;
        }
        fid->io_restoring = true;
        pthread_mutex_unlock(&fids->lock);
        fd = v9_export_open(ex, inode->path_fd, v9_fid_reopen_flags(ex, fid));
        pthread_mutex_lock(&fids->lock);
        fid->io_restoring = false;
        pthread_cond_broadcast(&fids->restored);
        if (fd < 0)
            return fd;
        fid->io_fd = fd;
        v9_list_append(&fids->open_io, v9_fid_index(fids, fid));
    }
    return 0;
}

int v9_restore_fid(struct v9_fids *fids, struct v9_fid *fid)
{
    int err = restore_inode(fids, fid->inode, fid->io_fd, true);

    return err ? err : restore_io(fids, fid);
}

/* ---- before a name is lost ------------------------------------------------------------------- */

static void forbid_caching(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino)
{
    struct v9_inodes *inodes = &fids->inodes;
    uint32_t index = v9_inodes_of_file(inodes, st_dev, st_ino, 0);

    while (index) {
        V9_DEFERRED(deferred);
        if (v9_inode_at(inodes, index)->refs) {
            v9_inode_set_cacheable(inodes, index, false);
            index = v9_inodes_of_file(inodes, st_dev, st_ino, index);
            continue;
        }
        v9_inode_uncache(inodes, index, &deferred);
        finish_unlocked(fids, &deferred);
        index = v9_inodes_of_file(inodes, st_dev, st_ino, 0); /* the chain may have changed */
    }
}

/* The next evicted inode of a file after `index`, which is in its chain (0: the first), with one
 * more reference; 0: there is none. */
static uint32_t next_evicted(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino, uint32_t index)
{
    const struct v9_inode *inode;

    do {
        index = v9_inodes_of_file(&fids->inodes, st_dev, st_ino, index);
        inode = index ? v9_inode_at(&fids->inodes, index) : NULL;
    } while (inode && (!inode->refs || inode->path_fd >= 0));
    if (index)
        v9_inode_at(&fids->inodes, index)->refs++;
    return index;
}

static void release(struct v9_fids *fids, uint32_t index)
{
    V9_DEFERRED(deferred);

    v9_inodes_release(&fids->inodes, index, &deferred);
    finish_unlocked(fids, &deferred);
}

int v9_restore_before_loss(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino)
{
    uint32_t index, next;
    int err, lack = 0;

    forbid_caching(fids, st_dev, st_ino);
    index = next_evicted(fids, st_dev, st_ino, 0);
    for (; index; index = next) {
        struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
        next = next_evicted(fids, st_dev, st_ino, index); /* a restored one may leave the chain */
        inode->pins++;
        err = restore_inode(fids, index, -1, false);
        if (v9_budget_lacks(err))
            lack = err;
        inode->pins--;
        release(fids, index);
        if (next && v9_inode_at(&fids->inodes, next)->path_fd >= 0) { /* restored by another */
            release(fids, next);
            next = next_evicted(fids, st_dev, st_ino, 0);
        }
    }
    return lack;
}
