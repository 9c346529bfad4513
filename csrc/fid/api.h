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
    V9_FID_STREAM = 8, /* Tclunk goes to Python (a read of the fid has waited) */
};

/*
 * What is known of an open fid of the stream (export/notices.h), for vhost9p/p9/notices.py: how the
 * guest's offsets and the positions in the stream correspond, and what its last reply was.
 */
struct v9_stream {
    uint64_t start; /* the position at offset 0, modulo 2^64 */
    uint64_t lost;  /* the offset at which lines are missing, and their stead begins; 0: none */
    uint64_t end;   /* the offset behind the last reply */
    uint64_t last;  /* the request that got nothing after a reply that was short; 0: none */
    uint32_t more;  /* V9_STREAM_* */
};
enum {
    V9_STREAM_LOST = 1,   /* `lost` counts */
    V9_STREAM_CUT = 2,    /* the line before it is not whole */
    V9_STREAM_SHORT = 4,  /* the last reply had less than was asked for: the client asks again */
    V9_STREAM_INSIDE = 8, /* it ended inside a line */
    V9_STREAM_WAITS = 16, /* a read waits for lines: it was opened without O_NONBLOCK */
};

/* Bytes of the longest name of a file that is reported. */
enum { V9_FID_PATH = 4096 };

#endif
