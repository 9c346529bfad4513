#define _GNU_SOURCE
#include "fid/sweeper.h"

#include <pthread.h>
#include <stddef.h>
#include <time.h>

#include "base/shrinker.h"

enum { TICK_NS = 200000000 };

static struct {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    pthread_cond_t wanted;
    bool runs;
    bool awake; /* something may be cached; read without the lock */
    uint32_t ticks;
} sweeper = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER};

uint32_t v9_sweeper_now(void)
{
    return __atomic_load_n(&sweeper.ticks, __ATOMIC_RELAXED);
}

static void visit(struct v9_shrinker *shrinker)
{
    if (shrinker->ops->expire(shrinker))
        v9_sweeper_wake();
}

static void *sweep(void *unused)
{
    const struct timespec tick = {0, TICK_NS};

    while (true) {
        pthread_mutex_lock(&sweeper.lock);
        while (!sweeper.awake)
            pthread_cond_wait(&sweeper.wanted, &sweeper.lock);
        pthread_mutex_unlock(&sweeper.lock);
        nanosleep(&tick, NULL);
        __atomic_add_fetch(&sweeper.ticks, 1, __ATOMIC_RELAXED);
        /* Cleared before the visits: an inode cached after its table's visit wakes the thread. */
        __atomic_store_n(&sweeper.awake, false, __ATOMIC_SEQ_CST);
        v9_shrinker_visit(visit);
    }
    return unused;
}

bool v9_sweeper_start(void)
{
    bool runs;

    pthread_mutex_lock(&sweeper.lock);
    runs = sweeper.runs = sweeper.runs || v9_shrinker_thread(sweep);
    pthread_mutex_unlock(&sweeper.lock);
    return runs;
}

void v9_sweeper_wake(void)
{
    if (__atomic_load_n(&sweeper.awake, __ATOMIC_SEQ_CST))
        return;
    pthread_mutex_lock(&sweeper.lock);
    __atomic_store_n(&sweeper.awake, true, __ATOMIC_SEQ_CST);
    pthread_cond_signal(&sweeper.wanted);
    pthread_mutex_unlock(&sweeper.lock);
}
