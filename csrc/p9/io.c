/*
 * io: Tread, Twrite, Tlopen, Topen, Tgetattr, Tstatfs, Tclunk: handlers for one file.
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
#include <sys/statfs.h>
#include <unistd.h>

#include "base/evidence.h"
#include "export/containment.h"
#include "export/notices.h"
#include "fid/forget.h"
#include "fid/known_size.h"
#include "mapped/mapped.h"
#include "p9/lookup.h"
#include "p9/xattr.h"
#include "quota/change.h"
#include "quota/quota.h"
#include "request/rate_queue.h"
#include "request/reply.h"
#include "virtio/iov.h"

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
    bool sizeless;
    int err;

    if (!v9_in_is_done(in))
        return -EINVAL;
    err = v9_p9_use_attr(dev, r, number, &use);
    if (err)
        return err;
    qid = a->qid;
    if (dev->exports[0]->conf.notifies &&
        (use.replaced || !v9_fids_report(&dev->fids, use.fid, &qid)))
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

static ssize_t write_slice(const struct transfer *t, const struct iovec *slice, int pieces)
{
    const bool append = t->fid->io_flags & O_APPEND;
    ssize_t put = append ? v9_evidence_grown(t->fid->io_fd, t->count) : 0;

    if (put)
        return put;
    if (append)
        v9_evidence_append(t->fid->io_fd);
    do
        put = append ? writev(t->fid->io_fd, slice, pieces)
                     : pwritev(t->fid->io_fd, slice, pieces, (off_t)t->offset);
    while (put < 0 && errno == EINTR);
    return put;
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
    put = write_slice(t, slice, (int)pieces);
    if (put < 0) {
        err = -errno;
        v9_known_size_changed_nothing(inode);
        return err;
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
    uint64_t claim;
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
