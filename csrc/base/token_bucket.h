/*
 * token_bucket: limits how fast data moves, as QEMU's throttling options do.
 *
 * Each unit that moves (a byte or a request) is poured into the buckets that count it, and each
 * bucket leaks at a constant rate. While a bucket holds more than its capacity, nothing that it
 * counts may move; when it does not, a transfer of any size may. So in any span of time a bucket
 * lets through at most its capacity, what leaks in that time, and one request.
 *
 * A limit is one bucket that leaks at `avg` and has room for a tenth of a second's worth, so that
 * not every request waits; or, where a burst is allowed, for the whole burst: `max` a second for
 * `length` seconds. If `length` is more than one second, a second bucket, which leaks at `max` and
 * has room for a tenth of a second's worth, limits the rate of the burst. This is the meaning of
 * QEMU's options of these names (docs/throttle.txt of QEMU).
 *
 * One unit per second is one billionth of a unit per nanosecond: levels are in billionths and times
 * in nanoseconds, so leaking is exact.
 *
 * Plain data without a lock or a clock: the owner serialises, and passes the time.
 */
#ifndef V9_BASE_TOKEN_BUCKET_H
#define V9_BASE_TOKEN_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/api.h"

__extension__ typedef unsigned __int128 v9_amount; /* billionths of a byte or of a request */

struct v9_bucket {
    uint64_t leak; /* units per second */
    v9_amount capacity, level;
};

#define V9_BUCKETS (2 * V9_LIMITS) /* two for each limit; one that does not leak is unused */

struct v9_token_bucket {
    struct v9_bucket buckets[V9_BUCKETS];
    uint64_t iops_size;
    int64_t then; /* when the buckets leaked last */
};

/* The buckets of a configuration, empty at `now`. Values that would overflow count as the largest
 * possible. */
void v9_token_bucket_init(struct v9_token_bucket *t, const struct v9_token_bucket_conf *conf,
                          int64_t now);
/* Takes the levels of buckets that were left by a process that died. */
void v9_token_bucket_go_on(struct v9_token_bucket *t, const struct v9_token_bucket *left);
/* Nanoseconds from `now` until the next read (or write) may move its data; 0: it may now. */
int64_t v9_token_bucket_wait(struct v9_token_bucket *t, bool write, int64_t now);
/* Counts a request that moves `bytes`, even if it did not wait: then the next ones wait longer. */
void v9_token_bucket_pour(struct v9_token_bucket *t, bool write, uint32_t bytes, int64_t now);

#endif
