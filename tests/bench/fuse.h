/*
 * FUSE for the workloads: how requests are made and replies taken apart (fuse_wire.c), and which
 * workloads are where (fuse.c; fuse_own.c has those on a file of each lane's own). Layouts:
 * linux/fuse.h.
 */
#ifndef FUSE_H
#define FUSE_H

#include <linux/fuse.h>

#include "bench.h"

/* ---- requests. Those that return a bool return true, for a step to return. */

/* Begins a request, whose reply has a body of up to `reply` bytes. */
void fuse_start(struct lane *lane, unsigned opcode, uint64_t node, size_t reply);
/* Appends to what was begun. */
void fuse_put(struct lane *lane, const void *bytes, size_t size);
/* Appends a name, with its 0. */
void fuse_put_name(struct lane *lane, const char *name);
/* Ends a request: its size, with the payload that follows. */
bool fuse_finish(struct lane *lane);
bool fuse_lookup(struct lane *lane, uint64_t parent, const char *name);
bool fuse_forget(struct lane *lane, unsigned count, const uint64_t *nodes);
bool fuse_open_node(struct lane *lane, unsigned opcode, uint64_t node, uint32_t flags);
bool fuse_release_handle(struct lane *lane, unsigned opcode);
/* FUSE_CREATE of an empty file. */
bool fuse_create(struct lane *lane, uint64_t parent, const char *name);
/* FUSE_UNLINK and FUSE_RMDIR. */
bool fuse_remove(struct lane *lane, unsigned opcode, uint64_t parent, const char *name);
/* FUSE_READ, FUSE_READDIR and FUSE_WRITE: the payload lies in pages of its own. */
bool fuse_transfer(struct lane *lane, unsigned opcode, uint64_t offset, uint32_t size);

/* ---- replies. What is not as expected ends the benchmark. */

const void *fuse_body(const struct lane *lane);
void fuse_check(const struct lane *lane);
void fuse_expect_body(const struct lane *lane, size_t size);
void fuse_expect_attr(const struct lane *lane, const struct fuse_attr *attr, uint64_t ino,
                      uint32_t mode, uint64_t size);
const struct fuse_entry_out *fuse_entry(const struct lane *lane);
void fuse_take_handle(struct lane *lane);

/* The reply to FUSE_CREATE: into the lane's node, inode number and handle. */
void fuse_take_created(struct lane *lane);

/* ---- requests whose replies are waited for */

const struct fuse_entry_out *fuse_reach(struct lane *lane, uint64_t parent, const char *name);
void fuse_give_back(struct lane *lane, uint64_t node);

/* ---- fuse.c: the directory `made`, while a run needs it */

extern uint64_t fuse_made;
void fuse_reach_made(struct lane *lane);
void fuse_release_made(struct lane *lane);

/* ---- fuse_own.c: the operations of the workloads for which has_own_file says so */

void fuse_prepare_own(struct lane *lane);
void fuse_release_own(struct lane *lane);
bool fuse_chmod(struct lane *lane);
bool fuse_utimens(struct lane *lane);
bool fuse_truncate(struct lane *lane);
bool fuse_rename(struct lane *lane);
bool fuse_link(struct lane *lane);
bool fuse_mkdir(struct lane *lane);
bool fuse_symlink(struct lane *lane);
bool fuse_readlink(struct lane *lane);
bool fuse_xattr_get(struct lane *lane);
bool fuse_xattr_none(struct lane *lane);
bool fuse_xattr_list(struct lane *lane);
bool fuse_xattr_set(struct lane *lane);
bool fuse_lock(struct lane *lane);
bool fuse_getlock(struct lane *lane);
bool fuse_fsync(struct lane *lane);
bool fuse_statfs(struct lane *lane);

#endif
