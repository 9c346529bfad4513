/*
 * names: Python's calls that report the guest's changes of names (fid/renames.h), for a device.
 */
#include <limits.h>

#include "export/containment.h"
#include "fid/renames.h"
#include "request/request.h"
#include "server/api.h"

_Static_assert((int)V9_PATH_SIZE == PATH_MAX, "v9_names_path");

static const struct v9_fid *fid_of(v9_device *dev, uint64_t handle)
{
    return v9_fids_of(&dev->fids, handle);
}

int v9_names_begin(v9_device *dev, uint32_t export, uint32_t kinds)
{
    return v9_renames_begin(&dev->fids, export, kinds);
}

int v9_names_before_loss(v9_device *dev, uint32_t export, int32_t fd, const char *name)
{
    return v9_renames_before_loss(&dev->fids, export, fd, name);
}

int v9_names_path(v9_device *dev, uint32_t export, int32_t fd, const char *name,
                  char path[V9_PATH_SIZE])
{
    return v9_export_path(dev->exports[export], fd, name, path);
}

void v9_names_renamed(v9_device *dev, uint32_t export, const char *old, const char *name)
{
    v9_renames_directory(&dev->fids, export, old, name);
}

void v9_names_lost(v9_device *dev, uint64_t handle, const char *name)
{
    v9_fids_name_removed(&dev->fids, fid_of(dev, handle), name);
}

int v9_names_own(v9_device *dev, uint64_t handle, char name[V9_NAME_SIZE])
{
    return v9_renames_name_of(&dev->fids, fid_of(dev, handle), name);
}

void v9_names_moved(v9_device *dev, uint64_t handle, const char *name, uint64_t directory,
                    const char *into)
{
    const bool own = directory == V9_OWN_DIRECTORY;

    v9_renames_entry(&dev->fids, fid_of(dev, handle), name, own ? NULL : fid_of(dev, directory),
                     into);
}

void v9_names_end(v9_device *dev, uint32_t export)
{
    v9_renames_end(&dev->fids, export);
}

void v9_names_lock(v9_device *dev, uint32_t export)
{
    v9_export_lock_names(dev->exports[export]);
}

void v9_names_unlock(v9_device *dev, uint32_t export)
{
    v9_export_unlock_names(dev->exports[export]);
}
