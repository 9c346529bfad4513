/*
 * notify: telling the frontend: its call and err descriptors.
 *
 * They are the frontend's, which may make any write to them block: an eventfd has one description
 * for both sides, whose O_NONBLOCK either can clear, and no second one can be had; a pipe has one
 * of our own where the host lets us open it; of a socket (User Mode Linux's "pipe" is one) each
 * send says for itself that it does not wait. So nobody writes to them under a lock, nor on a
 * thread that others need: only a device's serving threads do, one at a time, and the watch
 * interrupts one that hangs there. A descriptor that is full has woken its reader already.
 */
#ifndef V9_REQUEST_NOTIFY_H
#define V9_REQUEST_NOTIFY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "request/state.h"

/* Takes (a duplicate of) a descriptor, or none (-1). -errno. */
int v9_notifier_new(int fd, struct v9_notifier **notifier);
/* In the place of the one before. */
void v9_notifier_set(struct v9_notifier **where, struct v9_notifier *notifier); /* [locked] */

/* Whether this thread should call v9_notify. */
static inline bool v9_notify_is_due(const struct v9_notify *notify)
{
    return (notify->call_due || notify->err_due) && !notify->writing;
}

/* On a serving thread: does what is due. The lock is free meanwhile. */
void v9_notify(struct v9_device *dev); /* [locked] */
/* The watch's look, once a millisecond: a thread that hangs is interrupted. */
void v9_notify_watch(struct v9_notify *notify); /* [locked] */

/* Has the driver told of what was pushed, if it asks for it: v9_notify is due then. Whoever is no
 * serving thread wakes one. */
void v9_device_signal(struct v9_device *dev); /* [locked] */
/* Python is to hear of something (v9_upcall_news). */
void v9_device_tell(struct v9_device *dev); /* [locked] */
/* After a change, made under the lock, that a sleeping serving thread has to hear of. */
void v9_device_wake(struct v9_device *dev);
/* A thread begins something that may hang: somebody keeps watch. */
void v9_device_watch(struct v9_device *dev); /* [locked] */

/* A condition whose waits end by CLOCK_MONOTONIC, and the time `ns` from now on that clock. */
void v9_cond_init(pthread_cond_t *cond);
struct timespec v9_from_now(int64_t ns);

#endif
