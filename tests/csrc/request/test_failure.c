// sources: request/failure.c base/proc.c base/refusal.c base/token_bucket.c
/*
 * Which failed requests are reported to Python, and how many.
 */
#define _GNU_SOURCE
#include "request/failure.h"

#include <errno.h>
#include <stdlib.h>

#include "base/refusal.h"
#include "check.h"

static struct v9_file_facts denied;

enum { BURST = 5 };

static struct v9_device dev;
static v9_export ex;
static struct v9_request r;
static struct v9_worker worker;
static struct {
    uint32_t calls, omitted, why;
    int32_t error;
} reported;

void v9_up_failure(uint32_t device, const char *data, uint32_t size, int32_t error,
                   const struct v9_refusal *refusal, uint32_t omitted)
{
    CHECK(device == dev.conf.id && data == (const char *)r.data && size == r.data_size);
    CHECK(worker.in_python);
    reported.calls++;
    reported.omitted += omitted;
    reported.error = error;
    reported.why = refusal->why;
}

SET_UP()
{
    struct v9_failure_conf conf = {.per_second = 1, .burst = BURST, .skipped = {[EEXIST] = 1}};

    pthread_mutex_init(&dev.lock, NULL);
    dev.exports[0] = &ex;
    CHECK(v9_export_report_failures(&ex, &conf) == 0);
    CHECK(v9_failures_are_reported(&dev));
    v9_refusal_begin(&denied);
}

TEAR_DOWN()
{
    free(ex.failures);
}

TEST(error_is_reported_with_its_reason)
{
    v9_failure_report(&dev, &r, v9_refuse(EROFS, V9_REFUSED_READONLY, 0), &worker);
    CHECK(reported.calls == 1 && reported.error == EROFS && reported.why == V9_REFUSED_READONLY);
    CHECK(!worker.in_python);
}

TEST(success_and_skipped_errors_are_not_reported)
{
    v9_failure_report(&dev, &r, 11, &worker);
    v9_failure_report(&dev, &r, -EEXIST, &worker);
    v9_failure_report(&dev, &r, -ENOENT, &worker);
    CHECK(reported.calls == 0);
}

TEST(hidden_name_is_reported)
{
    v9_failure_report(&dev, &r, v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0), &worker);
    CHECK(reported.calls == 1 && reported.why == V9_REFUSED_HIDDEN);
}

TEST(walk_that_ends_early_is_reported)
{
    v9_refusal_of_walk(EACCES, 1, -1, 0);
    v9_failure_report(&dev, &r, 22, &worker);
    CHECK(reported.calls == 1 && reported.error == EACCES);
}

TEST(no_more_than_the_burst_are_reported)
{
    for (int i = 0; i < 100 * BURST; i++)
        v9_failure_report(&dev, &r, -EIO, &worker);
    CHECK(reported.calls >= BURST && reported.calls < 50 * BURST);
}

TEST(those_in_between_are_counted)
{
    struct v9_failure_conf conf = {.per_second = 1000, .burst = BURST};
    uint32_t failed = 0, calls;

    free(ex.failures);
    CHECK(v9_export_report_failures(&ex, &conf) == 0);
    for (; failed < 100 * BURST; failed++)
        v9_failure_report(&dev, &r, -EIO, &worker);
    for (calls = reported.calls; reported.calls == calls; failed++)
        v9_failure_report(&dev, &r, -EIO, &worker); /* until there is room again */
    CHECK(reported.calls + reported.omitted == failed);
}

TEST(nothing_is_reported_unless_that_was_asked_for)
{
    free(ex.failures);
    ex.failures = NULL;
    CHECK(!v9_failures_are_reported(&dev));
    v9_failure_report(&dev, &r, -EIO, &worker);
    CHECK(reported.calls == 0);
}
