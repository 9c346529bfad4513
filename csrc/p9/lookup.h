/*
 * lookup: fids stand for names until they are opened; see lookup.c.
 */
#ifndef V9_P9_LOOKUP_H
#define V9_P9_LOOKUP_H

#include "request/state.h"

/* A fid that a request uses, pinned. */
struct v9_use {
    struct v9_fid *fid;
    struct v9_inode *inode;
    uint64_t now;   /* v9_dentry_now() of before its name was looked at; 0: it was not */
    bool wanted;    /* attr is */
    bool seen;      /* attr is what v9_attr_look told of the file just now, after moment */
    int64_t moment; /* v9_ctime_now() */
    struct v9_attr attr;
};
/*
 * Pins a fid that must stand for a file; -EBADF. One that stands for a name stands for what has it
 * now: an error as of a walk to it where nothing has, or -V9_NO_DEVICE, -V9_NO_GROUP.
 */
int v9_p9_file(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_fid **fid,
               struct v9_inode **inode);
int v9_p9_use(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use);
/* The same, with the file's attributes in use->attr. */
int v9_p9_use_attr(struct v9_device *dev, struct v9_request *r, uint32_t number,
                   struct v9_use *use);
/* Whether what is reached from a pinned fid, or is its clone, has its name from the fid's: an open
 * one may stand for a file that has lost it. 1, 0, or an error as of v9_p9_file. */
int v9_p9_passes_name_on(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid);
/* The same for the fids of a request that Python is to answer. */
int v9_p9_prepare(struct v9_device *dev, struct v9_request *r);

#endif
