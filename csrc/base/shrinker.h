/*
 * shrinker: who closes descriptors when one lacks (base/budget.h).
 *
 * Every device's fid table registers a shrinker. A thread that lacks a descriptor has the shrinker
 * whose account holds the most evict a batch, or the next one where that evicts nothing, and tries
 * again. It evicts its own device's descriptors itself. Another device's files may hang, so one
 * thread of the process evicts those; the caller waits for it only briefly, and then evicts its
 * own. A shrinker that evicted nothing is skipped for a while, since looking is expensive.
 */
#ifndef V9_BASE_SHRINKER_H
#define V9_BASE_SHRINKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/budget.h"

struct v9_shrinker;

/* Called from any thread, without locks. */
struct v9_shrinker_ops {
    /* Closes up to `batch` descriptors that can be reopened; returns the number closed. */
    uint32_t (*evict)(struct v9_shrinker *shrinker, uint32_t batch);
    /* Drops what was cached for longer than the grace period; whether anything is left. */
    bool (*expire)(struct v9_shrinker *shrinker);
};

struct v9_shrinker {
    const struct v9_shrinker_ops *ops;
    struct v9_shrinker *next;
    uint32_t account; /* whose descriptors these are (base/budget.h) */
    uint32_t users;   /* threads in an operation */
    uint32_t skips;   /* how many times more it is not asked */
    uint64_t visit;   /* the last one that it had */
};

/* Opens the reserve. Once per process. */
void v9_shrinker_init(void);
void v9_shrinker_join(struct v9_shrinker *shrinker);
/* With `wait` returns once no thread is in an operation any more; without, the memory of the
 * shrinker has to stay. */
void v9_shrinker_leave(struct v9_shrinker *shrinker, bool wait);
/* Calls `visit` for every shrinker, without locks; none leaves meanwhile. */
void v9_shrinker_visit(void (*visit)(struct v9_shrinker *shrinker));
/* Starts a detached thread that no signal interrupts; whether it runs. */
bool v9_shrinker_thread(void *(*run)(void *));

/* Whether a call that failed with errno value `error` may be tried once more, since it lacked a
 * descriptor and some were closed. `tries` counts, from 0. */
bool v9_shrinker_retry(int error, uint32_t *tries);

/* Opens a descriptor by the expression `call`, which is one of open(2)'s kind, evicting what it
 * takes. Sets fd to it or to -errno. */
#define V9_OPEN(fd, call)                                                                          \
    do {                                                                                           \
        uint32_t v9_tries = 0;                                                                     \
        do {                                                                                       \
            (fd) = v9_budget_take();                                                               \
            if (!(fd))                                                                             \
                (fd) = v9_budget_enter((int)(call));                                               \
        } while ((fd) < 0 && v9_shrinker_retry(-(fd), &v9_tries));                                 \
    } while (0)

#endif
