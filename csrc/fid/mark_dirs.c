#define _GNU_SOURCE
#include "fid/mark_dirs.h"

#include <sys/stat.h>

#include "base/host_stat.h"
#include "export/dir_marks.h"
#include "fid/fid.h"
#include "fid/fid_names.h"
#include "fid/restore.h"

enum { DEPTH = PATH_MAX / 2 }; /* of a directory below its export's root */

/* Marks a directory, and those above it up to the export's root. */
static void mark_upwards(v9_export *ex, int32_t fd)
{
    struct v9_attr attr;
    int32_t at = fd;

    for (int i = 0; i < DEPTH && at >= 0 && !v9_host_stat(at, "", &attr); i++) {
        v9_export *where = ex;
        const int32_t below = at;
        v9_dir_marks_reached(ex, at, &attr);
        at = attr.st_dev == ex->root_dev && attr.st_ino == ex->root_ino
                 ? -1
                 : v9_export_step(&where, V9_NO_ID, at, "..");
        if (below != fd)
            v9_budget_close(below);
    }
    if (at >= 0 && at != fd)
        v9_budget_close(at);
}

/* The directory that an entry stands for, pinned and restored; false: none. */
static bool pin_directory(struct v9_fids *fids, uint32_t index)
{
    struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
    bool is_directory;

    pthread_mutex_lock(&fids->lock);
    is_directory = index <= fids->inodes.used && inode->refs && S_ISDIR(inode->mode);
    if (is_directory) {
        inode->refs++;
        inode->pins++;
        if (inode->path_fd < 0)
            v9_restore_inode(fids, index);
    }
    pthread_mutex_unlock(&fids->lock);
    return is_directory;
}

void v9_fids_mark_dirs(struct v9_fids *fids)
{
    uint32_t used;

    while (v9_fids_drop_cached(fids, 0))
        ;
    pthread_mutex_lock(&fids->lock);
    used = fids->inodes.used; /* what is entered from now on is marked when it is reached */
    pthread_mutex_unlock(&fids->lock);
    for (uint32_t index = 1; index <= used; index++) {
        const struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
        if (!pin_directory(fids, index))
            continue;
        if (inode->path_fd >= 0)
            mark_upwards(fids->exports[inode->export], inode->path_fd);
        v9_fids_release_inode(fids, index);
    }
}
