/*
 * setattr: changing the attributes of a fid's file, for the requests of both dialects.
 */
#ifndef V9_P9_SETATTR_H
#define V9_P9_SETATTR_H

#include "fs/api.h"
#include "request/state.h"

/* Changes attributes of a pinned fid's file. Errors are those of v9_setattr; -EROFS in a read-only
 * export, -EBADF for a fid that stands for no file. */
int v9_p9_change(struct v9_device *dev, const struct v9_fid *fid, const struct v9_setattr *to);

#endif
