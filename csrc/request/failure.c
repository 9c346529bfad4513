#define _GNU_SOURCE
#include "request/failure.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/refusal.h"
#include "base/token_bucket.h"

struct v9_failures {
    struct v9_failure_conf conf;
    /* All below: with the device's lock. */
    struct v9_token_bucket bucket; /* of reports */
    uint32_t omitted;              /* since the last report */
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int v9_export_report_failures(v9_export *ex, const struct v9_failure_conf *conf)
{
    struct v9_failures *failures =
        aligned_alloc(_Alignof(struct v9_failures), sizeof(struct v9_failures));
    struct v9_token_bucket_conf rate = {0};

    if (!failures)
        return -ENOMEM;
    memset(failures, 0, sizeof(*failures));
    failures->conf = *conf;
    rate.limits[V9_IOPS_TOTAL] = (struct v9_limit){conf->per_second, conf->burst, 1};
    v9_token_bucket_init(&failures->bucket, &rate, now_ns());
    ex->failures = failures;
    return 0;
}

/* Whether an errno is worth a report. A file that does not exist is not, unless it was hidden. */
static bool is_reported(const struct v9_failures *failures, int error,
                        const struct v9_refusal *refusal)
{
    if (error < V9_ERRNO_MAX && failures->conf.skipped[error])
        return false;
    return error != ENOENT || refusal->why;
}

/* Takes a report from the bucket; *omitted is how many there was no room for before it. */
static bool admit(struct v9_device *dev, struct v9_failures *failures, uint32_t *omitted)
{
    const int64_t now = now_ns();
    bool admitted;

    pthread_mutex_lock(&dev->lock);
    admitted = v9_token_bucket_wait(&failures->bucket, false, now) == 0;
    *omitted = failures->omitted;
    failures->omitted = admitted ? 0 : failures->omitted + 1;
    if (admitted)
        v9_token_bucket_pour(&failures->bucket, false, 0, now);
    pthread_mutex_unlock(&dev->lock);
    return admitted;
}

void v9_failure_report(struct v9_device *dev, const struct v9_request *r, int result,
                       struct v9_worker *worker)
{
    struct v9_failures *failures;
    struct v9_refusal refusal;
    uint32_t omitted;
    int error;

    if (!v9_failures_are_reported(dev))
        return;
    failures = dev->exports[0]->failures;
    error = result < 0 ? -result : v9_refusal_walk_error();
    if (!error)
        return;
    v9_refusal_read(error, &refusal);
    if (!is_reported(failures, error, &refusal) || !admit(dev, failures, &omitted))
        return;
    __atomic_store_n(&worker->in_python, true, __ATOMIC_RELAXED);
    v9_up_failure(dev->conf.id, (const char *)r->data, r->data_size, error, &refusal, omitted);
    __atomic_store_n(&worker->in_python, false, __ATOMIC_RELAXED);
}

void v9_failure_report_later(struct v9_device *dev, const uint8_t *data, uint32_t size, int error)
{
    struct v9_failures *failures = dev->exports[0]->failures;
    const struct v9_refusal refusal = {0}; /* what has waited is refused by the host */
    uint32_t omitted;

    if (is_reported(failures, error, &refusal) && admit(dev, failures, &omitted))
        v9_up_failure(dev->conf.id, (const char *)data, size, error, &refusal, omitted);
}
