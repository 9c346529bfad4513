#include "server/adaptive_poll.h"

enum {
    STEPS = 8,        /* the smallest window is this part of the largest */
    MISSES = 4,       /* of the longest windows in a row may end without a request */
    TURNS = 3,        /* times in a row that another thread may have had the CPU */
    HITS = 64,        /* requests found in a row after which all is forgotten */
    REST_FIRST = 32,  /* sleeps without looking */
    REST_LAST = 4096, /* that it doubles to */
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *pace, int64_t max)
{
    *pace = (struct v9_adaptive_poll){.max = max, .rest_next = REST_FIRST};
}

static void rest(struct v9_adaptive_poll *pace)
{
    pace->window = 0;
    pace->misses = pace->turns = pace->hits = 0;
    pace->rest = pace->rest_next;
    if (pace->rest_next < REST_LAST)
        pace->rest_next *= 2;
}

static void grow(struct v9_adaptive_poll *pace)
{
    pace->window = pace->window ? 2 * pace->window : pace->max / STEPS;
    if (pace->window > pace->max)
        pace->window = pace->max;
}

void v9_adaptive_poll_found(struct v9_adaptive_poll *pace)
{
    pace->misses = pace->turns = 0;
    if (++pace->hits >= HITS)
        pace->rest_next = REST_FIRST;
    grow(pace);
}

void v9_adaptive_poll_slept(struct v9_adaptive_poll *pace, int64_t gap, bool looked)
{
    if (pace->rest) {
        pace->rest--;
        return;
    }
    if (looked && pace->window == pace->max && ++pace->misses == MISSES)
        rest(pace);
    else if (gap <= 2 * pace->max)
        grow(pace);
    else
        pace->window = pace->window / 2 < pace->max / STEPS ? 0 : pace->window / 2;
}

void v9_adaptive_poll_disturbed(struct v9_adaptive_poll *pace)
{
    if (++pace->turns == TURNS)
        rest(pace);
}
