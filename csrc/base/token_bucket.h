/*
 * throttle: how fast data may move, by leaky buckets.
 *
 * Each unit that moves (a byte, or a request) is poured into the buckets that count it, and each
 * bucket leaks at a constant rate. While a bucket holds more than its capacity, nothing may move
 * that it counts; what moves while it does not may be of any size. So in any span of time a bucket
 * lets through at most its capacity, what it leaks meanwhile, and one request.
 *
 * A limit is one bucket that leaks at `avg` and has room for a tenth of a second's worth, so that
 * not every request waits; or, where a burst is allowed, for the whole burst, `max` a second for
 * `length` seconds. Where that is more than one second, a second bucket, which leaks at `max` and
 * has room for a tenth of a second's worth, keeps the burst to its rate. This is what QEMU's
 * options of these names mean (docs/throttle.txt of QEMU).
 *
 * One unit per second is one billionth of a unit per nanosecond: levels are in billionths, times in
 * nanoseconds, and what leaks is exact.
 *
 * Plain data without a lock or a clock: the owner serialises and tells the time.
 */
#ifndef V9_BASE_TOKEN_BUCKET_H
#define V9_BASE_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "vhost9p.h"

__extension__ typedef unsigned __int128 v9_amount; /* billionths of a byte or of a request */

struct v9_bucket {
    uint64_t leak; /* units per second */
    v9_amount capacity, level;
};

#define V9_BUCKETS (2 * V9_LIMITS) /* two for each limit; one that does not leak is none */

struct v9_token_bucket {
    struct v9_bucket buckets[V9_BUCKETS];
    uint64_t iops_size;
    int64_t then; /* when the buckets have leaked last */
};

/* The buckets of a configuration, empty at `now`. Any configuration will do: what would overflow
 * is as much as can be counted. */
void v9_token_bucket_init(struct v9_token_bucket *t, const struct v9_token_bucket_conf *conf,
                          int64_t now);
/* Nanoseconds from `now` on until the next read (or write) may move its data; 0: it may. */
int64_t v9_token_bucket_wait(struct v9_token_bucket *t, bool write, int64_t now);
/* A request moves `bytes`, whether its time has come or not: the others wait for longer then. */
void v9_token_bucket_pour(struct v9_token_bucket *t, bool write, uint32_t bytes, int64_t now);

#endif
