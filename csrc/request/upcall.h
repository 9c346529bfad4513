/*
 * upcall: a serving thread's calls of Python, and the answers that Python gives later.
 *
 * None of these is called with another lock held than the device's, which they give up.
 */
#ifndef V9_REQUEST_UPCALL_H
#define V9_REQUEST_UPCALL_H

#include "request/state.h"

/* Has Python answer a request, and ends it unless that comes later. */
void v9_upcall_request(struct v9_device *dev, struct v9_request *r,
                       struct v9_scratch *scratch); /* [locked] */
/* Has Python decide r->question, of a kind (V9_UP_*), and install that: 0 or -errno. */
int v9_upcall_question(struct v9_device *dev, struct v9_request *r, uint32_t kind,
                       struct v9_worker *worker);
/* Reports to Python what has come up. */
void v9_upcall_news(struct v9_device *dev, struct v9_worker *worker); /* [locked] */

#endif
