#include "base/token_bucket.h"

enum { NS = 1000000000, TENTH = NS / 10 };

static const v9_amount AMOUNT_MAX = ~(v9_amount)0;

static v9_amount add(v9_amount a, v9_amount b)
{
    v9_amount sum;
    return __builtin_add_overflow(a, b, &sum) ? AMOUNT_MAX : sum;
}

static v9_amount multiply(v9_amount a, v9_amount b)
{
    v9_amount product;
    return __builtin_mul_overflow(a, b, &product) ? AMOUNT_MAX : product;
}

void v9_token_bucket_init(struct v9_token_bucket *t, const struct v9_token_bucket_conf *conf,
                          int64_t now)
{
    *t = (struct v9_token_bucket){.iops_size = conf->iops_size, .then = now};
    for (int i = 0; i < V9_LIMITS; i++) {
        const struct v9_limit *limit = &conf->limits[i];
        struct v9_bucket *sum = &t->buckets[2 * i], *burst = sum + 1;

        if (!limit->avg)
            continue;
        sum->leak = limit->avg;
        sum->capacity = limit->max ? multiply((v9_amount)limit->max * limit->length, NS)
                                   : (v9_amount)limit->avg * TENTH;
        if (limit->length > 1) {
            burst->leak = limit->max;
            burst->capacity = (v9_amount)limit->max * TENTH;
        }
    }
}

static void leak(struct v9_token_bucket *t, int64_t now)
{
    const uint64_t passed = now > t->then ? (uint64_t)now - (uint64_t)t->then : 0;

    if (!passed)
        return;
    t->then = now;
    for (int i = 0; i < V9_BUCKETS; i++) {
        struct v9_bucket *bucket = &t->buckets[i];
        const v9_amount lost = (v9_amount)bucket->leak * passed;
        bucket->level -= lost < bucket->level ? lost : bucket->level;
    }
}

/* Whether a bucket counts what moves this way. */
static bool counts(int bucket, bool write)
{
    const int limit = bucket / 2;

    return limit == V9_BPS_TOTAL || limit == V9_IOPS_TOTAL ||
           limit == (write ? V9_BPS_WRITE : V9_BPS_READ) ||
           limit == (write ? V9_IOPS_WRITE : V9_IOPS_READ);
}

int64_t v9_token_bucket_wait(struct v9_token_bucket *t, bool write, int64_t now)
{
    v9_amount longest = 0;

    leak(t, now);
    for (int i = 0; i < V9_BUCKETS; i++) {
        const struct v9_bucket *bucket = &t->buckets[i];
        if (bucket->leak && counts(i, write) && bucket->level > bucket->capacity) {
            const v9_amount extra = bucket->level - bucket->capacity;
            const v9_amount wait = extra / bucket->leak + (extra % bucket->leak != 0);
            longest = wait > longest ? wait : longest;
        }
    }
    return longest > INT64_MAX ? INT64_MAX : (int64_t)longest;
}

void v9_token_bucket_pour(struct v9_token_bucket *t, bool write, uint32_t bytes, int64_t now)
{
    v9_amount requests = NS;

    leak(t, now);
    /* A part of iops-size bytes counts as a part of a request, rounded up to a billionth. */
    if (t->iops_size && bytes > t->iops_size)
        requests = ((v9_amount)bytes * NS + t->iops_size - 1) / t->iops_size;
    for (int i = 0; i < V9_BUCKETS; i++)
        if (t->buckets[i].leak && counts(i, write))
            t->buckets[i].level =
                add(t->buckets[i].level, i / 2 >= V9_IOPS_TOTAL ? requests : (v9_amount)bytes * NS);
}

/* A level may be half written. More than one transfer beyond its capacity no bucket ever had. */
void v9_token_bucket_go_on(struct v9_token_bucket *t, const struct v9_token_bucket *left)
{
    if (!left->then || left->then > t->then)
        return;
    for (int i = 0; i < V9_BUCKETS; i++) {
        const v9_amount most = t->buckets[i].capacity + t->buckets[i].capacity;
        t->buckets[i].level = left->buckets[i].level < most ? left->buckets[i].level : most;
    }
    t->then = left->then;
}
