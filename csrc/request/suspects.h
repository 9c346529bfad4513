/*
 * suspects: the requests that may have ended a process, and what is done with the one that has.
 *
 * A request that ends its process by a fault would end each successor as well. Its third death is
 * its last: it is answered with EIO instead of being run (*poison*). An innocent one must never
 * be, but where several requests ran when the process died, nobody can tell which of them did it:
 * the thread that faulted may only have found what another one has damaged. So
 *
 * - each request that ran is a *suspect*, of one death more. One that waits, for a lock of the
 *   host, a throttle or other requests, did not run.
 * - The successor runs suspects again one at a time (the *trial*), those of most deaths first, and
 *   begins with nothing else meanwhile. If it dies, only the request on trial is blamed.
 * - A request is convicted by a death at which nothing else ran, and by no other: without a trial,
 *   suspicion stops one short of a conviction. So a request that hangs in a system call while
 *   others end three processes stays innocent. A trial that takes too long ends without a result,
 *   and others come before it the next time.
 *
 * A chain that ends the process while it is taken from the ring is no request yet. It is tried by
 * itself in any case, since suspects come first; nobody can answer it, so the third death breaks
 * the ring.
 *
 * Whether a death is a fault, the keeper knows (vhost9p/ends.py). Others blame nobody.
 */
#ifndef V9_REQUEST_SUSPECTS_H
#define V9_REQUEST_SUSPECTS_H

#include "request/state.h"

enum { V9_DEATHS_MAX = 3 };

/* Whether a request that has yet to run again is to be tried. */
static inline bool v9_request_is_suspect(const struct v9_request *r)
{
    return r->deaths && r->deaths < V9_DEATHS_MAX;
}

/* Of a device whose process died, before anything else is made good: how many requests ran,
 * including one that was taken from the ring. */
uint32_t v9_suspects_running(const struct v9_device *dev);
/* Blames those that ran, or the one on trial (V9_BLAME_*), once: from now on none is running. */
void v9_suspects_blame(struct v9_device *dev, uint32_t blame);
/* Runs the suspects that can be run, one after the other. Each may take so long; the trial ends
 * when so many have taken longer. [locked] */
void v9_suspects_try(struct v9_device *dev, int64_t patience_ns, uint32_t overdue_max);

#endif
