/*
 * forget: fids by which the guest knows a file, and should look it up again.
 *
 * Linux's client with cache=loose walks to a name once, and makes an inode of the first attributes
 * that the fid gets; it finds one that it has by qid.path and qid.version. From then on it only
 * asks for attributes. Tgetattr that finds no such file has it drop the name (the dentry), end the
 * fid, and walk again; nothing else does. It must not happen to a fid whose attributes were never
 * reported: that is a walk still, which would fail.
 *
 * A fid can be *forgotten*: the next Tgetattr on it gets ENOENT, and the walk that follows leads to
 * another inode if the contents have changed. After that it is a fid like any other.
 *
 * A session can be one that *renews* its names: then each fid whose name has come to lead to
 * another file gets ENOENT, too, and keeps its own where it is opened, so that an inode never
 * stands for two files.
 *
 * Else a file keeps the qid.version that was reported first, while there are fids of it. So whoever
 * walks to it finds the inode that others have open.
 */
#ifndef V9_FID_FORGET_H
#define V9_FID_FORGET_H

#include <sys/stat.h>

#include "fid/fid_table.h"

/* Forgets the fids that a walk of names has made, that were reported, and that are not open:
 * of the file of a pinned fid, and of its name. Takes no longer than a look at all fids, if the
 * file has another one. */
void v9_fids_forget(struct v9_fids *fids, const struct v9_fid *fid);
/* The session renews its names, until it ends. */
void v9_fids_renew(struct v9_fids *fids);
/* Whether the attributes of a pinned fid may be reported; else it finds nothing. `qid` is the
 * file's as it is now, and becomes the one to report. */
bool v9_fids_report(struct v9_fids *fids, struct v9_fid *fid, struct v9_qid *qid);
/* Whether the attributes of a pinned fid were reported. */
bool v9_fids_is_reported(struct v9_fids *fids, const struct v9_fid *fid);
/* Whether a pinned fid that is not open, and its clones, keep their file, whatever has its name. */
static inline bool v9_fids_keeps_file(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return __atomic_load_n(&fids->renews, __ATOMIC_RELAXED) && fid->inode &&
           S_ISREG(v9_inode_at(&fids->inodes, fid->inode)->mode);
}
/* A fid has come to stand for another file, as `now`. The lock is held. */
static inline void v9_fids_moved(struct v9_fid *now, const struct v9_fid *before)
{
    now->reported = before->reported;
    now->moved = before->reported;
    now->forgotten = before->forgotten;
}

#endif
