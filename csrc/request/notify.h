/*
 * notify: waking others: the frontend, by its call and err descriptors; the serving threads; the
 * watchdog.
 *
 * The frontend can make any write to its descriptors block. Both sides share the one file
 * description of an eventfd, and either can clear O_NONBLOCK. For a pipe we open a description of
 * our own if the host permits it. For a socket (User Mode Linux's "pipe" is one) each send asks not
 * to wait. So nobody writes to these descriptors under a lock, or on a thread that others need.
 * Only a device's serving threads do, one at a time, and the watchdog interrupts a write that
 * hangs. If a descriptor is full, its reader has been woken already.
 */
#ifndef V9_REQUEST_NOTIFY_H
#define V9_REQUEST_NOTIFY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "request/state.h"

/* Duplicates a descriptor for notifications; -1: none, *notifier is NULL. -errno. */
int v9_notifier_new(int fd, struct v9_notifier **notifier);
/* Replace the notifier for completions, or for a broken ring, and release the one that was there.
 */
void v9_notify_set_call(struct v9_notify *notify, struct v9_notifier *notifier); /* [locked] */
void v9_notify_set_err(struct v9_notify *notify, struct v9_notifier *notifier);  /* [locked] */
/* After a death: both again, with the same descriptors. */
void v9_notify_recover(struct v9_notify *notify);

/* Whether this thread should call v9_notify. */
static inline bool v9_notify_is_due(const struct v9_notify *notify)
{
    return (notify->call_due || notify->err_due) && !notify->writing;
}

/* On a serving thread: sends the notifications that are due. Releases the lock while it writes. */
void v9_notify(struct v9_device *dev); /* [locked] */
/* Called by the watchdog once a millisecond: interrupts a thread that hangs in a write. */
void v9_notify_check(struct v9_notify *notify); /* [locked] */

/* After pushes: if the driver wants a notification, v9_notify becomes due. A thread that does not
 * serve the ring has to wake one that does. */
void v9_device_signal(struct v9_device *dev); /* [locked] */
/* Schedules a report to Python (v9_upcall_report). */
void v9_device_schedule_report(struct v9_device *dev); /* [locked] */
/* Wakes a sleeping serving thread, after a change made under the lock. */
void v9_device_wake(struct v9_device *dev);
/* Wakes the watchdog, before a thread begins something that may hang. */
void v9_device_wake_watchdog(struct v9_device *dev); /* [locked] */

/* Initialises a condition variable whose timed waits use CLOCK_MONOTONIC; the time `ns` from now on
 * that clock. */
void v9_cond_init(pthread_cond_t *cond);
struct timespec v9_from_now(int64_t ns);

#endif
