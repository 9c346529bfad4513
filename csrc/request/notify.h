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

struct v9_device;

/* A descriptor to be notified, which lives until the last thread is through with it. */
struct v9_notifier {
    int fd;
    bool is_socket;
    uint32_t users;
};

/* Guarded by the device's lock. */
struct v9_notify {
    struct v9_notifier *call, *err; /* NULL: none */
    bool call_due, err_due;         /* a serving thread is to write to it */
    bool writing;                   /* `thread` does */
    pthread_t thread;
    uint64_t count, seen; /* how often one began to; at the watch's last look */
};

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

#endif
