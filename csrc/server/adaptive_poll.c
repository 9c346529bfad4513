#include "server/adaptive_poll.h"

#include <stdbool.h>

enum {
    SAVED = 5,          /* what a wake-up is worth, in steps of a window */
    OBSERVED = 32,      /* polls of an observation */
    HELD = 1024,        /* requests for which windows are kept */
    MISSES = 4,         /* so many empty windows in a row: observe anew */
    YIELDS = 3,         /* so many preemptions in a row: rest */
    HITS = 64,          /* so many requests found reset the length of those rests */
    REST_FIRST = 32,    /* the first rest, in requests */
    REST_GROWTH = 4,    /* each one is so many times as long as the one before */
    REST_LAST = 131072, /* the longest */
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max)
{
    *poll = (struct v9_adaptive_poll){.max = max, .left_next = REST_FIRST, .rest_next = REST_FIRST};
}

static struct v9_poll_gaps *gaps_after(struct v9_adaptive_poll *poll, uint8_t type)
{
    return &poll->after[type / 2 % V9_POLL_TYPES];
}

int64_t v9_adaptive_poll_window(const struct v9_adaptive_poll *poll, uint8_t type)
{
    if (poll->rest)
        return 0;
    return poll->left ? poll->max * poll->after[type / 2 % V9_POLL_TYPES].steps / V9_POLL_STEPS
                      : poll->max;
}

/* The length of a rest; the next one is longer. */
static uint32_t take_rest(uint32_t *next)
{
    const uint32_t now = *next;

    if (now < REST_LAST)
        *next = REST_GROWTH * now;
    return now;
}

/* The number of steps whose saved wake-ups are worth most beyond what polling takes; 0: none is.
 * A request comes in the middle of its step, so this counts half steps. */
static uint8_t best_steps(const struct v9_poll_gaps *gaps)
{
    int found = 0, taken = 0, most = 0;
    uint8_t best = 0;

    for (int step = 1; step <= V9_POLL_STEPS; step++) {
        const int here = gaps->found[step - 1];
        int gain;
        found += here;
        taken += here * (2 * step - 1);
        gain = found * 2 * SAVED - taken - (gaps->observed - found) * 2 * step;
        if (gain > most) {
            most = gain;
            best = (uint8_t)step;
        }
    }
    return best;
}

/* Ends an observation. */
static void choose(struct v9_adaptive_poll *poll)
{
    bool pays = false;

    for (int i = 0; i < V9_POLL_TYPES; i++) {
        const uint8_t steps = best_steps(&poll->after[i]);
        poll->after[i] = (struct v9_poll_gaps){.steps = steps};
        pays = pays || steps;
    }
    if (pays)
        poll->left_next = REST_FIRST;
    poll->left = pays ? HELD : take_rest(&poll->left_next);
    poll->observed = poll->misses = 0;
}

/* Counts a poll: of an observation, or one fewer until the next. */
static void count(struct v9_adaptive_poll *poll, struct v9_poll_gaps *gaps)
{
    if (poll->left) {
        poll->left--;
        return;
    }
    gaps->observed++;
    if (++poll->observed == OBSERVED)
        choose(poll);
}

void v9_adaptive_poll_found(struct v9_adaptive_poll *poll, uint8_t type, int64_t gap)
{
    struct v9_poll_gaps *gaps = gaps_after(poll, type);

    poll->yields = poll->misses = 0;
    if (++poll->hits >= HITS)
        poll->rest_next = REST_FIRST;
    if (!poll->left && gap < poll->max)
        gaps->found[gap * V9_POLL_STEPS / poll->max]++;
    count(poll, gaps);
}

void v9_adaptive_poll_missed(struct v9_adaptive_poll *poll, uint8_t type)
{
    const bool observes = !poll->left;

    count(poll, gaps_after(poll, type));
    if (!observes && ++poll->misses == MISSES)
        poll->left = poll->misses = 0;
}

void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll)
{
    if (poll->rest)
        poll->rest--;
    else if (poll->left)
        poll->left--;
}

void v9_adaptive_poll_preempted(struct v9_adaptive_poll *poll)
{
    if (++poll->yields < YIELDS)
        return;
    poll->yields = poll->hits = 0;
    poll->rest = take_rest(&poll->rest_next);
}
