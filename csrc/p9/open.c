/*
 * open: Tlopen, Topen and Tclunk: a fid gets an open file, and ends.
 */
#define _GNU_SOURCE
#include "base/refusal.h"
#include "p9/handler.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "export/containment.h"
#include "export/notices.h"
#include "p9/lookup.h"
#include "p9/xattr.h"
#include "quota/change.h"
#include "request/reply.h"

/* Opens a file with the host's flags. If that truncates it, the quota gets its blocks back. */
static int reopen(v9_export *ex, const struct v9_inode *inode, int *host)
{
    const bool emptied = ex->quota && *host & O_TRUNC && S_ISREG(inode->mode);
    struct v9_quota_change change = {.fds = {inode->path_fd, -1, -1}};
    int fd, err = emptied ? v9_quota_change_begin(ex->quota, &change) : 0;

    if (err)
        return err;
    fd = v9_export_open_known(ex, inode->path_fd, inode->openable, *host);
    if (fd == -EPERM && *host & O_NOATIME)
        fd = v9_export_open_known(ex, inode->path_fd, inode->openable, *host &= ~O_NOATIME);
    if (emptied)
        v9_quota_change_end(ex->quota, &change);
    return fd;
}

/* Rlopen and Ropen have the same layout. */
static int promise_open(struct v9_request *r, const struct v9_inode *inode)
{
    uint8_t reply[P9_HEADER_SIZE + P9_QID_SIZE + 4], *at;
    const struct v9_qid qid = v9_inode_qid(inode);

    at = v9_put_header(reply, sizeof(reply), (uint8_t)(r->type + 1), r->tag);
    v9_put(v9_put_qid(at, &qid), 0, 4); /* iounit 0: as much as msize allows */
    return v9_request_promise(r, reply, sizeof(reply));
}

/* Whoever opens the stream reads what comes from now on. */
static void begin_stream(struct v9_device *dev, const struct v9_fid *fid, const v9_export *ex,
                         uint32_t flags)
{
    const struct v9_stream fresh = {
        .start = __atomic_load_n(ex->stream_end, __ATOMIC_ACQUIRE),
        .more = flags & P9_NONBLOCK ? 0 : V9_STREAM_WAITS,
    };

    pthread_mutex_lock(&dev->fids.lock);
    *v9_fids_stream(&dev->fids, fid) = fresh;
    pthread_mutex_unlock(&dev->fids.lock);
}

/* Returns the size of the reply. */
static int open_fid(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid,
                    const struct v9_inode *inode, uint32_t flags)
{
    v9_export *ex = v9_inode_export(dev, inode);
    int host = v9_sys_open_flags(flags), size, fd, err;

    if (v9_fid_io(fid) >= 0 || v9_fid_flags(fid))
        return -EBADF; /* checked before a truncation; v9_fids_open checks again */
    if (v9_notices_refreshes(ex, fid->uid))
        host = (host & ~(O_ACCMODE | O_TRUNC | O_APPEND)) | O_RDONLY;
    if (ex->conf.readonly && ((host & O_ACCMODE) != O_RDONLY || host & O_TRUNC))
        return v9_refuse(EROFS, V9_REFUSED_READONLY, 0);
    if (S_ISLNK(inode->mode))
        return -ELOOP;
    if (!S_ISREG(inode->mode) && !S_ISDIR(inode->mode))
        return v9_refuse(ENXIO, V9_REFUSED_KIND,
                         0); /* the guest never opens devices, FIFOs or sockets of the host */
    err = host & O_TRUNC ? v9_caps_drop(&ex->caps, inode->path_fd, &fid->caps_seen) : 0;
    if (err)
        return err;
    fd = reopen(ex, inode, &host);
    if (fd < 0)
        return fd;
    if (v9_notices_stream(ex, inode->st_ino))
        begin_stream(dev, fid, ex, flags);
    size = promise_open(r, inode);
    err = v9_fids_open(&dev->fids, fid, fd, host);
    if (err)
        v9_budget_close(fd);
    return err ? err : size;
}

static int open_number(struct v9_device *dev, struct v9_request *r, uint32_t number, uint32_t flags)
{
    struct v9_inode *inode;
    struct v9_fid *fid;
    int result = v9_p9_file(dev, r, number, &fid, &inode);

    if (result)
        return result;
    result = open_fid(dev, r, fid, inode, flags);
    v9_fids_unpin(&dev->fids, fid);
    return result;
}

int v9_p9_lopen(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    uint32_t number = v9_in_u32(in), flags = v9_in_u32(in);

    return v9_in_is_done(in) ? open_number(dev, r, number, flags) : -EINVAL;
}

int v9_p9_open(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *scratch)
{
    uint32_t number = v9_in_u32(in), mode = (uint32_t)v9_in_number(in, 1);
    int flags = v9_sys_open_mode(mode);

    if (!v9_in_is_done(in))
        return -EINVAL;
    return flags < 0 ? flags : open_number(dev, r, number, (uint32_t)flags);
}

int v9_p9_clunk(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    uint8_t reply[P9_HEADER_SIZE];
    uint32_t number = v9_in_u32(in);
    int err = v9_in_is_done(in) ? 0 : -EINVAL, size;

    if (err)
        return err;
    v9_put_header(reply, sizeof(reply), P9_TCLUNK + 1, r->tag);
    size = v9_request_promise(r, reply, sizeof(reply));
    err = v9_fids_remove(&dev->fids, number);
    if (err == -EBUSY)
        err = v9_p9_xattr_clunk(dev, r, number); /* Python clunks those with locks */
    return err ? err : size;
}
