/*
 * request: the life of a request: popped from the ring, finished, flushed, cut off.
 *
 * A request enters the in-flight table under the same lock that pops it, so a later Tflush finds
 * it.
 *
 * If a host file hangs, its request is a straggler. The frontend waits for GET_VRING_BASE in its
 * main loop, so after two seconds stragglers are answered with EIO and declared dead, and anonymous
 * memory replaces the guest's memory in the addresses that they use. Their later results are lost.
 */
#ifndef V9_REQUEST_REQUEST_H
#define V9_REQUEST_REQUEST_H

#include "request/state.h"

/* The next request for a serving thread, which must run it and finish it; NULL: there is none. */
struct v9_request *v9_request_next(struct v9_device *dev); /* [locked] */
/* Ends a request, or lets it wait, depending on `result`: a reply's size, -V9_IS_FLUSH or
 * -V9_NOT_YET. */
void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result); /* [locked] */
/* Between the two calls a handler touches no guest memory: so it may take long, and the memory
 * table changes meanwhile (V9_AWAY). Call them without the lock. */
void v9_request_leave_memory(struct v9_device *dev, struct v9_request *r);
void v9_request_use_memory(struct v9_device *dev, struct v9_request *r);
/* Whether a serving thread has work other than the chains in the ring. */
bool v9_request_is_due(struct v9_device *dev); /* [locked] */
/* Whether a request that waits, or has not begun, is flushed or ends for a new session. */
bool v9_request_is_cancelled(const struct v9_device *dev,
                             const struct v9_request *r); /* [locked] */

/* Lets a Tflush find a request by its tag. */
void v9_request_enter_tag(struct v9_device *dev, struct v9_request *r); /* [locked] */

/* Whether requests that a process that died had begun can be run. */
bool v9_request_can_run_again(struct v9_device *dev); /* [locked] */

bool v9_device_can_run(struct v9_device *dev); /* [locked] */
/* Breaks the ring if guest memory was lost. */
void v9_device_check_memory(struct v9_device *dev);   /* [locked] */
void v9_device_kill(struct v9_device *dev, bool all); /* [locked] */
void v9_device_detach(struct v9_device *dev);         /* [locked] */
void v9_device_attach(struct v9_device *dev);         /* [locked] */

#endif
