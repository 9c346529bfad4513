/*
 * io: Tread and Twrite.
 *
 * preadv and pwritev on the chain's own segments move data between the file and guest memory.
 * Those of an extended attribute's fid are in p9/xattr.c; Python answers reads of the stream
 * (export/notices.h), and of directories in 9P2000.u.
 */
#define _GNU_SOURCE
#include "base/refusal.h"
#include "p9/handler.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/evidence.h"
#include "base/key_lock.h"
#include "export/containment.h"
#include "export/notices.h"
#include "fid/known_size.h"
#include "mapped/mapped.h"
#include "p9/xattr.h"
#include "quota/quota.h"
#include "request/rate_queue.h"
#include "request/reply.h"
#include "virtio/iov.h"

/* The first fields of Tread and Twrite: fid[4] offset[8] count[4]. */
struct transfer {
    struct v9_fid *fid; /* pinned; open, or one of an extended attribute */
    uint64_t offset;
    uint32_t count;
};

/* Decodes them and pins the fid: 0 or -errno. */
static int begin_transfer(struct v9_device *dev, struct v9_in *in, struct transfer *t)
{
    uint32_t number = v9_in_u32(in);
    int err;

    t->offset = v9_in_u64(in);
    t->count = v9_in_u32(in);
    if (!v9_in_is_done(in) || t->offset > INT64_MAX)
        return -EINVAL;
    err = v9_fids_pin(&dev->fids, number, &t->fid);
    if (err)
        return err;
    err = v9_p9_is_xattr(t->fid) || v9_fid_io(t->fid) >= 0 ? 0 : -EBADF;
    if (err)
        v9_fids_unpin(&dev->fids, t->fid);
    return err;
}

/* Reads into a request's reply. Returns the number of bytes, or -errno. */
static int get_data(const struct v9_request *r, const struct transfer *t, struct iovec *slice)
{
    uint32_t pieces = v9_iov_slice(r->chain.iov + r->chain.readable_count, r->chain.writable_count,
                                   P9_IO_SIZE, t->count, slice);
    ssize_t got;

    do
        got = preadv(t->fid->io_fd, slice, (int)pieces, (off_t)t->offset);
    while (got < 0 && errno == EINTR);
    return got < 0 ? -errno : (int)got;
}

/* Reads what a fid has. Returns the number of bytes, or a handler's other results. */
static int read_fid(struct v9_device *dev, struct v9_request *r, const struct transfer *t,
                    struct iovec *slice)
{
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, t->fid);
    int err;

    if (v9_p9_is_xattr(t->fid))
        return v9_p9_xattr_read(r, t->fid, t->offset, t->count);
    if ((r->dialect == V9_9P2000U && S_ISDIR(inode->mode)) ||
        v9_notices_stream(v9_inode_export(dev, inode), inode->st_ino))
        return -V9_NOT_OURS;
    err = v9_rate_queue_admit(dev, v9_inode_export(dev, inode), r, t->count);
    return err ? err : get_data(r, t, slice);
}

int v9_p9_read(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *scratch)
{
    uint8_t header[P9_IO_SIZE];
    struct transfer t;
    int got, err = begin_transfer(dev, in, &t);

    if (err)
        return err;
    if (t.count > dev->msize - P9_IO_SIZE)
        t.count = dev->msize - P9_IO_SIZE;
    got = read_fid(dev, r, &t, scratch->slice);
    v9_fids_unpin(&dev->fids, t.fid);
    if (got < 0)
        return got;
    v9_put_header(header, P9_IO_SIZE + (uint32_t)got, P9_TREAD + 1, r->tag);
    v9_put(header + P9_HEADER_SIZE, (uint64_t)got, 4);
    v9_request_reply(r, header, sizeof(header));
    return P9_IO_SIZE + got;
}

/*
 * Removes set-id bits before a write by anybody but root, as write(2) does for a process without
 * CAP_FSETID. The host's kernel may keep them, since the daemon may have that capability, and
 * clients before Linux 6.4 leave it to the server. The bits are removed before data is written, so
 * that nobody can run the new data as the file's owner.
 */
static int drop_set_ids(v9_export *ex, const struct v9_fid *fid, struct v9_inode *inode)
{
    const uint32_t own_uid = UINT32_MAX;
    struct v9_mapped mapped = {0};
    int32_t meta = -1;
    struct stat st;
    uint32_t bits;
    int err;

    if (fid->uid == 0 || fid->uid == own_uid)
        return 0;
    if (ex->conf.model != V9_MODEL_HOST) {
        meta = v9_inode_meta(ex, inode);
        err = v9_mapped_read(ex, fid->io_fd, "", meta, V9_HAS_MODE, &mapped);
        if (err)
            return err;
    }
    if (mapped.has & V9_HAS_MODE)
        return v9_mapped_set_ids(mapped.mode)
                   ? v9_mapped_write(ex, fid->io_fd, meta, &(struct v9_mapped){V9_NO_SET_IDS})
                   : 0;
    if (fstat(fid->io_fd, &st) < 0)
        return -errno;
    bits = v9_mapped_set_ids(st.st_mode);
    return bits && fchmod(fid->io_fd, st.st_mode & 07777 & ~bits) < 0 ? -errno : 0;
}

/*
 * Starts write-out of the data just written to the host's disk, after waiting for any write-out of
 * the same pages that is under way (sync_file_range(2)). So dirty data does not stay in the host's
 * page cache for long. The position of appended data is unknown, so the whole file is written out.
 * An error belongs to data written before; it is returned here because a later fsync would not
 * report it again.
 */
static int write_out(const struct transfer *t, int put)
{
    const bool anywhere = t->fid->io_flags & O_APPEND;

    if (sync_file_range(t->fid->io_fd, anywhere ? 0 : (off_t)t->offset, anywhere ? 0 : put,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE) < 0)
        return -errno;
    return put;
}

/*
 * Appends. What the evidence shows are the open file's position and the file's size, which every
 * append to the file changes: so one at a time is made, until the evidence has what has become of
 * it. One that hangs holds up those to the same file, as it would in the host's kernel.
 */
static ssize_t append(const struct transfer *t, const struct v9_inode *inode,
                      const struct iovec *slice, int pieces)
{
    struct v9_key_lock lock = {.key = {(uintptr_t)inode, V9_KEY_APPEND}};
    ssize_t put;

    v9_key_lock(&lock, 1);
    put = v9_evidence_grown(t->fid->io_fd, t->count);
    if (!put) {
        v9_evidence_append(t->fid->io_fd);
        do
            put = writev(t->fid->io_fd, slice, pieces);
        while (put < 0 && errno == EINTR);
        put = put < 0 ? -errno : put;
    }
    v9_evidence_append_ends(put);
    v9_key_unlock(&lock, 1);
    return put;
}

/* Returns the number of bytes, or -errno. */
static ssize_t write_slice(const struct transfer *t, const struct v9_inode *inode,
                           const struct iovec *slice, int pieces)
{
    ssize_t put;

    if (t->fid->io_flags & O_APPEND)
        return append(t, inode, slice, pieces);
    do
        put = pwritev(t->fid->io_fd, slice, pieces, (off_t)t->offset);
    while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : put;
}

/* Writes a request's data. Returns the number of bytes, or -errno. */
static int put_data(v9_export *ex, const struct v9_request *r, const struct transfer *t,
                    struct v9_inode *inode, struct iovec *slice)
{
    uint32_t pieces;
    ssize_t put;
    int err = drop_set_ids(ex, t->fid, inode);

    if (!err)
        err = v9_caps_drop(&ex->caps, t->fid->io_fd, &t->fid->caps_seen);
    if (err)
        return err;
    pieces = v9_iov_slice(r->chain.iov, r->chain.readable_count, P9_TWRITE_SIZE, t->count, slice);
    v9_known_size_changing(inode);
    put = write_slice(t, inode, slice, (int)pieces);
    if (put < 0) {
        v9_known_size_changed_nothing(inode);
        return (int)put;
    }
    v9_known_size_written(inode, t->offset + (uint64_t)put);
    return put && ex->conf.writeout ? write_out(t, (int)put) : (int)put;
}

/* The same, for as much of the data as the quota permits. */
static int put_within_quota(v9_export *ex, const struct v9_request *r, struct transfer *t,
                            struct v9_inode *inode, struct iovec *slice)
{
    const struct v9_quota_write write = {t->fid->io_fd, t->fid->io_flags & O_APPEND, t->offset,
                                         t->count};
    uint64_t claim = 0;
    int64_t admitted = v9_quota_admit(ex->quota, inode->account, &write, &claim);
    int put;

    if (admitted < 0)
        return (int)admitted;
    t->count = (uint32_t)admitted;
    put = put_data(ex, r, t, inode, slice);
    v9_quota_settle_claim(ex->quota, inode->account, t->fid->io_fd, claim);
    return put;
}

/* A write that has the client's kernel believe in the size that it leaves behind. */
static int pretend_write(const struct v9_request *r, const struct transfer *t,
                         struct v9_inode *inode)
{
    char data[sizeof(V9_REFRESH_DATA) - 1];

    if (t->count > sizeof(data))
        return -EIO;
    v9_iov_gather(r->chain.iov, r->chain.readable_count, P9_TWRITE_SIZE, data, t->count);
    if (memcmp(data, V9_REFRESH_DATA, t->count) != 0)
        return -EIO;
    v9_known_size_pretended(inode);
    return (int)t->count;
}

static int write_fid(struct v9_device *dev, struct v9_request *r, struct transfer *t,
                     struct v9_scratch *scratch);

/*
 * Other data than a refresher's that comes by its fid. Linux's client writes what is dirty in its
 * cache by any fid of the file that is open for writing (v9fs_begin_writeback), the youngest first;
 * so it goes to the host by another one of these.
 */
static int write_back(struct v9_device *dev, struct v9_request *r, struct transfer *t,
                      struct v9_scratch *scratch)
{
    struct transfer other = *t;
    int put;

    if (v9_fids_pin_writer(&dev->fids, t->fid, V9_REFRESH_UID, &other.fid))
        return -EIO;
    put = write_fid(dev, r, &other, scratch);
    v9_fids_unpin(&dev->fids, other.fid);
    return put;
}

/* Writes to what a fid has. Returns the number of bytes, or a handler's other results. */
static int write_fid(struct v9_device *dev, struct v9_request *r, struct transfer *t,
                     struct v9_scratch *scratch)
{
    struct v9_inode *inode = v9_fids_inode(&dev->fids, t->fid);
    v9_export *ex;
    int err;

    if (t->count > r->size - P9_TWRITE_SIZE)
        return -EINVAL;
    if (v9_p9_is_xattr(t->fid))
        return v9_p9_xattr_write(r, t->fid, t->offset, t->count, scratch);
    ex = v9_inode_export(dev, inode);
    if (v9_notices_refreshes(ex, t->fid->uid)) {
        err = pretend_write(r, t, inode);
        return err == -EIO ? write_back(dev, r, t, scratch) : err;
    }
    if (ex->conf.readonly)
        return v9_refuse(EROFS, V9_REFUSED_READONLY, 0);
    err = v9_rate_queue_admit(dev, ex, r, t->count);
    if (err || !t->count)
        return err;
    return ex->quota ? put_within_quota(ex, r, t, inode, scratch->slice)
                     : put_data(ex, r, t, inode, scratch->slice);
}

int v9_p9_write(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                struct v9_scratch *scratch)
{
    uint8_t reply[P9_IO_SIZE];
    struct transfer t;
    int put, err = begin_transfer(dev, in, &t);

    if (err)
        return err;
    put = write_fid(dev, r, &t, scratch);
    v9_fids_unpin(&dev->fids, t.fid);
    if (put < 0)
        return put;
    r->written = (uint32_t)put;
    v9_put_header(reply, sizeof(reply), P9_TWRITE + 1, r->tag);
    v9_put(reply + P9_HEADER_SIZE, (uint64_t)put, 4);
    return v9_request_reply(r, reply, sizeof(reply));
}
