/*
 * lookup: fids stand for names until they are opened. The theory is in lookup.c.
 */
#ifndef V9_P9_LOOKUP_H
#define V9_P9_LOOKUP_H

#include "request/state.h"

/* A fid that a request uses, pinned. */
struct v9_use {
    struct v9_fid *fid;
    struct v9_inode *inode;
    uint64_t now;      /* v9_dentry_now() before its name was checked */
    bool wanted;       /* the caller wants attr */
    bool seen;         /* attr is the file's, read by v9_attr_stat at ctime_now */
    int64_t ctime_now; /* v9_ctime_now() before attr was read */
    struct v9_attr attr;
};
/*
 * Pins a fid that must stand for a file; else -EBADF. A fid that stands for a name is brought up to
 * date first: it then stands for the file that has the name now. Errors are those of a walk to it,
 * or -V9_NO_DEVICE, -V9_NO_GROUP.
 */
int v9_p9_file(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_fid **fid,
               struct v9_inode **inode);
int v9_p9_use(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use);
/* The same, with the file's attributes in use->attr. */
int v9_p9_use_attr(struct v9_device *dev, struct v9_request *r, uint32_t number,
                   struct v9_use *use);
/* Pins a fid that keeps its file, and whose own name is to change: first looks who has that name
 * now (fid/renames.h reports it). Errors are those of a pin, or -V9_NO_DEVICE, -V9_NO_GROUP. */
int v9_p9_own_file(struct v9_device *dev, struct v9_request *r, uint32_t number,
                   struct v9_fid **fid);
/* Whether a pinned fid's file still has the fid's name, so that clones and walks from it have
 * names: an open fid may stand for a file that has lost its name. 1, 0, or an error as in
 * v9_p9_file. */
int v9_p9_has_name(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid);
/* Brings the fid of a request for Python up to date. Errors as in v9_p9_file. */
int v9_p9_prepare(struct v9_device *dev, struct v9_request *r);

#endif
