/*
 * handler: the functions that answer requests, and what they share.
 *
 * A handler writes its whole reply into the chain and returns its size, or -errno, or one of the
 * outcomes that are no errno (-V9_NOT_OURS, -V9_NOT_YET). It runs without the device's lock. The
 * message above each handler is intro(5)'s, or that of diod's protocol.md for 9P2000.L.
 */
#ifndef V9_P9_HANDLER_H
#define V9_P9_HANDLER_H

#include "request/state.h"

/* p9/io.c, p9/walk.c, p9/readdir.c */
typedef int v9_handler(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                       struct v9_scratch *scratch);
v9_handler v9_p9_statfs, v9_p9_lopen, v9_p9_getattr, v9_p9_read, v9_p9_write;
v9_handler v9_p9_clunk, v9_p9_walk, v9_p9_readdir, v9_p9_readlink;
v9_handler v9_p9_open;
v9_handler v9_p9_lcreate, v9_p9_mkdir, v9_p9_mknod, v9_p9_symlink, v9_p9_unlinkat;

/* The metadata file (mapped/mapped.h) of a inode; -1 where it has none. It is looked for again each
 * time until it is found. */
int32_t v9_inode_meta(v9_export *ex, struct v9_inode *inode);
/* The result `err` of reading attributes of the file `fd`: on -V9_NO_DEVICE and -V9_NO_GROUP notes
 * the question. */
int v9_p9_question(struct v9_request *r, int fd, const struct v9_attr *attr, int err);
/* Reads a file's attributes for a request; `meta_fd` as in v9_attr_read_held. On -V9_NO_DEVICE and
 * -V9_NO_GROUP notes the question. */
int v9_p9_attr(v9_export *ex, struct v9_request *r, int fd, int32_t meta_fd, struct v9_attr *attr);
/* The same of a directory's entry. */
int v9_p9_attr_of(v9_export *ex, struct v9_request *r, int dir_fd, const char *name,
                  struct v9_attr *attr);

#endif
