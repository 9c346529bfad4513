/*
 * walk: what other handlers share with Twalk.
 */
#ifndef V9_P9_WALK_H
#define V9_P9_WALK_H

#include "request/state.h"

/* Reads the attributes of an entry of a pinned fid's directory that takes a step of a walk to
 * reach:
 * "..", or the root of a joined export. */
int v9_p9_attr_by_step(v9_export *ex, struct v9_request *r, const struct v9_fid *fid,
                       const struct v9_inode *inode, const char *name, struct v9_attr *attr);

#endif
