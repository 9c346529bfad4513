/*
 * xattr: extended attributes: Txattrwalk, Txattrcreate, and Tread, Twrite, Tclunk of their fids.
 *
 * A guest reads an attribute, or the list of names, through a fid from Txattrwalk, and writes one
 * through a fid that Txattrcreate converts. Tclunk sets the value, so its error is the result.
 * Until then the fid has the value (fid/xattr_value.h).
 *
 * Removal has no message of its own: Linux's client sends size 0 with XATTR_REPLACE, as it would to
 * replace a value with an empty one. An empty value with other flags is set.
 */
#define _GNU_SOURCE
#include "p9/xattr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/refusal.h"
#include "fid/enter.h"
#include "fs/xattr.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/reply.h"
#include "virtio/iov.h"

enum { SHORT = 256 }; /* bytes: longer values and lists take a second system call */

static int copy_name(const char *bytes, uint16_t size, char name[V9_XATTR_NAME])
{
    if (!size || memchr(bytes, 0, size))
        return -EINVAL;
    if (size >= V9_XATTR_NAME)
        return -ERANGE;
    memcpy(name, bytes, size);
    name[size] = 0;
    return 0;
}

/* ---- Txattrwalk ------------------------------------------------------------------------------ */

/* A value, or for the empty name the list of names, in so much room. */
static int get(const v9_export *ex, int32_t fd, const char *name, uint8_t *bytes, size_t room)
{
    if (name[0])
        return v9_xattr_get(ex, fd, name, bytes, room);
    return v9_xattr_list(ex, fd, (char *)bytes, room < XATTR_LIST_MAX ? room : XATTR_LIST_MAX);
}

/* Returns the size of what it reads, or -errno. */
static int read_value(struct v9_device *dev, const struct v9_inode *inode, const char *name,
                      struct v9_xattr_value **value)
{
    const v9_export *ex = v9_inode_export(dev, inode);
    uint8_t few[SHORT], *bytes = few;
    int size = get(ex, inode->path_fd, name, few, sizeof(few));

    if (size == -ERANGE) {
        bytes = malloc(V9_XATTR_ROOM);
        size = bytes ? get(ex, inode->path_fd, name, bytes, V9_XATTR_ROOM) : -ENOMEM;
    }
    if (size >= 0) {
        *value = v9_xattr_value_new(&dev->fids.values, bytes, (uint32_t)size);
        size = *value ? size : -ENOMEM;
    }
    if (bytes != few)
        free(bytes);
    return size;
}

/* Enters newfid for an attribute of a file, or for the list of names; the size of the reply. */
static int enter_newfid(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid,
                        const struct v9_inode *inode, uint32_t newfid, const char *name)
{
    struct v9_fid_new as = {.number = newfid, .uid = fid->uid, .io_fd = -1};
    uint8_t reply[P9_HEADER_SIZE + 8];
    int err, size = read_value(dev, inode, name, &as.value);

    if (size < 0)
        return size;
    v9_put(v9_put_header(reply, sizeof(reply), P9_TXATTRWALK + 1, r->tag), (uint64_t)size, 8);
    size = v9_request_promise(r, reply, sizeof(reply));
    err = v9_fids_enter(&dev->fids, &as, NULL, NULL);
    if (err)
        v9_xattr_value_free(as.value);
    return err ? err : size;
}

int v9_p9_xattrwalk(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                    struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in), newfid = v9_in_u32(in);
    char name[V9_XATTR_NAME] = "";
    struct v9_inode *inode;
    struct v9_fid *fid;
    const char *bytes;
    uint16_t length;
    int size;

    bytes = v9_in_string(in, &length);
    size = v9_in_is_done(in) ? v9_p9_file(dev, r, number, &fid, &inode) : -EINVAL;
    if (size)
        return size;
    if (length)
        size = copy_name(bytes, length, name);
    if (!size)
        size = enter_newfid(dev, r, fid, inode, newfid, name);
    v9_fids_unpin(&dev->fids, fid);
    return size;
}

/* ---- Txattrcreate ---------------------------------------------------------------------------- */

/* Has a pinned fid stand for a value of so many bytes, to be written. Returns the reply's size. */
static int announce(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid,
                    const char *name, uint64_t size, uint32_t flags)
{
    uint8_t reply[P9_HEADER_SIZE];
    struct v9_xattr_value *value;
    int err, written;

    if (size > XATTR_SIZE_MAX)
        return -E2BIG;
    if (flags & ~(uint32_t)(XATTR_CREATE | XATTR_REPLACE))
        return -EINVAL;
    value = v9_xattr_value_announce(&dev->fids.values, name, (uint32_t)size, (int)flags);
    if (!value)
        return -ENOMEM;
    v9_put_header(reply, sizeof(reply), P9_TXATTRCREATE + 1, r->tag);
    written = v9_request_promise(r, reply, sizeof(reply));
    err = v9_fids_set_value(&dev->fids, fid, value);
    if (err)
        v9_xattr_value_free(value);
    return err ? err : written;
}

int v9_p9_xattrcreate(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                      struct v9_scratch *scratch)
{
    const uint32_t number = v9_in_u32(in);
    char name[V9_XATTR_NAME];
    struct v9_inode *inode;
    struct v9_fid *fid;
    const char *bytes;
    uint16_t length;
    uint64_t size;
    uint32_t flags;
    int err;

    bytes = v9_in_string(in, &length);
    size = v9_in_u64(in);
    flags = v9_in_u32(in);
    err = v9_in_is_done(in) ? v9_p9_file(dev, r, number, &fid, &inode) : -EINVAL;
    if (err)
        return err;
    err = v9_export_allows_changes(v9_inode_export(dev, inode), fid->uid);
    if (!err && (v9_fid_io(fid) >= 0 || v9_fid_flags(fid)))
        err = -EBADF;
    if (!err)
        err = copy_name(bytes, length, name);
    if (!err)
        err = announce(dev, r, fid, name, size, flags);
    v9_fids_unpin(&dev->fids, fid);
    return err;
}

/* ---- Tread, Twrite, Tclunk ------------------------------------------------------------------- */

int v9_p9_xattr_read(const struct v9_request *r, const struct v9_fid *fid, uint64_t offset,
                     uint32_t count)
{
    const struct v9_xattr_value *value = fid->value;
    const uint64_t rest = offset < value->size ? value->size - offset : 0;

    if (value->name)
        return -EBADF;
    if (!rest)
        return 0;
    return (int)v9_iov_scatter(r->chain.iov + r->chain.readable_count, r->chain.writable_count,
                               P9_IO_SIZE, value->data + offset, count < rest ? count : rest);
}

/* The data is copied out of the guest's memory first: that may hang, and no lock is held. */
int v9_p9_xattr_write(const struct v9_request *r, const struct v9_fid *fid, uint64_t offset,
                      uint32_t count, struct v9_scratch *scratch)
{
    const size_t got =
        v9_iov_gather(r->chain.iov, r->chain.readable_count, P9_TWRITE_SIZE, scratch->reply, count);
    int err;

    if (r->again && v9_xattr_value_ends_at(fid->value, offset + count))
        return (int)count; /* a process that died has written it */
    err = got == count ? v9_xattr_value_append(fid->value, offset, scratch->reply, count) : -EINVAL;
    return err ? err : (int)count;
}

/* Whether a process that died has created, or removed, the attribute for this request. */
static bool was_done(const v9_export *ex, const struct v9_inode *inode, const char *name)
{
    uint8_t few[SHORT];
    int size;

    v9_evidence_toggle(inode->path_fd, name);
    size = v9_xattr_get(ex, inode->path_fd, name, few, sizeof(few));
    if (size < 0 && size != -ERANGE && size != -ENODATA) {
        v9_evidence_outcome(0);
        return false; /* nobody knows */
    }
    return v9_evidence_toggled(size != -ENODATA);
}

/* Sets, or removes, the attribute of a fid that ends. */
static int set_value(struct v9_device *dev, const struct v9_fid *fid)
{
    struct v9_xattr_value *value = fid->value;
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);
    v9_export *ex = v9_inode_export(dev, inode);

    if (!v9_xattr_value_is_complete(value))
        return -EINVAL;
    if (value->flags && was_done(ex, inode, value->name))
        return 0;
    if (!value->size && value->flags == XATTR_REPLACE)
        return v9_evidence_outcome(v9_xattr_remove(ex, inode->path_fd, value->name));
    return v9_evidence_outcome(
        v9_xattr_set(ex, inode->path_fd, value->name, value->data, value->size, value->flags));
}

int v9_p9_xattr_clunk(struct v9_device *dev, struct v9_request *r, uint32_t number)
{
    struct v9_fids *fids = &dev->fids;
    struct v9_fid *fid, *again;
    int restored, err = v9_fids_pin_evicted(fids, number, &fid);

    if (err)
        return err;
    if (!v9_p9_is_xattr(fid)) {
        v9_fids_unpin(fids, fid);
        return -V9_NOT_OURS;
    }
    restored = v9_fids_pin(fids, number, &again);
    err = v9_fids_begin_end(fids, v9_fids_handle(fids, fid)); /* of two clunks one sets it */
    if (!err) {
        err = restored ? restored : set_value(dev, fid);
        if (err)
            v9_request_promise_error(r, -err);
        v9_fids_remove_handle(fids, v9_fids_handle(fids, fid)); /* or the session has ended */
    }
    if (!restored)
        v9_fids_unpin(fids, again);
    v9_fids_unpin(fids, fid);
    return err;
}
