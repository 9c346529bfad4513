/*
 * fsync: Tfsync. It may take long, like a write (server/workers.c).
 *
 * After fsync(2) a program expects the file's mode and owner to be durable, and after that of a
 * directory its names. Under mapped-file both are in other files: the sidecar, and the directory
 * with the sidecars of a directory's files. So these are synced, too, unless the guest asks for
 * the data only. A new file must not lose its owner and mode after its name was synced, so with a
 * directory's names the texts of all sidecars are written out, if any has changed meanwhile.
 *
 * fsync allocates delayed blocks and blocks of metadata, which the quota counts afterwards. It is
 * not a change that begins before: one that hangs would look like one that a crash has interrupted.
 * Sidecars do not count.
 */
#define _GNU_SOURCE
#include "p9/fsync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"
#include "fid/lost_writes.h"
#include "mapped/mapped.h"
#include "p9/handler.h"
#include "quota/change.h"
#include "request/reply.h"
#include "request/request.h"
#include "request/upcall.h"

static int sync_descriptor(int fd, bool data_only)
{
    int err;

    do
        err = data_only ? fdatasync(fd) : fsync(fd);
    while (err < 0 && errno == EINTR);
    return err < 0 ? -errno : 0;
}

static int sync_sidecar(v9_export *ex, struct v9_inode *inode)
{
    const int32_t known = v9_inode_meta(ex, inode);
    int found, err;

    if (known >= 0)
        return sync_descriptor(known, false);
    found = v9_mapped_find(ex, inode->path_fd);
    if (found < 0)
        return v9_sys_has_failed(found) ? found : 0;
    err = sync_descriptor(found, false);
    v9_budget_close(found);
    return err;
}

/* Syncs the texts of all sidecars in the file system of a directory. Only on the device of the root
 * is it known that there is nothing to do. */
static int sync_texts(v9_export *ex, const struct v9_inode *inode, int fd)
{
    const bool is_known = inode->st_dev == ex->root_dev;

    if (is_known && __atomic_exchange_n(&ex->texts_are_synced, true, __ATOMIC_SEQ_CST))
        return 0;
    if (syncfs(fd) == 0)
        return 0;
    __atomic_store_n(&ex->texts_are_synced, false, __ATOMIC_SEQ_CST);
    return -errno;
}

/* Syncs the sidecars of a directory's files, if it has any, and their names. */
static int sync_sidecars(v9_export *ex, const struct v9_inode *inode, int32_t fd)
{
    const int dir = v9_mapped_dir(ex, fd);
    int opened, err;

    if (dir < 0)
        return v9_sys_has_failed(dir) ? dir : 0;
    opened = v9_export_open_known(ex, dir, true, O_RDONLY | O_DIRECTORY);
    v9_budget_close(dir);
    if (opened < 0)
        return opened;
    err = sync_texts(ex, inode, opened);
    if (!err)
        err = sync_descriptor(opened, false);
    v9_budget_close(opened);
    return err;
}

static int sync_open(v9_export *ex, struct v9_inode *inode, int32_t io_fd, bool data_only)
{
    const bool more = ex->conf.model == V9_MODEL_FILE && !data_only;
    struct v9_quota_change change = {.fds = {io_fd, -1, -1}};
    int err = sync_descriptor(io_fd, data_only);

    if (!err && more)
        err = sync_sidecar(ex, inode);
    if (!err && more && S_ISDIR(inode->mode))
        err = sync_sidecars(ex, inode, io_fd);
    if (!err && ex->quota)
        err = v9_quota_change_begin(ex->quota, &change);
    if (!err && ex->quota)
        v9_quota_change_end(ex->quota, &change);
    return err;
}

int v9_p9_sync(struct v9_device *dev, struct v9_fid *fid)
{
    struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);
    int32_t io_fd = v9_fid_io(fid);
    v9_export *ex;
    int err;

    if (!inode)
        return -EBADF;
    ex = v9_inode_export(dev, inode);
    if (io_fd >= 0) {
        err = v9_lost_writes_found(&dev->fids, fid, sync_open(ex, inode, io_fd, false));
        if (err) {
            v9_upcall_promise(dev, err, P9_TWSTAT + 1, "", 0);
            v9_lost_writes_reported(&dev->fids, fid);
        }
        return err;
    }
    if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode))
        return 0;
    io_fd = v9_export_open_known(ex, inode->path_fd, inode->openable, O_RDONLY);
    if (io_fd < 0)
        return io_fd;
    err = sync_open(ex, inode, io_fd, false);
    v9_budget_close(io_fd);
    return err;
}

int v9_p9_fsync(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in), data_only = v9_in_u32(in);
    uint8_t reply[P9_HEADER_SIZE];
    struct v9_inode *inode;
    struct v9_fid *fid;
    int err;

    if (!v9_in_is_done(in))
        return -EINVAL;
    err = v9_fids_pin(&dev->fids, number, &fid);
    if (err)
        return err;
    inode = v9_fids_inode(&dev->fids, fid);
    v9_request_leave_memory(dev, r);
    err = -EBADF;
    if (v9_fid_io(fid) >= 0) {
        err = sync_open(v9_inode_export(dev, inode), inode, fid->io_fd, data_only);
        err = v9_lost_writes_found(&dev->fids, fid, err);
    }
    v9_request_use_memory(dev, r);
    if (err) {
        v9_request_promise_error(r, -err);
        v9_lost_writes_reported(&dev->fids, fid);
    }
    v9_fids_unpin(&dev->fids, fid);
    if (err)
        return err;
    v9_put_header(reply, sizeof(reply), P9_TFSYNC + 1, r->tag);
    return v9_request_reply(r, reply, sizeof(reply));
}
