// sources: server/adaptive_poll.c
/*
 * How long a thread polls for requests before it sleeps, for various gaps between requests, in
 * simulated time.
 */
#define _GNU_SOURCE
#include "server/adaptive_poll.h"

#include "check.h"

enum { US = 1000, MAX = 20 * US };

/* The outcome of requests at a fixed gap: how many were found by polling, and the time spent on
 * polling. */
struct outcome {
    int found;
    int64_t polled;
};

static struct outcome run(struct v9_adaptive_poll *poll, int64_t gap, int requests)
{
    struct outcome outcome = {0, 0};

    for (int i = 0; i < requests; i++) {
        int64_t window = poll->window;
        if (window > gap) {
            v9_adaptive_poll_found(poll);
            outcome.found++;
            outcome.polled += gap;
        } else {
            v9_adaptive_poll_slept(poll, gap, window > 0);
            outcome.polled += window;
        }
        CHECK(poll->window >= 0 && poll->window <= poll->max);
    }
    return outcome;
}

TEST(without_a_window_nothing_is_polled)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, 0);
    CHECK(run(&poll, 0, 100).polled == 0);
    CHECK(run(&poll, 1, 100).found == 0);
}

TEST(requests_in_quick_succession_are_polled_for)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, MAX);
    CHECK(poll.window == 0);
    CHECK(run(&poll, 2 * US, 100).found > 90);
    CHECK(run(&poll, 10 * US, 100).found > 90);
    /* One or two long pauses do not stop it; many do. */
    CHECK(run(&poll, 1000 * US, 2).found == 0);
    CHECK(run(&poll, 2 * US, 100).found > 90);
    CHECK(run(&poll, 1000 * US, 100).polled <= 4 * MAX);
    CHECK(poll.window == 0);
}

TEST(a_sleep_counts_with_its_wakeup)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, MAX);
    v9_adaptive_poll_slept(&poll, 2 * MAX, false);
    CHECK(poll.window > 0);
    v9_adaptive_poll_init(&poll, MAX);
    v9_adaptive_poll_slept(&poll, 2 * MAX + 1, false);
    CHECK(poll.window == 0);
}

TEST(polling_in_vain_ends)
{
    struct v9_adaptive_poll poll;
    struct outcome outcome;

    v9_adaptive_poll_init(&poll, MAX);
    outcome = run(&poll, MAX + 10 * US, 100000);
    CHECK(outcome.found == 0);
    CHECK(outcome.polled < 100000ll * US / 10); /* less than a tenth of a microsecond each */
    /* Polling is tried again later. */
    CHECK(run(&poll, 2 * US, 10000).found > 5000);
    CHECK(run(&poll, 2 * US, 1000).found == 1000);
}

static void preempt(struct v9_adaptive_poll *poll)
{
    for (int i = 0; i < 10 && poll->window; i++)
        v9_adaptive_poll_preempted(poll);
    CHECK(!poll->window);
}

TEST(polling_ends_where_others_want_the_cpu)
{
    struct v9_adaptive_poll poll;
    int rest = 0;

    v9_adaptive_poll_init(&poll, MAX);
    run(&poll, 2 * US, 100);
    for (int i = 0; i < 100; i++) { /* single preemptions have no effect */
        v9_adaptive_poll_preempted(&poll);
        CHECK(poll.window > 0);
        v9_adaptive_poll_found(&poll);
    }
    preempt(&poll);
    for (; !poll.window && rest < 10000; rest++)
        v9_adaptive_poll_slept(&poll, 2 * US, false);
    CHECK(rest > 10 && rest < 1000);
    preempt(&poll);
    for (int i = 0; i < rest; i++) {
        CHECK(poll.window == 0); /* longer than the first time */
        v9_adaptive_poll_slept(&poll, 2 * US, false);
    }
}
