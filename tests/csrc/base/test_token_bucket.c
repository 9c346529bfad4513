// sources: base/token_bucket.c
/*
 * Leaky buckets in simulated time: what a limit lets through, to the nanosecond; and for random
 * configurations, that no span of time lets through more than it may, and that requests which wait
 * exactly as long as required get the whole rate.
 */
#define _GNU_SOURCE
#include "base/token_bucket.h"

#include <stdlib.h>

#include "check.h"

enum { S = 1000000000, MS = 1000000 };

SET_UP()
{
    srandom(9);
}

static struct v9_token_bucket one_limit(int which, uint64_t avg, uint64_t max, uint32_t length)
{
    struct v9_token_bucket_conf conf = {0};
    struct v9_token_bucket t;

    conf.limits[which] = (struct v9_limit){avg, max, length};
    v9_token_bucket_init(&t, &conf, 0);
    return t;
}

/* Moves requests of one size as soon as each may go; how many have gone before `end`. */
static uint64_t greedy(struct v9_token_bucket *t, bool write, uint32_t bytes, int64_t begin,
                       int64_t end)
{
    uint64_t count = 0;

    for (int64_t now = begin;; count++) {
        int64_t wait = v9_token_bucket_wait(t, write, now);
        if (wait >= end - now)
            return count;
        now += wait;
        v9_token_bucket_pour(t, write, bytes, now);
    }
}

TEST(without_limits_nothing_waits)
{
    const struct v9_token_bucket_conf conf = {.iops_size = 1};
    struct v9_token_bucket t;

    v9_token_bucket_init(&t, &conf, 0);
    for (int i = 0; i < 100; i++) {
        v9_token_bucket_pour(&t, i & 1, UINT32_MAX, 0);
        CHECK(v9_token_bucket_wait(&t, i & 1, 0) == 0);
    }
}

TEST(a_tenth_of_a_second_may_burst)
{
    struct v9_token_bucket t = one_limit(V9_BPS_TOTAL, 1000, 0, 1);

    v9_token_bucket_pour(&t, false, 100, 0); /* the bucket is full, not more */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 0);
    v9_token_bucket_pour(&t, false, 1, 0); /* one byte over: it has leaked after 1 ms */
    CHECK(v9_token_bucket_wait(&t, false, 0) == MS);
    CHECK(v9_token_bucket_wait(&t, false, MS - 1) == 1);
    CHECK(v9_token_bucket_wait(&t, false, MS) == 0);
    /* Any size may go then, and is paid for afterwards. */
    v9_token_bucket_pour(&t, false, 5000, MS);
    CHECK(v9_token_bucket_wait(&t, false, MS) == 5ll * S);
    /* What has leaked out does not come back. */
    CHECK(v9_token_bucket_wait(&t, false, 100ll * S) == 0);
    v9_token_bucket_pour(&t, false, 101, 100ll * S);
    CHECK(v9_token_bucket_wait(&t, false, 100ll * S) == MS);
}

TEST(waits_are_rounded_up)
{
    struct v9_token_bucket t = one_limit(V9_IOPS_TOTAL, 30, 0, 1);

    for (int i = 0; i < 4; i++)
        v9_token_bucket_pour(&t, false, 1,
                             0); /* room for 3: one is too many, for 33 333 333.3 ns */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 33333334);
    CHECK(v9_token_bucket_wait(&t, false, 33333333) == 1);
    CHECK(v9_token_bucket_wait(&t, false, 33333334) == 0);
}

TEST(a_burst_of_a_second_passes)
{
    struct v9_token_bucket t = one_limit(V9_BPS_WRITE, 1000, 4000, 1);

    v9_token_bucket_pour(&t, true, 4000, 0);
    CHECK(v9_token_bucket_wait(&t, true, 0) == 0);
    v9_token_bucket_pour(&t, true, 1000, 0);
    CHECK(v9_token_bucket_wait(&t, true, 0) == S);
    CHECK(v9_token_bucket_wait(&t, false, 0) == 0); /* reads are not limited */
}

/* 1000 per second, bursts of 5000 per second for 3 s: the bucket has room for 15 000, which
 * while 1000 a second leak lasts for 3.75 s at 5000. */
TEST(a_burst_of_three_seconds_passes_at_its_own_rate)
{
    struct v9_token_bucket t = one_limit(V9_BPS_READ, 1000, 5000, 3);

    v9_token_bucket_pour(&t, false, 500, 0); /* a tenth of a second's worth of the burst's rate */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 0);
    v9_token_bucket_pour(&t, false, 5, 0);
    CHECK(v9_token_bucket_wait(&t, false, 0) == MS);

    t = one_limit(V9_BPS_READ, 1000, 5000, 3);
    CHECK(greedy(&t, false, 5, 0, S) == 1000 + 100);
    CHECK(greedy(&t, false, 5, S, 2ll * S) == 1000);
    CHECK(greedy(&t, false, 5, 2ll * S, 3ll * S) == 1000);
    /* 15 000 + 1000 for each second since the beginning have gone in the end, and no more. */
    CHECK(greedy(&t, false, 5, 3ll * S, 10ll * S) == (15000 + 10 * 1000) / 5 - 3100);
    CHECK(greedy(&t, false, 5, 10ll * S, 20ll * S) == 10 * 1000 / 5);
    /* It comes again after it was left alone for 15 s. */
    CHECK(v9_token_bucket_wait(&t, false, 35ll * S) == 0);
    CHECK(greedy(&t, false, 5, 35ll * S, 36ll * S) == 1100);
}

TEST(large_requests_count_in_parts)
{
    const struct v9_token_bucket_conf conf = {.limits[V9_IOPS_TOTAL] = {100, 0, 1},
                                              .iops_size = 4096};
    struct v9_token_bucket t;

    v9_token_bucket_init(&t, &conf, 0);
    for (int i = 0; i < 10; i++)
        v9_token_bucket_pour(&t, false, i < 5 ? 1 : 4096, 0); /* at least one each */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 0);
    v9_token_bucket_pour(&t, false, 6144, 0); /* one and a half */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 15 * MS);
    v9_token_bucket_pour(&t, true, 40960, 0);
    CHECK(v9_token_bucket_wait(&t, false, 0) == 115 * MS);
}

TEST(all_limits_apply)
{
    const struct v9_token_bucket_conf conf = {
        .limits[V9_BPS_READ] = {1000, 1000, 1},
        .limits[V9_BPS_WRITE] = {500, 500, 1},
        .limits[V9_IOPS_TOTAL] = {2, 2, 1},
    };
    struct v9_token_bucket t;

    v9_token_bucket_init(&t, &conf, 0);
    v9_token_bucket_pour(&t, false, 3000, 0); /* 2 s over the bytes to read, 1 request */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 2ll * S);
    CHECK(v9_token_bucket_wait(&t, true, 0) == 0);
    v9_token_bucket_pour(&t, true, 1, 0);
    v9_token_bucket_pour(&t, true, 1, 0);
    CHECK(v9_token_bucket_wait(&t, true, 0) == S / 2); /* 3 requests */
    CHECK(v9_token_bucket_wait(&t, false, 0) == 2ll * S);
}

TEST(an_older_clock_reading_changes_nothing)
{
    struct v9_token_bucket t = one_limit(V9_BPS_TOTAL, 10, 0, 1);

    v9_token_bucket_pour(&t, false, 11, S);
    CHECK(v9_token_bucket_wait(&t, false, S) == S);
    CHECK(v9_token_bucket_wait(&t, false, 0) == S); /* the time that another thread read before */
    CHECK(v9_token_bucket_wait(&t, false, S) == S);
}

TEST(extreme_limits_do_not_overflow)
{
    const uint64_t values[] = {0, 1, 3, 1000000000000000, INT64_MAX, UINT64_MAX};
    const uint32_t lengths[] = {0, 1, 2, UINT32_MAX};
    enum { VALUES = 6, LENGTHS = 4 };

    for (int i = 0; i < VALUES * VALUES * LENGTHS; i++) {
        const uint64_t avg = values[i % VALUES], max = values[i / VALUES % VALUES];
        struct v9_token_bucket_conf conf = {0};
        struct v9_token_bucket t;

        conf.iops_size = max;
        for (int k = 0; k < V9_LIMITS; k++)
            conf.limits[k] = (struct v9_limit){avg, max, lengths[i / (VALUES * VALUES)]};
        v9_token_bucket_init(&t, &conf, 0);
        for (int n = 0; n < 10; n++) {
            v9_token_bucket_pour(&t, n & 1, UINT32_MAX, n);
            const int64_t wait = v9_token_bucket_wait(&t, n & 1, n);
            CHECK(wait >= 0);
            CHECK(avg != 0 || wait == 0);
            CHECK(avg != 1 || max > 3 || wait > 0);
        }
        if (avg > 3 && (!max || max > 3)) /* enough leaks in 292 years */
            CHECK(v9_token_bucket_wait(&t, true, INT64_MAX) == 0);
    }
}

/* ---- properties ------------------------------------------------------------------------------ */

static uint64_t up_to(uint64_t limit)
{
    return (uint64_t)random() % limit;
}

enum { STEPS = 300 };

struct moved {
    int64_t at;
    uint32_t bytes;
};

/* In no span may more go than the limit says; one request may begin while there is just room. */
static void check_spans(const struct moved *moved, const struct v9_limit *limit)
{
    const uint64_t room = limit->max ? limit->max * limit->length : limit->avg / 10;

    for (int i = 0; i < STEPS; i++) {
        uint64_t sum = 0; /* without the last */
        for (int j = i; j < STEPS; sum += moved[j++].bytes) {
            const double span = (double)(moved[j].at - moved[i].at) / S;
            if ((double)sum > (double)room + (double)limit->avg * span + 1)
                CHECK(!"more than the limit");
            if (limit->length > 1 &&
                (double)sum > (double)limit->max / 10 + (double)limit->max * span + 1)
                CHECK(!"more than the burst's rate");
        }
    }
    CHECK(true);
}

TEST(random_traffic_keeps_to_its_limit)
{
    static struct moved moved[STEPS];

    for (int round = 0; round < 200; round++) {
        struct v9_limit limit = {1 + up_to(1000000), 0, 1};
        int64_t now = (int64_t)up_to(INT64_MAX / 4);
        bool idle = false; /* has it ever waited for longer than it had to */
        uint64_t sum = 0;

        if (up_to(3)) {
            limit.max = limit.avg * (1 + up_to(20));
            limit.length = 1 + (uint32_t)up_to(10);
        }
        struct v9_token_bucket t = one_limit(V9_BPS_TOTAL, limit.avg, limit.max, limit.length);
        v9_token_bucket_wait(&t, false, now);
        for (int i = 0; i < STEPS; i++) {
            const bool write = up_to(2);
            now += v9_token_bucket_wait(&t, write, now);
            if (up_to(10) == 0) {
                now += (int64_t)up_to(3ull * S);
                idle = true;
            }
            CHECK(v9_token_bucket_wait(&t, write, now) == 0);
            moved[i] = (struct moved){now, (uint32_t)up_to(limit.avg)};
            v9_token_bucket_pour(&t, write, moved[i].bytes, now);
            sum += moved[i].bytes;
        }
        check_spans(moved, &limit);
        CHECK(idle && sum); /* else the round has checked less than it claims */
    }
}

/* Over a long time those who always ask get the rate, be it of bytes or of requests. */
TEST(the_greedy_get_the_whole_rate)
{
    for (int round = 0; round < 50; round++) {
        const uint64_t avg = 50 + up_to(2000);
        const uint32_t bytes = 1 + (uint32_t)up_to(8192);
        struct v9_token_bucket by_bytes = one_limit(V9_BPS_READ, avg * bytes, 0, 1);
        struct v9_token_bucket by_count = one_limit(V9_IOPS_WRITE, avg, 0, 1);
        const uint64_t count = avg * 10 + avg / 10;
        uint64_t got = greedy(&by_bytes, false, bytes, 0, 10ll * S);
        CHECK(got >= count - 1 && got <= count + 1);
        got = greedy(&by_count, true, bytes, 0, 10ll * S);
        CHECK(got >= count - 1 && got <= count + 1);
    }
}
