/*
 * names: Tlink, Tunlinkat, Trename, Trenameat: requests that change names (fs/names.c). Tremove and
 * requests of 9P2000.u that end in the same are Python's, and call what is in names.h.
 */
#define _GNU_SOURCE
#include "p9/names.h"

#include <errno.h>

#include "base/evidence.h"
#include "base/refusal.h"
#include "fid/renames.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/reply.h"

enum { P9_AT_REMOVEDIR = 0x200 };

/* ---- changes --------------------------------------------------------------------------------- */

/* Whether the files of both fids may be changed by one request. */
static int check(struct v9_device *dev, const struct v9_fid *fid, const struct v9_fid *other)
{
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);
    const struct v9_inode *beside = v9_fids_inode(&dev->fids, other);
    int err;

    if (!inode || !beside)
        return -EBADF;
    if (inode->export != beside->export)
        return v9_refuse(EXDEV, V9_REFUSED_EXPORTS, 0);
    err = v9_export_allows_changes(v9_inode_export(dev, inode), fid->uid);
    return err ? err : v9_export_allows_changes(v9_inode_export(dev, beside), other->uid);
}

int v9_p9_add_name(struct v9_device *dev, const struct v9_fid *fid, const struct v9_fid *into,
                   const char *name)
{
    const struct v9_inode *dir = v9_fids_inode(&dev->fids, into);
    int err = check(dev, fid, into);
    struct v9_inode *inode;
    v9_export *ex;

    if (err)
        return err;
    inode = v9_fids_inode(&dev->fids, fid);
    ex = v9_inode_export(dev, inode);
    err = v9_link_file(ex, inode->path_fd, v9_inode_meta(ex, inode), dir->path_fd, name);
    if (!err && v9_export_keeps_numbers(ex, inode->st_dev))
        v9_evidence_leads(dir->path_fd, name, inode->st_dev, inode->st_ino);
    return err;
}

int v9_p9_move_name(struct v9_device *dev, const struct v9_fid *fid, const char *old,
                    const struct v9_fid *into, const char *new)
{
    const int err = check(dev, fid, into ? into : fid);

    return err ? err : v9_renames_entry(&dev->fids, fid, old, into, new);
}

int v9_p9_remove_name(struct v9_device *dev, const struct v9_fid *fid)
{
    int err = check(dev, fid, fid);

    if (!err && v9_fid_flags(fid) & V9_FID_XATTR)
        err = -EBADF; /* it stands for an extended attribute */
    return err ? err : v9_renames_remove(&dev->fids, fid);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Rlink, Runlinkat, Rrename and Rrenameat are empty. */
static int reply(struct v9_request *r, int err)
{
    uint8_t header[P9_HEADER_SIZE];

    if (err)
        return err;
    v9_put_header(header, sizeof(header), (uint8_t)(r->type + 1), r->tag);
    return v9_request_reply(r, header, sizeof(header));
}

/* Decodes the last field, a name, and pins the directory that it is for. */
static int begin(struct v9_device *dev, struct v9_request *r, struct v9_in *in, uint32_t directory,
                 int dots, char name[V9_NAME_SIZE], struct v9_fid **into)
{
    const int err = v9_p9_take_name(in, dots, name);
    struct v9_inode *inode;

    if (!v9_in_is_done(in))
        return -EINVAL;
    return err ? err : v9_p9_file(dev, r, directory, into, &inode);
}

int v9_p9_link(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *scratch)
{
    const uint32_t directory = v9_in_u32(in), number = v9_in_u32(in);
    struct v9_fid *into, *fid;
    struct v9_inode *inode;
    char name[V9_NAME_SIZE];
    int err = begin(dev, r, in, directory, EEXIST, name, &into);

    if (err)
        return err;
    err = v9_p9_file(dev, r, number, &fid, &inode);
    if (!err) {
        err = v9_p9_add_name(dev, fid, into, name);
        v9_fids_unpin(&dev->fids, fid);
    }
    v9_fids_unpin(&dev->fids, into);
    return reply(r, err);
}

int v9_p9_unlinkat(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                   struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in);
    struct v9_inode *inode;
    char name[V9_NAME_SIZE];
    struct v9_fid *fid;
    uint32_t flags;
    int err = v9_p9_take_name(in, EINVAL, name);

    flags = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    if (!err)
        err = v9_p9_file(dev, r, number, &fid, &inode);
    if (err)
        return err;
    err = check(dev, fid, fid);
    if (!err && flags & ~(uint32_t)P9_AT_REMOVEDIR)
        err = -EINVAL;
    if (!err)
        err = v9_renames_unlink(&dev->fids, fid, name, flags != 0);
    v9_fids_unpin(&dev->fids, fid);
    return reply(r, err);
}

int v9_p9_rename(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                 struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in), directory = v9_in_u32(in);
    struct v9_fid *fid, *into;
    char name[V9_NAME_SIZE];
    int err = begin(dev, r, in, directory, EBUSY, name, &into);

    if (err)
        return err;
    err = v9_p9_own_file(dev, r, number, &fid);
    if (!err) {
        err = v9_p9_move_name(dev, fid, "", into, name);
        v9_fids_unpin(&dev->fids, fid);
    }
    v9_fids_unpin(&dev->fids, into);
    return reply(r, err);
}

/* Usually both directories are one, which is pinned once. */
int v9_p9_renameat(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                   struct v9_scratch *scratch)
{
    const uint32_t from = v9_in_u32(in);
    char old[V9_NAME_SIZE], new[V9_NAME_SIZE];
    int err = v9_p9_take_name(in, EBUSY, old), wrong;
    struct v9_fid *olddir, *newdir;
    const uint32_t to = v9_in_u32(in);
    struct v9_inode *inode;

    wrong = v9_p9_take_name(in, EBUSY, new);
    if (!v9_in_is_done(in))
        return -EINVAL;
    if (err || wrong)
        return err ? err : wrong;
    err = v9_p9_file(dev, r, from, &olddir, &inode);
    if (err)
        return err;
    newdir = olddir;
    if (to != from)
        err = v9_p9_file(dev, r, to, &newdir, &inode);
    if (!err) {
        err = v9_p9_move_name(dev, olddir, old, newdir, new);
        if (to != from)
            v9_fids_unpin(&dev->fids, newdir);
    }
    v9_fids_unpin(&dev->fids, olddir);
    return reply(r, err);
}
