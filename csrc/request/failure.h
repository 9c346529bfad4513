/*
 * failure: failed requests are reported to Python, which logs why they fail (v9_up_failure).
 *
 * A request is reported before its reply is published, on the thread that serves it: so its fids
 * still are what they were, and the log has the line before the guest knows. Python makes no call
 * that may wait for a file system. A guest can have requests fail all the time, so a token bucket
 * for each device says how many are reported; the others cost what it takes to look at that.
 *
 * A device whose first export has no v9_failures reports nothing, and its requests cost a look at a
 * pointer.
 */
#ifndef V9_REQUEST_FAILURE_H
#define V9_REQUEST_FAILURE_H

#include "request/state.h"

/* Whether failed requests are reported at all: then v9_refusal_begin begins each request. */
static inline bool v9_failures_are_reported(const struct v9_device *dev)
{
    return dev->exports[0] && dev->exports[0]->failures;
}
/* A request ends with a result: reports it if that is an error, or if it is a walk that its reply
 * cuts short. Takes the device's lock. */
void v9_failure_report(struct v9_device *dev, const struct v9_request *r, int result,
                       struct v9_worker *worker);
/* The same of one that was to be answered later, by its message, on a thread of Python's. */
void v9_failure_report_later(struct v9_device *dev, const uint8_t *data, uint32_t size, int error);

#endif
