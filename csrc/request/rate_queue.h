/*
 * delay: the reads and writes of a throttled export that wait for their time.
 *
 * A handler asks whether its transfer may go; where it may not, it returns -V9_NOT_YET and the
 * request waits, with no thread, in its export's queue, one for reads and one for writes. The
 * device's timer wakes a serving thread when the first of all of them is due, which runs that
 * request's handler again. So whatever is not throttled goes on meanwhile, and what a request is
 * charged with is charged once, when it goes.
 *
 * A request that waits has not begun: where the guest flushes it, or begins a new session, it ends
 * with EINTR at once. Where the ring is to be stopped, which a frontend wants done soon, all that
 * wait go at once, since a guest that is continued later must find no error; they are charged
 * nevertheless, and what comes next waits for longer. While the memory table changes none goes.
 *
 * All is guarded by the device's lock; an export is of one device.
 */
#ifndef V9_REQUEST_RATE_QUEUE_H
#define V9_REQUEST_RATE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/token_bucket.h"

struct v9_request;

struct v9_queue {
    struct v9_request *first, **last;
};

struct v9_rate_queues {
    struct v9_token_bucket bucket;
    struct v9_queue waiting[2]; /* of reads, and of writes: oldest first */
    bool turn;                  /* the queue that is looked at first: they take turns */
};

/* Whether `r` may move `bytes` of a file of `ex` now: 0 or -V9_NOT_YET. Takes the device's lock. */
int v9_rate_queue_admit(v9_device *dev, const v9_export *ex, struct v9_request *r, uint32_t bytes);
/* All below: [locked]. */

/* Lets a request wait whose handler has returned -V9_NOT_YET. */
void v9_rate_queue_enter(v9_device *dev, struct v9_request *r);
/* Takes a request out that is not to wait any longer; it is its caller's. */
void v9_rate_queue_leave(v9_device *dev, struct v9_request *r);
/* The next request whose time has come, charged and out of its queue; NULL where there is none. */
struct v9_request *v9_rate_queue_next(v9_device *dev);

#endif
