/*
 * names: what the guest's own changes of names mean to files that are parked (fid/evict.h) or that
 * linger (fid/cached.h).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>

#include "export/containment.h"
#include "fid/cached.h"
#include "fid/evict.h"
#include "request/request.h"

_Static_assert((int)V9_PATH_SIZE == PATH_MAX, "v9_names_path");

int v9_names_begin(v9_device *dev, uint32_t export, uint32_t kinds)
{
    const struct v9_inodes *inodes = &dev->fids.inodes;
    int concerned;

    v9_seqcount_change(&dev->exports[export]->moves, true);
    pthread_mutex_lock(&dev->fids.lock);
    concerned = inodes->park.count > 0 || (kinds & V9_NAMES_FILE && inodes->lasting[0]) ||
                (kinds & V9_NAMES_DIRECTORY && inodes->lasting[1]);
    pthread_mutex_unlock(&dev->fids.lock);
    return concerned;
}

int v9_names_rescue(v9_device *dev, uint32_t export, int32_t fd, const char *name)
{
    struct v9_identity is;
    uint64_t nlink;
    uint32_t mode;
    int err;

    if (fd < 0)
        fd = dev->exports[export]->conf.root_fd;
    if (v9_host_identify(fd, name, &is, &mode, &nlink))
        return 0;
    v9_cached_lose(&dev->fids, is.st_dev, is.st_ino);
    err = v9_evict_return_file(&dev->fids, is.st_dev, is.st_ino);
    return err ? err : S_ISDIR(mode);
}

int v9_names_path(v9_device *dev, uint32_t export, int32_t fd, const char *name,
                  char path[V9_PATH_SIZE])
{
    return v9_export_path(dev->exports[export], fd, name, path);
}

void v9_names_renamed(v9_device *dev, uint32_t export, const char *old, const char *name)
{
    v9_evict_renamed(&dev->fids, export, old, name);
}

void v9_names_lost(v9_device *dev, uint64_t handle, const char *name)
{
    v9_fids_lost(&dev->fids, v9_fids_of(&dev->fids, handle), name);
}

int v9_names_own(v9_device *dev, uint64_t handle, char name[V9_NAME_SIZE])
{
    const struct v9_fid *fid = v9_fids_of(&dev->fids, handle);
    const struct v9_inode *inode = v9_fids_node(&dev->fids, fid);
    uint32_t above;
    int32_t fd = v9_fids_own_name(&dev->fids, fid, name, &above);

    if (fd == -ENODATA)
        return v9_export_parent(v9_inode_export(dev, inode), inode->path_fd, name);
    if (fd >= 0)
        fd = v9_export_is_entry(inode->path_fd, fd, name) ? v9_budget_dup(fd) : -ENOENT;
    if (above)
        v9_fids_step_off(&dev->fids, above);
    return fd;
}

/* Whether a rename was none, since both names are of one file (rename(2)). */
static bool is_there(struct v9_device *dev, const struct v9_fid *fid, const char *name)
{
    char own[V9_NAME_SIZE];
    struct v9_attr attr;
    uint32_t above = 0;
    int32_t fd = *name ? v9_fids_node(&dev->fids, fid)->path_fd
                       : v9_fids_own_name(&dev->fids, fid, own, &above);
    bool is = fd >= 0 && !v9_host_stat(fd, *name ? name : own, &attr);

    if (above)
        v9_fids_step_off(&dev->fids, above);
    return is;
}

void v9_names_moved(v9_device *dev, uint64_t handle, const char *name, uint64_t directory,
                    const char *into)
{
    const bool own = directory == V9_OWN_DIRECTORY;
    const struct v9_fid *fid = v9_fids_of(&dev->fids, handle);

    if (!is_there(dev, fid, name))
        v9_fids_renamed(&dev->fids, fid, name, own ? NULL : v9_fids_of(&dev->fids, directory),
                        into);
}

void v9_names_end(v9_device *dev, uint32_t export)
{
    v9_seqcount_change(&dev->exports[export]->moves, false);
}

void v9_names_lock(v9_device *dev, uint32_t export)
{
    v9_export_lock_names(dev->exports[export]);
}

void v9_names_unlock(v9_device *dev, uint32_t export)
{
    v9_export_unlock_names(dev->exports[export]);
}
