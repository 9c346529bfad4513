/*
 * restore: gives fids back the descriptors that were evicted (fid/evict.h).
 *
 * To pin a fid restores its inode and its open file, or fails with ESTALE where the file is not
 * found. Of the threads that need an evicted inode one reopens it, and the others wait. No lock is
 * held across a system call; all functions here are called with the table's lock held and release
 * it meanwhile.
 */
#ifndef V9_FID_RESTORE_H
#define V9_FID_RESTORE_H

#include <fcntl.h>
#include <stdint.h>

#include "fid/fid_table.h"

/* open(2) flags to reopen a fid's file, which is neither made nor emptied once more. */
static inline int v9_fid_reopen_flags(const v9_export *ex, const struct v9_fid *fid)
{
    const int flags = fid->io_flags & ~(O_TRUNC | O_CREAT | O_EXCL);

    return ex->conf.readonly ? (flags & ~O_ACCMODE) | O_RDONLY : flags; /* it may be so by now */
}
/* Restores what a pinned fid stands for. 0, -ESTALE, or why the file cannot be opened. */
int v9_restore_fid(struct v9_fids *fids, struct v9_fid *fid);
/* The same for an inode that the caller has pinned. */
int v9_restore_inode(struct v9_fids *fids, uint32_t inode);
/*
 * A file is about to lose a name: restores its evicted inodes, drops its cached ones, and lets
 * those in use not be cached later. What is not found stays as it is. -EMFILE or -ENFILE where
 * there was no descriptor for one.
 */
int v9_restore_before_loss(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino);

#endif
