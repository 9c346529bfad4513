/*
 * api: what Python sees of fid/ (vhost9p.h).
 */
#ifndef V9_FID_API_H
#define V9_FID_API_H

#include "export/api.h"

/* Of a fid. */
enum {
    V9_FID_XATTR = 1,  /* it has the value of an extended attribute (fid/xattr_value.h) */
    V9_FID_LOCKS = 2,  /* Tclunk goes to Python (the fid has placed locks) */
    V9_FID_ENDING = 4, /* a Tclunk sets its value, and ends it then */
};

/* Bytes of the longest name of a file that is reported. */
enum { V9_FID_PATH = 4096 };

#endif
