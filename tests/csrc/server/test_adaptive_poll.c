// sources: server/adaptive_poll.c
/*
 * How long a thread polls for requests before it sleeps, for various gaps between requests, in
 * simulated time.
 */
#define _GNU_SOURCE
#include "server/adaptive_poll.h"

#include <stdbool.h>

#include "check.h"

enum { US = 1000, MAX = 40 * US, WALK = 110, CLUNK = 120 };

/* The outcome of requests: how many were found by polling, and the time spent on polling. */
struct outcome {
    int found;
    int64_t polled;
};

/* One request, `gap` after one of this type. */
static void one(struct v9_adaptive_poll *poll, uint8_t type, int64_t gap, struct outcome *outcome)
{
    const int64_t window = v9_adaptive_poll_window(poll, type);

    CHECK(window >= 0 && window <= poll->max);
    if (!window) {
        v9_adaptive_poll_slept(poll);
    } else if (gap < window) {
        v9_adaptive_poll_found(poll, type, gap);
        outcome->found++;
        outcome->polled += gap;
    } else {
        v9_adaptive_poll_missed(poll, type);
        outcome->polled += window;
    }
}

static struct outcome run(struct v9_adaptive_poll *poll, uint8_t type, int64_t gap, int requests)
{
    struct outcome outcome = {0, 0};

    for (int i = 0; i < requests; i++)
        one(poll, type, gap, &outcome);
    return outcome;
}

TEST(without_a_window_nothing_is_polled)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, 0);
    CHECK(run(&poll, WALK, 0, 100).polled == 0);
    CHECK(run(&poll, WALK, 1, 100).found == 0);
}

TEST(requests_in_quick_succession_are_polled_for)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, MAX);
    CHECK(run(&poll, WALK, 2 * US, 10000).found == 10000);
    /* A long pause does not stop it; many do, and cost little. */
    CHECK(run(&poll, WALK, 1000 * US, 1).found == 0);
    CHECK(run(&poll, WALK, 2 * US, 100).found == 100);
    CHECK(run(&poll, WALK, 1000 * US, 1000).polled < 200 * MAX);
    CHECK(v9_adaptive_poll_window(&poll, WALK) == 0);
}

TEST(a_window_is_as_long_as_the_gaps)
{
    struct v9_adaptive_poll poll;
    struct outcome outcome = {0, 0};

    v9_adaptive_poll_init(&poll, MAX);
    run(&poll, WALK, 2 * US, 100);
    CHECK(v9_adaptive_poll_window(&poll, WALK) == MAX / 8);
    /* The gaps grow: found again, once the window has been empty for a few times. */
    run(&poll, WALK, 12 * US, 100);
    CHECK(v9_adaptive_poll_window(&poll, WALK) == 3 * MAX / 8);
    /* One of many that comes late is not waited for. */
    for (int i = 0; i < 2000; i++)
        one(&poll, WALK, i % 8 ? 2 * US : 35 * US, &outcome);
    CHECK(v9_adaptive_poll_window(&poll, WALK) == MAX / 8);
}

TEST(a_request_that_comes_late_is_not_waited_for)
{
    struct v9_adaptive_poll poll;
    struct outcome outcome;

    v9_adaptive_poll_init(&poll, MAX);
    outcome = run(&poll, WALK, MAX - 5 * US, 100000); /* within reach, but not worth it */
    CHECK(outcome.found > 0);
    CHECK(outcome.polled < 100000ll * US / 10); /* less than a tenth of a microsecond each */
    /* Polling is tried again later. */
    CHECK(run(&poll, WALK, 2 * US, 200000).found > 50000);
    CHECK(run(&poll, WALK, 2 * US, 1000).found == 1000);
}

TEST(what_pays_depends_on_the_request_before)
{
    struct v9_adaptive_poll poll;
    struct outcome walks = {0, 0}, clunks = {0, 0};

    v9_adaptive_poll_init(&poll, MAX);
    for (int i = 0; i < 10000; i++) {
        one(&poll, WALK, 5 * US, &walks);
        one(&poll, CLUNK, 500 * US, &clunks);
    }
    CHECK(walks.found == 10000);
    CHECK(clunks.found == 0 && clunks.polled < 10000ll * MAX / 25);
}

static void preempt(struct v9_adaptive_poll *poll)
{
    for (int i = 0; i < 10 && v9_adaptive_poll_window(poll, WALK); i++)
        v9_adaptive_poll_preempted(poll);
    CHECK(!v9_adaptive_poll_window(poll, WALK) && !v9_adaptive_poll_window(poll, CLUNK));
}

TEST(polling_ends_where_others_want_the_cpu)
{
    struct v9_adaptive_poll poll;
    int rest = 0;

    v9_adaptive_poll_init(&poll, MAX);
    run(&poll, WALK, 2 * US, 100);
    for (int i = 0; i < 100; i++) { /* single preemptions have no effect */
        v9_adaptive_poll_preempted(&poll);
        CHECK(v9_adaptive_poll_window(&poll, WALK) > 0);
        v9_adaptive_poll_found(&poll, WALK, 2 * US);
    }
    preempt(&poll);
    for (; !v9_adaptive_poll_window(&poll, WALK) && rest < 10000; rest++)
        v9_adaptive_poll_slept(&poll);
    CHECK(rest > 10 && rest < 1000);
    preempt(&poll);
    for (int i = 0; i < rest; i++) {
        CHECK(!v9_adaptive_poll_window(&poll, WALK)); /* longer than the first time */
        v9_adaptive_poll_slept(&poll);
    }
}

TEST(every_type_has_a_place)
{
    struct v9_adaptive_poll poll;

    for (int type = 0; type < 256; type++) {
        v9_adaptive_poll_init(&poll, MAX);
        CHECK(run(&poll, (uint8_t)type, 2 * US, 100).found == 100);
    }
}

/* What a driver does first after a pause says nothing of what it does then. */
TEST(a_type_that_was_not_observed_is_not_waited_for_until_the_next_observation)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, MAX);
    run(&poll, WALK, 2 * US, 100);
    CHECK(!v9_adaptive_poll_window(&poll, CLUNK) && run(&poll, CLUNK, 2 * US, 100).found == 0);
    CHECK(run(&poll, CLUNK, 2 * US, 2000).found > 1000);
}
