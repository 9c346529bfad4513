#define _GNU_SOURCE
#include "fid/mark_dirs.h"

#include <sys/stat.h>

#include "base/host_stat.h"
#include "export/dir_marks.h"
#include "fid/fid_names.h"
#include "fid/restore.h"

static void mark(v9_export *ex, int32_t fd)
{
    struct v9_attr attr;

    if (!v9_host_stat(fd, "", &attr))
        v9_dir_marks_reached(ex, fd, &attr);
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

    pthread_mutex_lock(&fids->lock);
    used = fids->inodes.used; /* what is entered from now on is marked when it is reached */
    pthread_mutex_unlock(&fids->lock);
    for (uint32_t index = 1; index <= used; index++) {
        const struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
        if (!pin_directory(fids, index))
            continue;
        if (inode->path_fd >= 0)
            mark(fids->exports[inode->export], inode->path_fd);
        v9_fids_release_inode(fids, index);
    }
}
