/*
 * setattr: Tsetattr (fs/setattr.c).
 *
 * A *refresh* is a Tsetattr that changes nothing on the host, and always succeeds
 * (export/notices.h). The client's kernel takes it for a change by one of its own processes: it
 * reports that to whoever watches the file, and reads the attributes again. A refresh needs no
 * descriptor of the file, and no look at its name, which the file may have lost.
 */
#define _GNU_SOURCE
#include "p9/setattr.h"

#include <errno.h>
#include <fcntl.h>

#include "base/refusal.h"
#include "export/notices.h"
#include "fid/forget.h"
#include "fid/known_size.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/reply.h"

enum { METADATA = V9_SETATTR_UID | V9_SETATTR_GID | V9_SETATTR_MODE };

/* The fid's own descriptor if that can write: permission was checked when it was opened, and the
 * file's mode may forbid writing now. -1: none. */
static int32_t writable_io(const struct v9_fid *fid)
{
    const int32_t io_fd = v9_fid_io(fid);

    return io_fd >= 0 && (fid->io_flags & O_ACCMODE) != O_RDONLY ? io_fd : -1;
}

/* Whether the time of modification is set to one of these seconds. */
static bool is_time_of_refresh(const struct v9_setattr *to)
{
    return to->valid & V9_SETATTR_MTIME_SET &&
           (to->mtime_sec == V9_REFRESH_MTIME || to->mtime_sec == V9_RENEW_MTIME ||
            to->mtime_sec == V9_FORGET_MTIME);
}

/* Whether a change by a fid is none, but a refresh. */
static bool is_refresh(const v9_export *ex, const struct v9_fid *fid, const struct v9_setattr *to)
{
    const uint32_t beside = V9_SETATTR_ATIME | V9_SETATTR_ATIME_SET | V9_SETATTR_CTIME;

    if (!ex->conf.notifies)
        return false;
    return v9_notices_refreshes(ex, fid->uid) ||
           ((to->valid & ~beside) == (V9_SETATTR_MTIME | V9_SETATTR_MTIME_SET) &&
            is_time_of_refresh(to));
}

static void refresh(struct v9_device *dev, const struct v9_fid *fid, struct v9_inode *inode,
                    const struct v9_setattr *to)
{
    if (to->valid & V9_SETATTR_SIZE)
        v9_known_size_pretended(inode);
    if (!is_time_of_refresh(to))
        return;
    if (to->mtime_sec == V9_FORGET_MTIME)
        v9_fids_forget(&dev->fids, fid);
    if (to->mtime_sec == V9_RENEW_MTIME && v9_notices_are(v9_inode_export(dev, inode)))
        v9_fids_renew(&dev->fids);
}

/* Pins the fid that is to be changed: for a refresh, whatever has become of its file. */
static int pin(struct v9_device *dev, struct v9_request *r, uint32_t number,
               const struct v9_setattr *to, struct v9_fid **fid)
{
    struct v9_inode *inode;
    int err;

    if (dev->exports[0]->conf.notifies) {
        err = v9_fids_pin_evicted(&dev->fids, number, fid);
        if (err)
            return err;
        inode = v9_fids_inode(&dev->fids, *fid);
        if (inode && is_refresh(v9_inode_export(dev, inode), *fid, to))
            return 0;
        v9_fids_unpin(&dev->fids, *fid);
    }
    return v9_p9_file(dev, r, number, fid, &inode);
}

int v9_p9_change(struct v9_device *dev, const struct v9_fid *fid, const struct v9_setattr *to)
{
    struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);
    v9_export *ex;
    int32_t meta_fd;
    int err;

    if (!inode)
        return -EBADF;
    ex = v9_inode_export(dev, inode);
    if (is_refresh(ex, fid, to)) {
        refresh(dev, fid, inode, to);
        return 0;
    }
    if (ex->conf.readonly)
        return v9_refuse(EROFS, V9_REFUSED_READONLY, 0);
    meta_fd = v9_inode_meta(ex, inode);
    if (to->valid & V9_SETATTR_SIZE)
        v9_known_size_changing(inode);
    err = v9_setattr(ex, inode->path_fd, meta_fd, writable_io(fid), to);
    if (meta_fd < 0 && to->valid & METADATA)
        v9_inode_meta(ex, inode); /* which the file may have now, and keeps without a name */
    if (to->valid & V9_SETATTR_SIZE && !err)
        v9_known_size_resized(inode, to->size);
    else if (to->valid & V9_SETATTR_SIZE)
        v9_known_size_changed_nothing(inode);
    return err;
}

int v9_p9_setattr(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in);
    uint8_t reply[P9_HEADER_SIZE];
    struct v9_setattr to;
    struct v9_fid *fid;
    int err;

    to.valid = v9_in_u32(in);
    to.mode = v9_in_u32(in);
    to.uid = v9_in_u32(in);
    to.gid = v9_in_u32(in);
    to.size = v9_in_u64(in);
    to.atime_sec = v9_in_u64(in);
    to.atime_nsec = v9_in_u64(in);
    to.mtime_sec = v9_in_u64(in);
    to.mtime_nsec = v9_in_u64(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    err = pin(dev, r, number, &to, &fid);
    if (err)
        return err;
    err = v9_p9_change(dev, fid, &to);
    v9_fids_unpin(&dev->fids, fid);
    if (err)
        return err;
    v9_put_header(reply, sizeof(reply), P9_TSETATTR + 1, r->tag);
    return v9_request_reply(r, reply, sizeof(reply));
}
