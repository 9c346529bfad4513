/*
 * adaptive_poll: how long a thread that has run out of requests looks for the next one before it
 * sleeps.
 *
 * To sleep and be woken takes longer than most requests do, for both sides: the driver has to kick,
 * and the kernel to switch. Where requests come in quick succession it is faster, and often even
 * cheaper, to go on looking; where they do not, looking is a waste of the CPU. What comes next is
 * guessed from what came before:
 *
 *  - the window, how long is looked, grows while the gaps between requests are short: up to twice
 *    `max`, since the time it takes to wake up is part of those that end a sleep. It shrinks, to
 *    nothing at last, while they are long.
 *  - where window after window ends without a request, or somebody else wants the CPU time after
 *    time, looking rests for a number of sleeps; twice as many each time, until it has found a
 * request again.
 *
 * Nothing here reads a clock. Times are in nanoseconds.
 */
#ifndef V9_SERVER_ADAPTIVE_POLL_H
#define V9_SERVER_ADAPTIVE_POLL_H

#include <stdbool.h>
#include <stdint.h>

struct v9_adaptive_poll {
    int64_t max;    /* of a window; 0: never look */
    int64_t window; /* the next one; 0: sleep at once */
    uint32_t misses, yields, hits, rest, rest_next;
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max);
/* A request was found by looking. */
void v9_adaptive_poll_found(struct v9_adaptive_poll *poll);
/* A sleep has ended, so long after the last request; `looked`: before it a window was used up. */
void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll, int64_t gap, bool looked);
/* Another thread got the CPU while this one was looking; before v9_adaptive_poll_found, if that
 * follows. */
void v9_adaptive_poll_disturbed(struct v9_adaptive_poll *poll);

#endif
