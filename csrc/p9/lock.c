/*
 * lock: Tlock and Tgetlock.
 *
 * Python has the locks (vhost9p/fs/locks.py). A Tlock is decoded and checked here, and Python takes
 * or releases the lock within one call. Only if the guest is to wait for it, Python gets the
 * request, and answers it later (vhost9p/p9/locks.py).
 *
 * Locks are held through descriptors of their own, never through the fid's. So what conflicts with
 * a lock through the fid's descriptor includes all that may be in the way of a Tgetlock. If that is
 * nothing, as most often, there is nothing to ask Python: not whose the lock is, nor whether it is
 * the asking process's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "export/api.h"
#include "p9/handler.h"
#include "request/reply.h"
#include "request/request.h"
#include "request/upcall.h"

enum {
    LOCK_SUCCESS = 0,
    LOCK_BLOCKED = 1,
    FLAG_BLOCK = 1,
    FLAG_RECLAIM = 2,
    CLIENT_ID_MAX = 1024, /* Linux sends the host name, at most 64 bytes */
};

/* What a request asks for: type[1] of both, flags of Tlock, a range, a process. */
struct asked {
    uint32_t number, type, flags, proc_id;
    uint64_t start, length;
    const char *client_id;
    uint16_t client_size;
    struct v9_fid *fid; /* pinned, and open */
};

static int check(const struct asked *asked)
{
    const uint64_t end = (uint64_t)INT64_MAX + 1;

    if (asked->client_size > CLIENT_ID_MAX || asked->type > V9_LOCK_UNLCK ||
        asked->flags & ~(uint32_t)(FLAG_BLOCK | FLAG_RECLAIM))
        return -EINVAL;
    if (asked->start >= end || asked->length >= end || asked->start + asked->length > end)
        return -EOVERFLOW;
    return 0;
}

/* Decodes and checks the fields, and pins the fid. What cannot be opened cannot be locked. */
static int begin(struct v9_device *dev, struct v9_in *in, bool has_flags, struct asked *asked)
{
    int err;

    asked->number = v9_in_u32(in);
    asked->type = (uint32_t)v9_in_number(in, 1);
    asked->flags = has_flags ? v9_in_u32(in) : 0;
    asked->start = v9_in_u64(in);
    asked->length = v9_in_u64(in);
    asked->proc_id = v9_in_u32(in);
    asked->client_id = v9_in_string(in, &asked->client_size);
    if (!v9_in_is_done(in))
        return -EINVAL;
    err = v9_fids_pin(&dev->fids, asked->number, &asked->fid);
    if (err)
        return err;
    err = v9_fid_io(asked->fid) < 0 ? -EBADF : check(asked);
    if (err)
        v9_fids_unpin(&dev->fids, asked->fid);
    return err;
}

int v9_p9_lock(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *scratch)
{
    uint8_t reply[P9_HEADER_SIZE + 1];
    const struct v9_inode *inode;
    struct asked asked;
    int err = begin(dev, in, true, &asked);

    if (err)
        return err;
    inode = v9_fids_inode(&dev->fids, asked.fid);
    v9_request_leave_memory(dev, r);
    err = v9_upcall_lock(dev,
                         &(struct v9_lock_request){
                             .fid = v9_fids_handle(&dev->fids, asked.fid),
                             .writable = (asked.fid->io_flags & O_ACCMODE) != O_RDONLY,
                             .st_dev = inode->st_dev,
                             .st_ino = inode->st_ino,
                             .client_id = asked.client_id,
                             .client_size = asked.client_size,
                             .proc_id = asked.proc_id,
                             .type = asked.type,
                             .start = asked.start,
                             .length = asked.length,
                             .flock = asked.flags & FLAG_BLOCK,
                             .request = (uint64_t)r->seq << 32 | r->slot,
                         },
                         &scratch->worker);
    v9_request_use_memory(dev, r);
    v9_fids_unpin(&dev->fids, asked.fid);
    if (err == -EAGAIN && asked.flags & FLAG_BLOCK)
        return -V9_NOT_OURS;
    if (err && err != -EAGAIN)
        return err;
    v9_put_header(reply, sizeof(reply), P9_TLOCK + 1, r->tag);
    reply[P9_HEADER_SIZE] = err ? LOCK_BLOCKED : LOCK_SUCCESS;
    return v9_request_reply(r, reply, sizeof(reply));
}

/* Whether nothing is locked that conflicts. Linux's client sends V9_LOCK_UNLCK for any type, and a
 * write lock conflicts with all others. */
static int find_none(const struct asked *asked)
{
    struct v9_lock lock = {
        .type = asked->type == V9_LOCK_UNLCK ? V9_LOCK_WRLCK : (int32_t)asked->type,
        .start = asked->start,
        .length = asked->length,
    };
    const int err = v9_lock_ofd_test(asked->fid->io_fd, &lock);

    return err ? err : lock.type == V9_LOCK_UNLCK;
}

int v9_p9_getlock(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    uint8_t reply[P9_HEADER_SIZE + 23 + CLIENT_ID_MAX], *at;
    struct asked asked;
    uint32_t size;
    int none = begin(dev, in, false, &asked);

    if (none)
        return none;
    none = find_none(&asked);
    v9_fids_unpin(&dev->fids, asked.fid);
    if (none <= 0)
        return none ? none : -V9_NOT_OURS;
    size = P9_HEADER_SIZE + 23 + asked.client_size;
    at = v9_put_header(reply, size, P9_TGETLOCK + 1, r->tag);
    at = v9_put(v9_put(v9_put(at, V9_LOCK_UNLCK, 1), asked.start, 8), asked.length, 8);
    at = v9_put(v9_put(at, asked.proc_id, 4), asked.client_size, 2);
    memcpy(at, asked.client_id, asked.client_size);
    return v9_request_reply(r, reply, size);
}
