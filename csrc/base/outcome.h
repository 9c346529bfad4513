/*
 * outcome: what a handler may return besides a reply's size or -errno: one of these, negated like
 * an errno, of which none has such a number.
 */
#ifndef V9_BASE_OUTCOME_H
#define V9_BASE_OUTCOME_H

enum v9_outcome {
    /* The qid map or the mount table lacks an entry: Python decides, and installs one. */
    V9_NO_DEVICE = 4097, /* (st_dev, mount id) is unknown */
    V9_NO_GROUP = 4098,  /* the device has no group for this inode's high bits */
    V9_NO_MOUNT = 4099,  /* it is not known which entries of a mount's directories to look at */
    /* What becomes of a request (request/). */
    V9_NOT_OURS = 4100, /* it is up to Python */
    V9_NOT_YET = 4101,  /* it runs again when its time has come (request/rate_queue.h) */
    V9_IS_FLUSH = 4102, /* a Tflush, which concerns others in flight */
};

#endif
