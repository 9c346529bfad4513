/*
 * fsync: making a fid's file durable, for the requests of both dialects.
 */
#ifndef V9_P9_FSYNC_H
#define V9_P9_FSYNC_H

#include "request/state.h"

/* Makes the file of a pinned fid durable, whether it is open or not: fsync(2). What cannot be
 * opened (a symlink, a device) is left alone. -EBADF for a fid that stands for no file. */
int v9_p9_sync(struct v9_device *dev, struct v9_fid *fid);

#endif
