/*
 * adaptive_poll: how long an idle thread polls for the next request before it sleeps.
 *
 * Sleeping and waking up takes longer than most requests, for both sides: the driver has to kick,
 * and the kernel has to switch threads and may have to wake a CPU. When the next request comes
 * soon, polling is faster, and even cheaper. When it comes late, polling wastes the CPU. The past
 * predicts the future:
 *
 *  - What the guest does next depends on what it has just asked: a walk is followed by the getattr
 *    of the same system call, a clunk by whatever its program does next. So gaps are observed by
 *    the type of the request before them: some polls of the full length (`max`) show how many
 *    requests come how soon.
 *  - The window of a type is the time that pays best. A poll that finds a request saves a wake-up,
 *    which is worth five eighths of `max`; a poll costs the time that it takes. If no window pays,
 *    polling rests, each time for four times as many requests, until an observation finds one that
 *    does.
 *  - All types are observed at the same time, since a driver that is kept waiting after one request
 *    sleeps deeper, and is later with the next ones. That is done anew after a number of requests,
 *    and when several windows in a row were empty, for instance because the guest is idle.
 *  - After several preemptions without a request found in between polling rests altogether: the
 *    driver needs our CPU.
 *
 * Nothing here reads a clock. Times are in nanoseconds.
 */
#ifndef V9_SERVER_ADAPTIVE_POLL_H
#define V9_SERVER_ADAPTIVE_POLL_H

#include <stdint.h>

enum {
    V9_POLL_STEPS = 8,  /* the lengths of a window are `max` divided by this, and multiples */
    V9_POLL_TYPES = 64, /* requests have even types below 128 */
};

/* The gaps after requests of one type. */
struct v9_poll_gaps {
    uint8_t found[V9_POLL_STEPS]; /* by the step of the window in which the next request came */
    uint8_t observed;             /* polls of full length; some have found nothing */
    uint8_t steps;                /* of the window that pays; 0: none does */
};

struct v9_adaptive_poll {
    int64_t max; /* of a window; 0: never poll */
    struct v9_poll_gaps after[V9_POLL_TYPES];
    uint32_t observed;                      /* polls of the observation */
    uint32_t left;                          /* requests until the next one; 0: it has begun */
    uint32_t left_next;                     /* `left`, if no window pays */
    uint32_t misses;                        /* so many windows in a row were empty */
    uint32_t yields, hits, rest, rest_next; /* preemptions */
};

void v9_adaptive_poll_init(struct v9_adaptive_poll *poll, int64_t max);
/* How long to poll for the next request after one of this type; 0: sleep at once. */
int64_t v9_adaptive_poll_window(const struct v9_adaptive_poll *poll, uint8_t type);
/* Polling found a request, `gap` after the one before. */
void v9_adaptive_poll_found(struct v9_adaptive_poll *poll, uint8_t type, int64_t gap);
/* The window passed without a request. */
void v9_adaptive_poll_missed(struct v9_adaptive_poll *poll, uint8_t type);
/* A thread slept at once. */
void v9_adaptive_poll_slept(struct v9_adaptive_poll *poll);
/* Another thread ran on the CPU during the poll. */
void v9_adaptive_poll_preempted(struct v9_adaptive_poll *poll);

#endif
