/*
 * trace: requests and their replies are recorded for whoever watches a device (vhost9p trace).
 *
 * The records are in memory that main has created, and that the device's processes have from their
 * start (vhost9p/trace/memory.py): a page that main writes, which says whether anything is to be
 * recorded; a page that says how far the records have come; notes of requests that have begun; and
 * a ring of records. Nobody waits for a reader: the ring goes round, and a reader that is too slow
 * sees by the numbers that its records were overwritten. A reader maps the memory read-only.
 *
 * A record is made before its reply is published, under the device's lock, so that records are in
 * the order of the replies. What it says of the file, a name of the guest's, and when the request
 * has begun, is noted when that begins, since its fid may be gone at the end. Notes and ring stay
 * when a process dies: its successor goes on with both.
 *
 * A device without that memory records nothing, and one that nobody watches costs two looks at a
 * flag for each request.
 */
#ifndef V9_REQUEST_TRACE_H
#define V9_REQUEST_TRACE_H

#include "request/state.h"

struct v9_trace_path {
    uint8_t state; /* V9_TRACE_PATH_* */
    uint16_t export;
    uint16_t size;
    char text[V9_TRACE_PATH_MAX];
};

/* Of a request that has begun. */
struct v9_trace_note {
    uint32_t seq; /* of the request in the slot that this is about */
    uint32_t uid;
    int64_t began;           /* CLOCK_REALTIME, ns */
    int64_t began_monotonic; /* CLOCK_MONOTONIC, ns */
    struct v9_trace_path paths[2];
};

struct v9_trace {
    struct v9_trace_control control;
    _Alignas(V9_TRACE_PAGE) struct v9_trace_progress progress;
    _Alignas(V9_TRACE_PAGE) struct v9_trace_note notes[V9_SLOTS];
    _Alignas(V9_TRACE_PAGE) uint8_t ring[V9_TRACE_RING];
};

static inline bool v9_trace_is_on(const struct v9_device *dev)
{
    return dev->trace && __atomic_load_n(&dev->trace->control.on, __ATOMIC_RELAXED);
}
/* On the request's thread, before it is carried out: notes when it has begun, and on which files.
 * A request that runs again keeps the first note. */
void v9_trace_begin(struct v9_device *dev, const struct v9_request *r);
/* Before a reply of so many bytes, which lies in the request's chain, is published. */
void v9_trace_end(struct v9_device *dev, const struct v9_request *r, uint32_t size); /* [locked] */

#endif
