#include "server/adaptive_poll.h"

enum {
    STEPS = 8,        /* the smallest window is `max` divided by this */
    MISSES = 4,       /* so many windows of length `max` in a row without a request: rest */
    YIELDS = 3,       /* so many preemptions in a row: rest */
    HITS = 64,        /* so many requests found in a row reset the length of rests */
    REST_FIRST = 32,  /* the first rest, in sleeps without polling */
    REST_LAST = 4096, /* the longest; each one is twice the one before */
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max)
{
    *poll = (struct v9_adaptive_poll){.max = max, .rest_next = REST_FIRST};
}

static void rest(struct v9_adaptive_poll *poll)
{
    poll->window = 0;
    poll->misses = poll->yields = poll->hits = 0;
    poll->rest = poll->rest_next;
    if (poll->rest_next < REST_LAST)
        poll->rest_next *= 2;
}

static void grow(struct v9_adaptive_poll *poll)
{
    poll->window = poll->window ? 2 * poll->window : poll->max / STEPS;
    if (poll->window > poll->max)
        poll->window = poll->max;
}

void v9_adaptive_poll_found(struct v9_adaptive_poll *poll)
{
    poll->misses = poll->yields = 0;
    if (++poll->hits >= HITS)
        poll->rest_next = REST_FIRST;
    grow(poll);
}

void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll, int64_t gap, bool polled)
{
    if (poll->rest) {
        poll->rest--;
        return;
    }
    if (polled && poll->window == poll->max && ++poll->misses == MISSES)
        rest(poll);
    else if (gap <= 2 * poll->max)
        grow(poll);
    else
        poll->window = poll->window / 2 < poll->max / STEPS ? 0 : poll->window / 2;
}

void v9_adaptive_poll_preempted(struct v9_adaptive_poll *poll)
{
    if (++poll->yields == YIELDS)
        rest(poll);
}
