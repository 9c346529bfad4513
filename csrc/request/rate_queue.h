/*
 * rate_queue: queues for the reads and writes of a throttled export.
 *
 * A handler asks whether its transfer may start. If it may not, the handler returns -V9_NOT_YET and
 * the request waits, without a thread, in one of its export's two queues: one for reads, one for
 * writes. When the first request of all queues is due, the device's timer wakes a serving thread,
 * which runs the request's handler again. So unthrottled requests are not held up, and each request
 * is charged once, when it starts.
 *
 * A waiting request has not begun. If the guest flushes it, or begins a new session, it ends with
 * EINTR at once. When the ring is stopped, all waiting requests start at once: the frontend waits
 * for the ring, and a guest that is continued later must find no error. They are charged all the
 * same, so later requests wait longer. While the memory table changes, no request starts.
 *
 * The device's lock guards everything here; an export belongs to one device.
 */
#ifndef V9_REQUEST_RATE_QUEUE_H
#define V9_REQUEST_RATE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/token_bucket.h"
#include "request/api.h"

struct v9_request;

struct v9_queue {
    struct v9_request *first, **last;
};

struct v9_rate_queues {
    struct v9_token_bucket *bucket; /* of the device (v9_rate_queues_keep); before, fresh */
    struct v9_token_bucket fresh;
    struct v9_queue waiting[2]; /* of reads, and of writes: oldest first */
    bool write_first;           /* the queue that is checked first; alternates */
};

/* Whether `r` may move `bytes` of a file of `ex` now: 0 or -V9_NOT_YET. Takes the device's lock. */
int v9_rate_queue_admit(v9_device *dev, const v9_export *ex, struct v9_request *r, uint32_t bytes);
/* All below: [locked]. */

/* From now on the levels are kept in `kept`, from which they go on if a process before this one has
 * kept them there. */
void v9_rate_queues_keep(struct v9_rate_queues *queues, struct v9_token_bucket *kept);

/* Queues a request whose handler has returned -V9_NOT_YET. */
void v9_rate_queue_enter(v9_device *dev, struct v9_request *r);
/* Removes a request from its queue; the caller ends it or runs it. */
void v9_rate_queue_leave(v9_device *dev, struct v9_request *r);
/* Removes the next request that is due from its queue, charges and returns it; NULL: none is
 * due. */
struct v9_request *v9_rate_queue_next(v9_device *dev);

#endif
