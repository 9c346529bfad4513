/*
 * recover: the requests of a device whose process died.
 *
 * A process may die between any two instructions. Its device lies in memory that its successor has,
 * too. A request is whole once its slot has a state; the ring moves on after that, and a note says
 * which slot it moves for. So each request is popped once and its chain is returned once.
 *
 * What a request had done is told by evidence. One that was about to change a fid has written its
 * reply before (v9_request_promise), and says which fid; whether the fid is changed, decides. One
 * that changes names has noted what the names led to (base/evidence.h). Everything else may be done
 * twice. What was not done for certain is run again, in the order in which the driver made it
 * available, before anything new is popped. Those that may have ended the process come first
 * (request/suspects.h).
 */
#ifndef V9_REQUEST_RECOVER_H
#define V9_REQUEST_RECOVER_H

#include "request/state.h"

/* Before the memory table is recovered: requests give up the addresses of the process that died. */
void v9_requests_detach_dead(struct v9_device *dev);
/* Once the fids, the memory and the ring are recovered: has requests run again, or only answered if
 * they were done. No other thread uses the device. */
void v9_requests_recover(struct v9_device *dev);
/* The fids are lost: all requests in flight are answered with EIO. */
void v9_requests_fail(struct v9_device *dev);
/* Before all of that: no descriptor of the process that died is left. */
void v9_requests_lose_descriptors(struct v9_device *dev);
/* Likewise: nothing is left of what was created in exports that are not in `served`, by index. */
void v9_requests_leave_exports(struct v9_device *dev, const bool served[V9_EXPORTS_MAX]);
/* Calls `owns` for each descriptor that a request has. */
void v9_requests_list_descriptors(const struct v9_device *dev,
                                  void (*owns)(void *context, int32_t fd), void *context);

#endif
