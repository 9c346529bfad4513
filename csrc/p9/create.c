/*
 * create: Tlcreate, Tmkdir, Tmknod, Tsymlink: handlers that create directory entries (fs/create.c).
 *
 * The reply contains the qid of the new file, which may require a question to Python. The request
 * then runs again, but creates nothing twice: its descriptors of the new file stay in the request
 * meanwhile, and are closed with it if it is cancelled.
 */
#define _GNU_SOURCE
#include "p9/handler.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/commit.h"
#include "base/evidence.h"
#include "base/refusal.h"
#include "base/sys.h"
#include "export/containment.h"
#include "fid/enter.h"
#include "fs/created.h"
#include "p9/lookup.h"
#include "request/reply.h"

/* Pins the fid of a directory that the request changes; -EROFS where its user may not. */
static int pin_directory(struct v9_device *dev, struct v9_request *r, uint32_t number,
                         struct v9_fid **fid, struct v9_inode **inode)
{
    int err = v9_p9_file(dev, r, number, fid, inode);

    if (err)
        return err;
    err = v9_export_allows_changes(v9_inode_export(dev, *inode), (*fid)->uid);
    if (err)
        v9_fids_unpin(&dev->fids, *fid);
    return err;
}

/* Reads the attributes of the new file, of which the request has a descriptor. */
static int read_attr(v9_export *ex, struct v9_request *r, struct v9_attr *attr)
{
    const int fd = r->created.path_fd;

    return v9_p9_question(r, fd, attr, v9_attr_read_created(ex, fd, "", &r->created, attr));
}

/* What was created has just been looked at. */
static void note_seen(v9_export *ex, const struct v9_inode *dir, const char *name,
                      const struct v9_attr *attr)
{
    if (v9_export_keeps_numbers(ex, attr->st_dev))
        v9_evidence_leads(dir->path_fd, name, attr->st_dev, attr->st_ino);
}

static bool is_question(int err)
{
    return err == -V9_NO_DEVICE || err == -V9_NO_GROUP;
}

/* ---- Tlcreate -------------------------------------------------------------------------------- */

static int promise_create(struct v9_request *r, const struct v9_attr *attr)
{
    uint8_t reply[P9_HEADER_SIZE + P9_QID_SIZE + 4], *at;

    at = v9_put_header(reply, sizeof(reply), P9_TLCREATE + 1, r->tag);
    v9_put(v9_put_qid(at, &attr->qid), 0, 4); /* iounit 0: as much as msize allows */
    return v9_request_promise(r, reply, sizeof(reply));
}

/* Keeps the descriptors in the request, also for a successor of this process. */
static void hold(struct v9_request *r, const struct v9_created *made, uint32_t export)
{
    struct v9_created held = *made;

    held.path_fd = -1; /* last: it says that the others are there */
    r->created_in = export;
    r->created = held;
    V9_COMMIT();
    r->created.path_fd = made->path_fd;
}

/* A process that died may have undone what it had created: then it is created anew. */
static void forget_undone(struct v9_request *r, const struct v9_inode *dir, const char *name)
{
    if (r->again && r->created.path_fd >= 0 && r->created_in == dir->export &&
        v9_export_is_entry(r->created.path_fd, dir->path_fd, name) == 0)
        v9_created_close(&r->created);
}

/* A file that was there already loses its content. */
static int truncate_found(v9_export *ex, const struct v9_created *found, const struct v9_new *as)
{
    const struct v9_setattr to = {.valid = V9_SETATTR_SIZE};
    const bool writes = (found->io_flags & O_ACCMODE) != O_RDONLY;

    if (found->is_new || !(v9_sys_open_flags(as->flags) & O_TRUNC))
        return 0;
    return v9_setattr(ex, found->path_fd, found->meta_fd, writes ? found->io_fd : -1, &to);
}

/* Has the fid of the directory stand for the file, which loses its content once nothing else can
 * fail. Returns the size of the reply. */
static int become(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid, const char *name,
                  const struct v9_new *as, const struct v9_attr *attr)
{
    struct v9_fid_room room;
    int size, err = v9_fids_reserve(&dev->fids, fid, &r->created, r->created_in, attr, &room);

    if (err)
        return err;
    err = truncate_found(dev->exports[r->created_in], &r->created, as);
    if (err) {
        v9_fids_leave_room(&dev->fids, &room);
        return err;
    }
    size = promise_create(r, attr);
    err = v9_fids_become(&dev->fids, &room, name, &r->created);
    return err ? err : size;
}

/* Returns the size of the reply. */
static int create(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid,
                  const struct v9_inode *inode, const char *name, const struct v9_new *as)
{
    v9_export *ex = v9_inode_export(dev, inode);
    struct v9_created made;
    struct v9_attr attr;
    int err = 0;

    if (v9_fid_io(fid) >= 0 || v9_fid_flags(fid))
        return -EBADF; /* open, or in use for xattrs or locks */
    forget_undone(r, inode, name);
    if (r->created.path_fd < 0) {
        err = v9_create(ex, inode->path_fd, name, as, &made);
        if (!err)
            hold(r, &made, inode->export);
    } else if (r->created_in != inode->export) {
        err = -EBADF; /* the fid was reused for another file meanwhile */
    }
    if (!err)
        err = read_attr(ex, r, &attr);
    if (!err && r->created.is_new)
        note_seen(ex, inode, name, &attr);
    if (!err)
        err = become(dev, r, fid, name, as, &attr);
    if (err > 0)
        v9_created_forget(&r->created);
    else if (!is_question(err) && r->created_in == inode->export)
        v9_create_undo(ex, inode->path_fd, name, V9_NEW_FILE, &r->created);
    return err;
}

int v9_p9_lcreate(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    struct v9_new as = {.kind = V9_NEW_FILE};
    uint32_t number = v9_in_u32(in);
    char name[V9_NAME_SIZE];
    struct v9_inode *inode;
    struct v9_fid *fid;
    int err = v9_p9_take_name(in, EEXIST, name);

    as.flags = v9_in_u32(in);
    as.mode = v9_in_u32(in);
    as.gid = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    if (!err)
        err = pin_directory(dev, r, number, &fid, &inode);
    if (err)
        return err;
    as.uid = fid->uid;
    err = create(dev, r, fid, inode, name, &as);
    v9_fids_unpin(&dev->fids, fid);
    return err;
}

/* ---- Tmkdir, Tmknod, Tsymlink ---------------------------------------------------------------- */

/* Keeps a descriptor of the new file in the request, while Python is asked about it. */
static int hold_created(struct v9_request *r, v9_export *ex, const struct v9_inode *inode,
                        const char *name, struct v9_created *created)
{
    v9_export *where = ex;
    int fd = v9_export_step(&where, V9_NO_ID, inode->path_fd, name);

    if (fd < 0)
        return fd;
    created->path_fd = fd;
    hold(r, created, inode->export);
    return 0;
}

/* Creates an entry and reads its attributes. */
static int create_in(v9_export *ex, struct v9_request *r, const struct v9_inode *inode,
                     const char *name, const struct v9_new *as, struct v9_attr *attr)
{
    struct v9_created created;
    int err = v9_create(ex, inode->path_fd, name, as, &created);

    if (err)
        return err;
    err = v9_attr_read_created(ex, inode->path_fd, name, &created, attr);
    if (!err)
        note_seen(ex, inode, name, attr);
    if (is_question(err))
        err = hold_created(r, ex, inode, name, &created);
    if (!err && r->created.path_fd >= 0)
        err = read_attr(ex, r, attr);
    if (err && !is_question(err))
        v9_create_undo(ex, inode->path_fd, name, as->kind, &created);
    return err;
}

/* Reads the attributes of what was created before Python was asked. */
static int finish_entry(v9_export *ex, struct v9_request *r, const struct v9_inode *inode,
                        const char *name, const struct v9_new *as, struct v9_attr *attr)
{
    const int err = read_attr(ex, r, attr);

    if (err && !is_question(err) && inode->export == r->created_in)
        v9_create_undo(ex, inode->path_fd, name, as->kind, &r->created);
    return err;
}

static int create_entry(struct v9_device *dev, struct v9_request *r, uint32_t number,
                        const char *name, struct v9_new *as, struct v9_attr *attr)
{
    struct v9_inode *inode;
    struct v9_fid *fid;
    int err = pin_directory(dev, r, number, &fid, &inode);

    /* The directory's fid may be gone meanwhile. */
    if (err && !is_question(err) && r->created.path_fd >= 0)
        return read_attr(dev->exports[r->created_in], r, attr);
    if (err)
        return err;
    forget_undone(r, inode, name);
    as->uid = fid->uid;
    if (r->created.path_fd >= 0)
        err = finish_entry(dev->exports[r->created_in], r, inode, name, as, attr);
    else
        err = create_in(v9_inode_export(dev, inode), r, inode, name, as, attr);
    v9_fids_unpin(&dev->fids, fid);
    return err;
}

/* Rmkdir, Rmknod and Rsymlink have the same layout. */
static int create_and_reply(struct v9_device *dev, struct v9_request *r, uint32_t number,
                            const char *name, struct v9_new *as)
{
    uint8_t reply[P9_HEADER_SIZE + P9_QID_SIZE];
    struct v9_attr attr;
    int err = create_entry(dev, r, number, name, as, &attr);

    if (err)
        return err;
    v9_put_qid(v9_put_header(reply, sizeof(reply), (uint8_t)(r->type + 1), r->tag), &attr.qid);
    return v9_request_reply(r, reply, sizeof(reply));
}

int v9_p9_mkdir(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    struct v9_new as = {.kind = V9_NEW_DIR};
    uint32_t number = v9_in_u32(in);
    char name[V9_NAME_SIZE];
    int err = v9_p9_take_name(in, EEXIST, name);

    as.mode = v9_in_u32(in);
    as.gid = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    return err ? err : create_and_reply(dev, r, number, name, &as);
}

int v9_p9_mknod(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    struct v9_new as = {.kind = V9_NEW_SPECIAL};
    uint32_t number = v9_in_u32(in);
    char name[V9_NAME_SIZE];
    int err = v9_p9_take_name(in, EEXIST, name);

    as.mode = v9_in_u32(in);
    as.major = v9_in_u32(in);
    as.minor = v9_in_u32(in);
    as.gid = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    return err ? err : create_and_reply(dev, r, number, name, &as);
}

int v9_p9_symlink(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    struct v9_new as = {.kind = V9_NEW_LINK};
    char *const target = (char *)scratch->dents;
    uint32_t number = v9_in_u32(in);
    char name[V9_NAME_SIZE];
    const char *bytes;
    uint16_t size;
    int err = v9_p9_take_name(in, EEXIST, name);

    _Static_assert(sizeof(scratch->dents) > V9_REQUEST_DATA, "a target is part of a message");
    bytes = v9_in_string(in, &size);
    as.gid = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    if (!err && memchr(bytes, 0, size))
        err = -EINVAL;
    if (err)
        return err;
    memcpy(target, bytes, size);
    target[size] = 0;
    as.target = target;
    return create_and_reply(dev, r, number, name, &as);
}
