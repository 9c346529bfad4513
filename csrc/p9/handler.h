/*
 * handler: the functions that answer requests, and what they share.
 *
 * A handler writes its whole reply into the chain and returns the reply's size, or -errno, or an
 * outcome that is no errno (base/outcome.h). It runs without the device's lock. Message layouts are
 * those of intro(5) of Plan 9 and, for 9P2000.L, of diod's protocol.md.
 */
#ifndef V9_P9_HANDLER_H
#define V9_P9_HANDLER_H

#include "request/state.h"

/* p9/io.c, p9/open.c, p9/getattr.c, p9/walk.c, p9/readdir.c, p9/create.c, p9/names.c,
 * p9/setattr.c, p9/xattr.c, p9/fsync.c, p9/lock.c */
typedef int v9_handler(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                       struct v9_scratch *scratch);
v9_handler v9_p9_statfs, v9_p9_lopen, v9_p9_getattr, v9_p9_read, v9_p9_write;
v9_handler v9_p9_clunk, v9_p9_walk, v9_p9_readdir, v9_p9_readlink;
v9_handler v9_p9_open, v9_p9_setattr, v9_p9_xattrwalk, v9_p9_xattrcreate;
v9_handler v9_p9_fsync, v9_p9_lock, v9_p9_getlock;
v9_handler v9_p9_lcreate, v9_p9_mkdir, v9_p9_mknod, v9_p9_symlink;
v9_handler v9_p9_link, v9_p9_unlinkat, v9_p9_rename, v9_p9_renameat;

/*
 * Decodes the name of one directory entry, NUL-terminated. -errno for an invalid name; -`dots` for
 * "." and "..", which every directory has and keeps. The caller checks later whether the message
 * was too short.
 */
int v9_p9_take_name(struct v9_in *in, int dots, char name[V9_NAME_SIZE]);

/* The metadata file (mapped/mapped.h) of an inode; -1: none. Each call searches for it until it is
 * found. */
int32_t v9_inode_meta(v9_export *ex, struct v9_inode *inode);
/* Whether the file of a pinned fid is a directory that is hidden by now (export/hidden_names.h),
 * which it may be where its name was not looked up: 0, -ENOENT, or -errno if that is not known. */
int v9_p9_check_place(struct v9_device *dev, const struct v9_fid *fid,
                      const struct v9_inode *inode);
/* Takes the result `err` of reading attributes of the file `fd`. For -V9_NO_DEVICE and
 * -V9_NO_GROUP, stores the question in the request. Returns `err`, or another error. */
int v9_p9_question(struct v9_request *r, int fd, const struct v9_attr *attr, int err);
/* Reads a file's attributes for a request; `meta_fd` as in v9_attr_read_held. Stores the question
 * as v9_p9_question does. */
int v9_p9_attr(v9_export *ex, struct v9_request *r, int fd, int32_t meta_fd, struct v9_attr *attr);
/* The same for an entry of a directory. */
int v9_p9_attr_of(v9_export *ex, struct v9_request *r, int dir_fd, const char *name,
                  struct v9_attr *attr);

#endif
