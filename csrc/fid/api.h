/*
 * api: what Python sees of fid/ (vhost9p.h).
 */
#ifndef V9_FID_API_H
#define V9_FID_API_H

#include "export/api.h"

/* Of a fid. */
enum {
    V9_FID_UPCALL = 1, /* Tread, Twrite and Tclunk of this fid go to Python (xattr fids) */
    V9_FID_LOCKS = 2,  /* Tclunk goes to Python (the fid has placed locks) */
};

#endif
