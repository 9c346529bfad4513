/*
 * wait: what a runner does without a request. First it polls for the next one for a while
 * (server/adaptive_poll.h), so that the driver need not kick and nobody has to wake the runner.
 * Then it sleeps in epoll on the kick descriptor (edge-triggered, so that it need not be read) and
 * on the timer of the rate queues.
 */
#ifndef V9_SERVER_WAIT_H
#define V9_SERVER_WAIT_H

#include "request/state.h"
#include "server/adaptive_poll.h"

/* A runner's experience with polling. */
struct v9_waiter {
    struct v9_adaptive_poll poll;
    uint8_t last;  /* type of the request that it has answered last */
    long switches; /* how often another thread has taken the CPU, when it last looked */
};

void v9_waiter_init(struct v9_waiter *self, int64_t poll_ns);
/* The threads of the process that may poll at a time: one for each CPU that it may use, but one
 * less than there are. A daemon that was started on one CPU of several may poll there, since the
 * guest can have the others. */
uint32_t v9_wait_pollers_max(void);
/* [locked] Waits for the next request, and may return it; NULL: check again. */
struct v9_request *v9_wait_for_request(struct v9_device *dev, struct v9_waiter *self);

#endif
