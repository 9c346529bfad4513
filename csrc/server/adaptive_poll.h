/*
 * adaptive_poll: how long an idle thread polls for the next request before it sleeps.
 *
 * Sleeping and waking up takes longer than most requests, for both sides: the driver has to kick,
 * and the kernel has to switch threads. When requests arrive back to back, polling is faster, and
 * often even cheaper; otherwise it wastes the CPU. The past predicts the future:
 *
 *  - The window, which is the time spent on polling, grows up to `max` while the gaps between
 *    requests are short, and shrinks to 0 while they are long. A gap that ended a sleep is short up
 *    to twice `max`, since it includes the time to wake up.
 *  - After several empty windows in a row, or several preemptions in a row, polling rests for a
 *    number of sleeps. Each rest is twice as long as the one before, until polling finds requests
 *    again.
 *
 * Nothing here reads a clock. Times are in nanoseconds.
 */
#ifndef V9_SERVER_ADAPTIVE_POLL_H
#define V9_SERVER_ADAPTIVE_POLL_H

#include <stdbool.h>
#include <stdint.h>

struct v9_adaptive_poll {
    int64_t max;    /* of a window; 0: never poll */
    int64_t window; /* the next one; 0: sleep at once */
    uint32_t misses, yields, hits, rest, rest_next;
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max);
/* Polling found a request. */
void v9_adaptive_poll_found(struct v9_adaptive_poll *poll);
/* A sleep has ended, `gap` after the last request; `polled`: an empty window preceded it. */
void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll, int64_t gap, bool polled);
/* Another thread ran on the CPU during the poll. Call it before v9_adaptive_poll_found, if both
 * apply. */
void v9_adaptive_poll_preempted(struct v9_adaptive_poll *poll);

#endif
