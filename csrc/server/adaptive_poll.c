#include "server/adaptive_poll.h"

#include <stdbool.h>
#include <string.h>

enum {
    SAVED = 5,            /* what a wake-up is worth, in steps of a window */
    OBSERVED = 16,        /* polls of an observation */
    HELD = 512,           /* requests for which a window is kept */
    MISSES = 4,           /* so many empty windows in a row: observe anew */
    REST_FIRST = 32,      /* the first rest, in requests; each one is twice the one before */
    REST_LAST = 16384,    /* the longest */
    YIELDS = 3,           /* so many preemptions in a row: rest altogether */
    HITS = 64,            /* so many requests found reset the length of those rests */
    PREEMPTED_MAX = 4096, /* the longest of them */
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max)
{
    *poll = (struct v9_adaptive_poll){.max = max, .rest_next = REST_FIRST};
    for (int i = 0; i < V9_POLL_TYPES; i++)
        poll->after[i].rest_next = REST_FIRST;
}

static struct v9_poll_gaps *gaps_after(struct v9_adaptive_poll *poll, uint8_t type)
{
    return &poll->after[type / 2 % V9_POLL_TYPES];
}

int64_t v9_adaptive_poll_window(const struct v9_adaptive_poll *poll, uint8_t type)
{
    const struct v9_poll_gaps *gaps = &poll->after[type / 2 % V9_POLL_TYPES];

    if (poll->rest)
        return 0;
    return gaps->left ? poll->max * gaps->steps / V9_POLL_STEPS : poll->max;
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
static void choose(struct v9_poll_gaps *gaps)
{
    gaps->steps = best_steps(gaps);
    if (gaps->steps) {
        gaps->left = HELD;
        gaps->rest_next = REST_FIRST;
    } else {
        gaps->left = gaps->rest_next;
        if (gaps->rest_next < REST_LAST)
            gaps->rest_next *= 2;
    }
    gaps->observed = gaps->misses = 0;
    memset(gaps->found, 0, sizeof(gaps->found));
}

/* Counts a poll: of an observation, or one fewer until the next. */
static void count(struct v9_poll_gaps *gaps)
{
    if (gaps->left)
        gaps->left--;
    else if (++gaps->observed == OBSERVED)
        choose(gaps);
}

void v9_adaptive_poll_found(struct v9_adaptive_poll *poll, uint8_t type, int64_t gap)
{
    struct v9_poll_gaps *gaps = gaps_after(poll, type);

    poll->yields = 0;
    if (++poll->hits >= HITS)
        poll->rest_next = REST_FIRST;
    gaps->misses = 0;
    if (!gaps->left && gap < poll->max)
        gaps->found[gap * V9_POLL_STEPS / poll->max]++;
    count(gaps);
}

void v9_adaptive_poll_missed(struct v9_adaptive_poll *poll, uint8_t type)
{
    struct v9_poll_gaps *gaps = gaps_after(poll, type);
    const bool observes = !gaps->left;

    count(gaps);
    if (!observes && ++gaps->misses == MISSES)
        gaps->left = gaps->misses = 0;
}

void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll, uint8_t type)
{
    struct v9_poll_gaps *gaps = gaps_after(poll, type);

    if (poll->rest)
        poll->rest--;
    else if (gaps->left)
        gaps->left--;
}

void v9_adaptive_poll_preempted(struct v9_adaptive_poll *poll)
{
    if (++poll->yields < YIELDS)
        return;
    poll->yields = poll->hits = 0;
    poll->rest = poll->rest_next;
    if (poll->rest_next < PREEMPTED_MAX)
        poll->rest_next *= 2;
}
