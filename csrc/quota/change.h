/*
 * change: the bracket around a change of files: claim and hold, change, settle and give back
 * (quota/quota.h). Creating and changing names and attributes use it. Writes hold the account of
 * their inode, and claim as much as each may take instead (v9_quota_admit).
 */
#ifndef V9_QUOTA_CHANGE_H
#define V9_QUOTA_CHANGE_H

#include <stdint.h>

#include "quota/api.h"

/*
 * A change of files, between begin and end. Begin sets aside the most that it may take, or returns
 * -EDQUOT or -ENOSPC, and holds the files that it touches. End settles these, and gives back what
 * was set aside. A new file is counted in between (v9_quota_count_new).
 */
enum { V9_QUOTA_FILES = 3 };
struct v9_quota_change {
    uint64_t bytes, inodes;            /* the most that it may take */
    int32_t fds[V9_QUOTA_FILES];       /* of the files, O_PATH will do; negative: none */
    uint32_t gone[V9_QUOTA_FILES];     /* set before the end: it certainly has no name any more */
    uint32_t accounts[V9_QUOTA_FILES]; /* set by begin; 0: none */
};
int v9_quota_change_begin(v9_quota *quota, struct v9_quota_change *change);
void v9_quota_change_end(v9_quota *quota, const struct v9_quota_change *change);
/* Within a change: counts a file that the change has created. -errno: it is not counted. */
int v9_quota_count_new(v9_quota *quota, int32_t fd);

#endif
