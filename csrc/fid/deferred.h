/*
 * deferred: what is closed and released once the fid table's lock is released.
 *
 * close(2) and free(3) may take long, and settling a quota's account asks the host. Functions that
 * work under the lock add to a v9_deferred of their caller; v9_deferred_finish does it afterwards.
 */
#ifndef V9_FID_DEFERRED_H
#define V9_FID_DEFERRED_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/api.h"
#include "fid/xattr_value.h"

/* At most, where a fid replaces another: three descriptors by v9_inodes_acquire, and two by each
 * v9_inodes_release, of the old fid's inode, its name's, and what the new name led to. */
enum { V9_DEFERRED_FDS = 12, V9_DEFERRED_ACCOUNTS = 3 };

struct v9_deferred {
    uint32_t fd_count, account_count;
    uint32_t dentry; /* of which a reference is to be dropped (fid/fid_names.h); 0: none */
    bool cached;     /* an inode was cached: the sweeper has to know */
    struct v9_xattr_value *value; /* to be freed; NULL: none */
    int32_t fds[V9_DEFERRED_FDS];
    struct v9_deferred_account {
        v9_quota *quota;
        uint32_t number;
        int32_t path_fd; /* the file's, to be closed; -1: none */
    } accounts[V9_DEFERRED_ACCOUNTS];
};

/* Declares an empty one. The arrays are left as they are: this is on the path of every Tclunk. */
#define V9_DEFERRED(name)                                                                          \
    struct v9_deferred name;                                                                       \
    name.fd_count = name.account_count = name.dentry = 0;                                          \
    name.cached = false;                                                                           \
    name.value = NULL

/* -1: nothing to close. */
static inline void v9_deferred_close(struct v9_deferred *deferred, int32_t fd)
{
    if (fd >= 0)
        deferred->fds[deferred->fd_count++] = fd;
}

/* An account of a quota, with its file's descriptor (-1: none). */
static inline void v9_deferred_release(struct v9_deferred *deferred, v9_quota *quota,
                                       uint32_t number, int32_t path_fd)
{
    deferred->accounts[deferred->account_count++] =
        (struct v9_deferred_account){quota, number, path_fd};
}

/* Does all but drop the dentry. The caller holds no lock. */
void v9_deferred_finish(const struct v9_deferred *deferred);

#endif
