#include "server/adaptive_poll.h"

enum {
    STEPS = 8,        /* the smallest window is this part of the largest */
    MISSES = 4,       /* of the longest windows in a row may end without a request */
    YIELDS = 3,       /* times in a row that another thread may have had the CPU */
    HITS = 64,        /* requests found in a row after which all is forgotten */
    REST_FIRST = 32,  /* sleeps without looking */
    REST_LAST = 4096, /* that it doubles to */
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

void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll, int64_t gap, bool looked)
{
    if (poll->rest) {
        poll->rest--;
        return;
    }
    if (looked && poll->window == poll->max && ++poll->misses == MISSES)
        rest(poll);
    else if (gap <= 2 * poll->max)
        grow(poll);
    else
        poll->window = poll->window / 2 < poll->max / STEPS ? 0 : poll->window / 2;
}

void v9_adaptive_poll_disturbed(struct v9_adaptive_poll *poll)
{
    if (++poll->yields == YIELDS)
        rest(poll);
}
