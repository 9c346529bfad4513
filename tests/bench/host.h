/*
 * The workloads as system calls: host.c, and what has a file of its own.
 */
#ifndef HOST_H
#define HOST_H

#include "bench.h"

/* ---- host_own.c: the operations of the workloads for which has_own_file says so */

void host_prepare_own(struct lane *lane);
void host_release_own(struct lane *lane);
bool host_chmod(struct lane *lane);
bool host_utimens(struct lane *lane);
bool host_truncate(struct lane *lane);
bool host_rename(struct lane *lane);
bool host_link(struct lane *lane);
bool host_mkdir(struct lane *lane);
bool host_symlink(struct lane *lane);
bool host_readlink(struct lane *lane);
bool host_xattr_get(struct lane *lane);
bool host_xattr_none(struct lane *lane);
bool host_xattr_list(struct lane *lane);
bool host_xattr_set(struct lane *lane);
bool host_lock(struct lane *lane);
bool host_getlock(struct lane *lane);
bool host_fsync(struct lane *lane);
bool host_statfs(struct lane *lane);
bool host_attach(struct lane *lane);

/* ---- host_scale.c: some of those for which is_scale says so */

void host_prepare_scale(struct lane *lane);
void host_release_scale(struct lane *lane);
bool host_fill(struct lane *lane);
bool host_members_getattr(struct lane *lane);
bool host_entries(struct lane *lane);

#endif
