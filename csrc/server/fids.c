/*
 * fids: what Python asks of and does to a device's fids.
 *
 * Python names a fid by its number until it has pinned it, and by its handle from then on: a number
 * may meanwhile stand for another fid, a handle never does (fid/fid.h).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>

#include "base/refusal.h"
#include "export/containment.h"
#include "export/dir_marks.h"
#include "export/file_locks.h"
#include "export/notices.h"
#include "fid/enter.h"
#include "fid/mark_dirs.h"
#include "p9/fsync.h"
#include "p9/handler.h"
#include "p9/names.h"
#include "p9/setattr.h"
#include "request/request.h"
#include "request/upcall.h"
#include "server/api.h"

int v9_fid_get(v9_device *dev, uint32_t number, struct v9_fid_info *out)
{
    struct v9_inode *inode;
    struct v9_fid *fid;
    int32_t meta_fd;
    int err = v9_fids_pin(&dev->fids, number, &fid);

    if (err)
        return err;
    inode = v9_fids_inode(&dev->fids, fid);
    meta_fd = inode ? v9_inode_meta(v9_inode_export(dev, inode), inode) : -1;
    pthread_mutex_lock(&dev->fids.lock);
    *out = (struct v9_fid_info){
        .handle = v9_fids_handle(&dev->fids, fid),
        .path_fd = -1,
        .meta_fd = meta_fd,
        .io_fd = fid->io_fd,
        .io_flags = fid->io_flags,
        .uid = fid->uid,
        .flags = fid->flags,
    };
    if (inode) {
        out->path_fd = inode->path_fd;
        out->export = inode->export;
        out->st_dev = inode->st_dev;
        out->st_ino = inode->st_ino;
    }
    pthread_mutex_unlock(&dev->fids.lock);
    return 0;
}

void v9_fid_put(v9_device *dev, uint64_t handle)
{
    v9_fids_unpin(&dev->fids, v9_fids_of(&dev->fids, handle));
}

int v9_fid_look(v9_device *dev, uint32_t number, struct v9_fid_view *out)
{
    const struct v9_inode *inode;
    struct v9_fid *fid;
    int err = v9_fids_pin_evicted(&dev->fids, number, &fid);

    if (err)
        return err;
    inode = v9_fids_inode(&dev->fids, fid);
    *out = (struct v9_fid_view){.uid = fid->uid, .flags = v9_fid_flags(fid)};
    out->path_size = v9_fids_path(&dev->fids, fid, out->path, &out->path_known, &out->path_cut);
    if (inode) {
        out->export = inode->export;
        v9_file_facts(__atomic_load_n(&inode->path_fd, __ATOMIC_ACQUIRE),
                      v9_export_asks_nobody(dev->exports[inode->export]), &out->facts);
    }
    v9_fids_unpin(&dev->fids, fid);
    return 0;
}

int v9_fid_find(v9_device *dev, uint32_t number, uint64_t *handle)
{
    return v9_fids_find(&dev->fids, number, handle);
}

int v9_fid_add(v9_device *dev, uint32_t number, int32_t path_fd, uint32_t export, uint32_t uid,
               const struct v9_attr *attr, uint64_t *handle)
{
    char path[PATH_MAX];
    const int size = v9_export_path(dev->exports[export], path_fd, "", path);
    const struct v9_route route = {
        .root = (int32_t)export,
        .size = size > 0 ? (uint32_t)size : 0,
        .text = path,
        .now = v9_dentry_now(),
    };
    const bool has_name = size > 0 || size == -EBUSY; /* the root */
    const struct v9_fid_new as = {number, uid, 0, -1, 0, has_name ? &route : NULL, handle};
    const struct v9_found file = {path_fd, -1, export, attr};

    v9_dir_marks_reached(dev->exports[export], path_fd, attr);
    return v9_fids_enter(&dev->fids, &as, &file, NULL);
}

void v9_device_mark_dirs(v9_device *dev)
{
    v9_fids_mark_dirs(&dev->fids);
}

int v9_fid_become(v9_device *dev, uint64_t handle, const char *name, const struct v9_created *made,
                  const struct v9_attr *attr)
{
    struct v9_fid *directory = v9_fids_of(&dev->fids, handle);
    const uint32_t export = v9_fids_inode(&dev->fids, directory)->export;
    uint8_t reply[P9_QID_SIZE + 4];
    struct v9_fid_room room;
    int err = v9_fids_reserve(&dev->fids, directory, made, export, attr, &room);

    if (err)
        return err;
    v9_put(v9_put_qid(reply, &attr->qid), 0, 4); /* iounit 0: as much as msize allows */
    v9_upcall_promise(dev, 0, P9_TCREATE + 1, reply, sizeof(reply));
    return v9_fids_become(&dev->fids, &room, name, made);
}

int v9_fid_mark(v9_device *dev, uint64_t handle, uint32_t flags)
{
    return v9_fids_mark(&dev->fids, handle, flags);
}

int v9_fid_get_stream(v9_device *dev, uint64_t handle, struct v9_stream *out)
{
    const struct v9_fid *fid = v9_fids_of(&dev->fids, handle);
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);

    if (!inode || v9_fid_io(fid) < 0 ||
        !v9_notices_stream(v9_inode_export(dev, inode), inode->st_ino))
        return -EBADF;
    pthread_mutex_lock(&dev->fids.lock);
    *out = *v9_fids_stream(&dev->fids, fid);
    pthread_mutex_unlock(&dev->fids.lock);
    return 0;
}

void v9_fid_set_stream(v9_device *dev, uint64_t handle, const struct v9_stream *to)
{
    pthread_mutex_lock(&dev->fids.lock);
    v9_stream_store(v9_fids_stream(&dev->fids, v9_fids_of(&dev->fids, handle)), to);
    pthread_mutex_unlock(&dev->fids.lock);
}

int v9_fid_open_for_locks(v9_device *dev, uint64_t handle, int32_t *access)
{
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, v9_fids_of(&dev->fids, handle));

    return v9_lock_open(v9_inode_export(dev, inode), inode->path_fd, access);
}

int v9_fid_setattr(v9_device *dev, uint64_t handle, const struct v9_setattr *to)
{
    return v9_p9_change(dev, v9_fids_of(&dev->fids, handle), to);
}

int v9_fid_link(v9_device *dev, uint64_t handle, uint64_t directory, const char *name)
{
    return v9_p9_add_name(dev, v9_fids_of(&dev->fids, handle), v9_fids_of(&dev->fids, directory),
                          name);
}

int v9_fid_rename(v9_device *dev, uint64_t handle, const char *name)
{
    return v9_p9_move_name(dev, v9_fids_of(&dev->fids, handle), "", NULL, name);
}

int v9_fid_unlink(v9_device *dev, uint64_t handle)
{
    const int err = v9_p9_remove_name(dev, v9_fids_of(&dev->fids, handle));

    v9_upcall_promise(dev, err, P9_TREMOVE + 1, "", 0); /* it is clunked in either case */
    return err;
}

int v9_fid_sync(v9_device *dev, uint64_t handle)
{
    return v9_p9_sync(dev, v9_fids_of(&dev->fids, handle));
}

int v9_fid_clunk(v9_device *dev, uint64_t handle)
{
    return v9_fids_remove_handle(&dev->fids, handle);
}

int v9_fid_clear(v9_device *dev)
{
    return v9_fids_clear(&dev->fids);
}
