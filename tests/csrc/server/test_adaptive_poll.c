// sources: server/adaptive_poll.c
/*
 * How long is looked for requests before a sleep, for gaps of any kind, in simulated time.
 */
#define _GNU_SOURCE
#include "server/adaptive_poll.h"

#include "check.h"

enum { US = 1000, MAX = 20 * US };

/* Requests come, each so long after the last; how many are found by looking, and how much time is
 * spent on that. */
struct outcome {
    int found;
    int64_t looked;
};

static struct outcome run(struct v9_adaptive_poll *poll, int64_t gap, int requests)
{
    struct outcome outcome = {0, 0};

    for (int i = 0; i < requests; i++) {
        int64_t window = poll->window;
        if (window > gap) {
            v9_adaptive_poll_found(poll);
            outcome.found++;
            outcome.looked += gap;
        } else {
            v9_adaptive_poll_slept(poll, gap, window > 0);
            outcome.looked += window;
        }
        CHECK(poll->window >= 0 && poll->window <= poll->max);
    }
    return outcome;
}

TEST(without_a_window_nothing_is_polled)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, 0);
    CHECK(run(&poll, 0, 100).looked == 0);
    CHECK(run(&poll, 1, 100).found == 0);
}

TEST(requests_in_quick_succession_are_polled_for)
{
    struct v9_adaptive_poll poll;

    v9_adaptive_poll_init(&poll, MAX);
    CHECK(poll.window == 0);
    CHECK(run(&poll, 2 * US, 100).found > 90);
    CHECK(run(&poll, 10 * US, 100).found > 90);
    /* A long pause or two do not change it; many do. */
    CHECK(run(&poll, 1000 * US, 2).found == 0);
    CHECK(run(&poll, 2 * US, 100).found > 90);
    CHECK(run(&poll, 1000 * US, 100).looked <= 4 * MAX);
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
    CHECK(outcome.looked < 100000ll * US / 10); /* less than a tenth of a microsecond each */
    /* It is tried again all the same. */
    CHECK(run(&poll, 2 * US, 10000).found > 5000);
    CHECK(run(&poll, 2 * US, 1000).found == 1000);
}

static void disturb(struct v9_adaptive_poll *poll)
{
    for (int i = 0; i < 10 && poll->window; i++)
        v9_adaptive_poll_disturbed(poll);
    CHECK(!poll->window);
}

TEST(polling_ends_where_others_want_the_cpu)
{
    struct v9_adaptive_poll poll;
    int rest = 0;

    v9_adaptive_poll_init(&poll, MAX);
    run(&poll, 2 * US, 100);
    for (int i = 0; i < 100; i++) { /* once in a while it means nothing */
        v9_adaptive_poll_disturbed(&poll);
        CHECK(poll.window > 0);
        v9_adaptive_poll_found(&poll);
    }
    disturb(&poll);
    for (; !poll.window && rest < 10000; rest++)
        v9_adaptive_poll_slept(&poll, 2 * US, false);
    CHECK(rest > 10 && rest < 1000);
    disturb(&poll);
    for (int i = 0; i < rest; i++) {
        CHECK(poll.window == 0); /* longer than the first time */
        v9_adaptive_poll_slept(&poll, 2 * US, false);
    }
}
