/*
 * pressure: who gives descriptors up when one lacks (base/budget.h).
 *
 * Every device's fid table is a holder. The thread that lacks a descriptor has the holder with the
 * most give a batch up, or the next one where that has nothing to give, and tries again. What is
 * its own device's it gives up itself; what is another's, one thread of the process does, which it
 * waits for only briefly: files of another device may hang. It then gives up what is its own. A
 * holder that had nothing is not asked at each request from then on: looking costs much.
 */
#ifndef V9_BASE_SHRINKER_H
#define V9_BASE_SHRINKER_H

#include <stdbool.h>
#include <stdint.h>

struct v9_shrinker {
    /* Gives up to `batch` descriptors up, of those that can be had again; how many. Called from
     * any thread, without locks. */
    uint32_t (*give_up)(struct v9_shrinker *holder, uint32_t batch);
    struct v9_shrinker *next;
    uint32_t account; /* whose descriptors these are (base/budget.h) */
    uint32_t users;   /* threads in give_up or a visit */
    uint32_t rest;    /* so many times more it is not asked */
    uint64_t visit;   /* the last one that it had */
};

/* Opens the spare descriptors. Once per process. */
void v9_shrinker_init(void);
void v9_shrinker_join(struct v9_shrinker *holder);
/* With `wait` returns once no thread is in its give_up any more; without, the holder has to stay.
 */
void v9_shrinker_leave(struct v9_shrinker *holder, bool wait);
/* Has every holder visited, without locks: none goes meanwhile. */
void v9_shrinker_visit(void (*visit)(struct v9_shrinker *holder));

/* Whether a call that failed with errno value `error` may be tried once more, since it lacked a
 * descriptor and some were given up. `tries` counts, from 0. */
bool v9_shrinker_eased(int error, uint32_t *tries);

#endif
