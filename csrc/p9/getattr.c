/*
 * getattr: Tgetattr and Tstatfs: what a file is, and what it is on.
 */
#define _GNU_SOURCE
#include "base/refusal.h"
#include "p9/handler.h"

#include <errno.h>
#include <string.h>
#include <sys/statfs.h>

#include "fid/forget.h"
#include "fid/known_size.h"
#include "p9/lookup.h"
#include "quota/quota.h"
#include "request/reply.h"

/*
 * Decides whether the reply leaves out the size (fid/known_size.h). A client that has an inode
 * already asks for all attributes; to create an inode, it asks for fewer.
 */
static int leave_size_out(v9_export *ex, struct v9_request *r, struct v9_inode *inode,
                          uint64_t mask, struct v9_attr *a, bool *out)
{
    const uint64_t all = 0x3fff;
    struct v9_known_size known = v9_known_size_now(inode);
    int err;

    *out = false;
    if (mask == all && v9_known_size_may_know(inode, &known)) {
        *out = known.size == a->size + 1;
        if (*out)
            return 0;
        err = v9_p9_attr(ex, r, inode->path_fd, v9_inode_meta(ex, inode), a);
        if (err)
            return err;
        *out = v9_known_size_is_known(inode, &known, a->size);
    }
    if (!*out)
        v9_known_size_reported(inode, known, a->size);
    return 0;
}

int v9_p9_getattr(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    const uint64_t basic = 0x7ff, size = 0x200, btime = 0x800, gen = 0x1000;
    uint8_t reply[P9_HEADER_SIZE + 153], *at = reply;
    uint32_t number = v9_in_u32(in);
    uint64_t mask = v9_in_u64(in); /* ignored otherwise: the reply has all that one statx returns */
    struct v9_use use;
    struct v9_attr *const a = &use.attr;
    struct v9_qid qid;
    bool sizeless = false;
    int err;

    if (!v9_in_is_done(in))
        return -EINVAL;
    err = v9_p9_use_attr(dev, r, number, &use);
    if (err)
        return err;
    qid = a->qid;
    if (dev->exports[0]->conf.notifies && !v9_fids_report(&dev->fids, use.fid, &qid))
        err = v9_refuse(ENOENT, V9_REFUSED_FORGOTTEN, 0);
    else
        err = leave_size_out(v9_inode_export(dev, use.inode), r, use.inode, mask, a, &sizeless);
    v9_fids_unpin(&dev->fids, use.fid);
    if (err)
        return err;
    at = v9_put_header(at, sizeof(reply), P9_TGETATTR + 1, r->tag);
    at = v9_put(at, (sizeless ? basic & ~size : basic) | (a->has_btime ? btime | gen : 0), 8);
    at = v9_put_qid(at, &qid);
    at = v9_put(v9_put(v9_put(at, a->mode, 4), a->uid, 4), a->gid, 4);
    at = v9_put(v9_put(v9_put(at, a->nlink, 8), a->rdev, 8), a->size, 8);
    at = v9_put(v9_put(at, a->blksize, 8), a->blocks, 8);
    at = v9_put(v9_put(at, a->atime_sec, 8), a->atime_nsec, 8);
    at = v9_put(v9_put(at, a->mtime_sec, 8), a->mtime_nsec, 8);
    at = v9_put(v9_put(at, a->ctime_sec, 8), a->ctime_nsec, 8);
    at = v9_put(v9_put(at, a->btime_sec, 8), a->btime_nsec, 8);
    v9_put(v9_put(at, a->gen, 8), 0, 8); /* data_version: none on the host */
    return v9_request_reply(r, reply, sizeof(reply));
}

int v9_p9_statfs(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                 struct v9_scratch *scratch)
{
    uint8_t reply[P9_HEADER_SIZE + 60], *at = reply;
    uint32_t number = v9_in_u32(in);
    struct v9_inode *inode;
    struct v9_fid *fid;
    struct statfs st;
    uint64_t fsid;
    v9_export *ex;
    int err = v9_in_is_done(in) ? v9_p9_file(dev, r, number, &fid, &inode) : -EINVAL;

    if (err)
        return err;
    err = fstatfs(inode->path_fd, &st) < 0 ? -errno : 0;
    ex = v9_inode_export(dev, inode);
    if (!err && ex->quota)
        v9_quota_statfs(ex->quota, &st);
    v9_fids_unpin(&dev->fids, fid);
    if (err)
        return err;
    memcpy(&fsid, &st.f_fsid, sizeof(fsid));
    at = v9_put_header(at, sizeof(reply), P9_TSTATFS + 1, r->tag);
    at = v9_put(at, (uint64_t)st.f_type, 4);
    /* The counts are in units of f_frsize, and the reply has only one block size. */
    at = v9_put(at, (uint64_t)(st.f_frsize ? st.f_frsize : st.f_bsize), 4);
    at = v9_put(v9_put(v9_put(at, st.f_blocks, 8), st.f_bfree, 8), st.f_bavail, 8);
    at = v9_put(v9_put(v9_put(at, st.f_files, 8), st.f_ffree, 8), fsid, 8);
    v9_put(at, (uint64_t)st.f_namelen, 4);
    return v9_request_reply(r, reply, sizeof(reply));
}
