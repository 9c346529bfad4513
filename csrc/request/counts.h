/*
 * counts: what a device has done, for whoever operates it (docs/watching.md, metrics).
 *
 * The counts lie in memory that outlives the process, and that main reads (struct v9_counts), so
 * they only ever grow. They change under the device's lock, which whoever ends a request holds
 * anyway: a request costs an increment or two. Clocks are read only if conf.times_requests.
 */
#ifndef V9_REQUEST_COUNTS_H
#define V9_REQUEST_COUNTS_H

#include <time.h>

#include "request/state.h"

static inline int64_t v9_counts_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A request has been popped. [locked] */
static inline void v9_counts_begin(const struct v9_device *dev, struct v9_request *r)
{
    r->export = 0;
    r->written = 0;
    r->failed = 0;
    r->popped_ns = dev->conf.times_requests ? v9_counts_now() : 0;
}

/* The bucket of a duration: the first one whose bound, V9_LATENCY_FIRST_NS << bucket, is not less.
 */
static inline uint32_t v9_counts_bucket(uint64_t ns)
{
    uint32_t bucket = 0;

    while (bucket < V9_LATENCY_BUCKETS - 1 && ns > (uint64_t)V9_LATENCY_FIRST_NS << bucket)
        bucket++;
    return bucket;
}

/* A reply of so many bytes is about to be pushed. [locked] */
static inline void v9_counts_end(struct v9_device *dev, const struct v9_request *r, int size)
{
    struct v9_export_counts *counts = &dev->counts->exports[r->export];
    struct v9_type_counts *type = &counts->types[r->type < 2 * V9_COUNTED_TYPES ? r->type / 2 : 0];

    type->requests++;
    if (r->failed)
        counts->errors[r->failed < V9_ERRNO_MAX ? r->failed : 0]++;
    else if (r->type == P9_TREAD)
        counts->read += (uint64_t)size - P9_IO_SIZE;
    counts->written += r->written;
    if (r->popped_ns) {
        const uint64_t ns = (uint64_t)(v9_counts_now() - r->popped_ns);
        type->ns += ns;
        type->buckets[v9_counts_bucket(ns)]++;
    }
}

#endif
