/*
 * request: the life of a request: popped, finished, flushed, cut off.
 *
 * A request is entered in the in-flight table under the lock that popped it, so a Tflush that was
 * sent after it finds it.
 *
 * Where a host file hangs, its request is a straggler: the frontend waits for GET_VRING_BASE in its
 * main loop, so after two seconds stragglers are answered with EIO and declared dead, and the
 * guest's memory below them is replaced by anonymous memory. What they complete later is lost.
 */
#ifndef V9_REQUEST_REQUEST_H
#define V9_REQUEST_REQUEST_H

#include "request/state.h"

/* The next request for a serving thread, which runs it and finishes it; NULL: there is none. */
struct v9_request *v9_request_next(struct v9_device *dev); /* [locked] */
/* Ends a request in the way that `result` says: a reply's size, -V9_IS_FLUSH or -V9_NOT_YET. */
void v9_request_finish(struct v9_device *dev, struct v9_request *r, int result); /* [locked] */
/* Whether there is something to do beside what is in the ring. */
bool v9_request_is_due(struct v9_device *dev); /* [locked] */
/* Whether a request that waits, or has not begun, need not be answered as asked. */
bool v9_request_is_unwanted(const struct v9_device *dev, const struct v9_request *r); /* [locked] */

bool v9_device_can_run(struct v9_device *dev); /* [locked] */
/* Breaks the ring where memory was lost. */
void v9_device_look(struct v9_device *dev);           /* [locked] */
void v9_device_kill(struct v9_device *dev, bool all); /* [locked] */
void v9_device_detach(struct v9_device *dev);         /* [locked] */
void v9_device_attach(struct v9_device *dev);         /* [locked] */

#endif
