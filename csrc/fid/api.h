/*
 * api: what Python sees of fid/ (vhost9p.h).
 */
#ifndef V9_FID_API_H
#define V9_FID_API_H

#include "export/api.h"

/* Of a fid. */
enum {
    V9_FID_XATTR = 1, /* it has the value of an extended attribute (fid/xattr_value.h) */
    V9_FID_LOCKS = 2, /* Tclunk goes to Python (the fid has placed locks) */
};

/* Which files lose a name by a change (fid/renames.h). */
enum { V9_NAMES_FILE = 1, V9_NAMES_DIRECTORY = 2 };

/* Of a path below an export's root, with its NUL. */
enum { V9_PATH_SIZE = 4096 }; /* PATH_MAX */

#endif
