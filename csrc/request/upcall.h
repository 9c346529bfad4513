/*
 * upcall: serving threads call Python, and Python answers some requests later.
 *
 * A serving thread calls Python itself: it acquires the interpreter, and publishes the reply on its
 * return. So devices share nothing but the interpreter, and a request that hangs in one of Python's
 * system calls holds up its own thread only. The thread waits for the interpreter without any lock,
 * because the thread that has the interpreter may want the lock.
 *
 * During the call for a request, and for a lock, the request is V9_AWAY: the memory table may
 * change, or the ring may stop. A Tlock that waits is answered later (V9_LATER), by Python's thread
 * that waits for the lock.
 *
 * Call these functions with no lock held except the device's, which they release during the call.
 */
#ifndef V9_REQUEST_UPCALL_H
#define V9_REQUEST_UPCALL_H

#include "request/state.h"

/* Passes a request to Python, and ends it unless Python answers later. */
void v9_upcall_request(struct v9_device *dev, struct v9_request *r,
                       struct v9_scratch *scratch); /* [locked] */
enum { V9_PROMISE_MAX = 32 };
/* While Python answers a request: as v9_request_promise, a reply of this type with a body of at
 * most V9_PROMISE_MAX bytes; or as v9_request_promise_error, for -errno. */
void v9_upcall_promise(struct v9_device *dev, int err, uint8_t type, const void *body,
                       uint32_t size);
/* Passes r->question, of a kind (V9_UP_*), to Python, which installs its decision: 0 or -errno. */
int v9_upcall_question(struct v9_device *dev, struct v9_request *r, uint32_t kind,
                       struct v9_worker *worker);
/* A Tlock of a process, which C has checked. */
struct v9_lock_request {
    uint64_t fid; /* handle of the pinned fid, which is open */
    bool writable;
    uint64_t st_dev, st_ino; /* its file */
    const char *client_id;   /* of the process */
    uint16_t client_size;
    uint32_t proc_id, type; /* V9_LOCK_* */
    uint64_t start, length;
    bool flock;       /* it may be one of flock(2) */
    uint64_t request; /* its number (v9_up_lock) */
};
/* Lets Python take or release a lock: 0; -EAGAIN: another process holds it; -errno. */
int v9_upcall_lock(struct v9_device *dev, const struct v9_lock_request *lock,
                   struct v9_worker *worker);
/* Reports to Python that the ring is broken, and one cancelled V9_LATER request. */
void v9_upcall_report(struct v9_device *dev, struct v9_worker *worker); /* [locked] */

#endif
