/*
 * dispatch: runs requests. Only serving threads call it.
 */
#ifndef V9_P9_DISPATCH_H
#define V9_P9_DISPATCH_H

#include "request/state.h"

/* Runs a request, without the device's lock. Returns the size of the reply, which is written
 * already, or -V9_NOT_OURS, -V9_IS_FLUSH or -V9_NOT_YET. */
int v9_p9_run(struct v9_device *dev, struct v9_request *r, struct v9_scratch *scratch);

#endif
