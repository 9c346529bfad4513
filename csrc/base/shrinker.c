#define _GNU_SOURCE
#include "base/shrinker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 32, /* descriptors at a time */
    SKIPS = 64, /* times that a shrinker is skipped which evicted nothing */
    TRIES = 8,
    RESERVE = 4,
    WAIT_NS = 100000000, /* for another device's descriptors */
};

static _Thread_local bool shrinking;

/* Descriptors that are closed to make room for those that eviction itself needs. */
static int reserve[RESERVE] = {-1, -1, -1, -1};

static struct {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    pthread_cond_t left;
    struct v9_shrinker *first;
} shrinkers = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static void lend_reserve(void)
{
    for (int i = 0; i < RESERVE; i++) {
        int fd = __atomic_exchange_n(&reserve[i], -1, __ATOMIC_ACQ_REL);
        if (fd >= 0)
            close(fd);
    }
}

static void restore_reserve(void)
{
    for (int i = 0; i < RESERVE; i++) {
        int none = -1, fd = open("/", O_PATH | O_CLOEXEC);
        if (fd >= 0 && !__atomic_compare_exchange_n(&reserve[i], &none, fd, false, __ATOMIC_ACQ_REL,
                                                    __ATOMIC_RELAXED))
            close(fd);
    }
}

void v9_shrinker_init(void)
{
    restore_reserve();
}

void v9_shrinker_join(struct v9_shrinker *shrinker)
{
    pthread_mutex_lock(&shrinkers.lock);
    shrinker->next = shrinkers.first;
    shrinkers.first = shrinker;
    pthread_mutex_unlock(&shrinkers.lock);
}

void v9_shrinker_leave(struct v9_shrinker *shrinker, bool wait)
{
    struct v9_shrinker **link = &shrinkers.first;

    pthread_mutex_lock(&shrinkers.lock);
    while (*link != shrinker)
        link = &(*link)->next;
    *link = shrinker->next;
    while (wait && shrinker->users)
        pthread_cond_wait(&shrinkers.left, &shrinkers.lock);
    pthread_mutex_unlock(&shrinkers.lock);
}

/* The shrinker whose account holds the most, or only that of an account (0: any), with one more
 * user; or NULL. Skips those that evicted nothing; the `first` choice of a round counts as a skip.
 */
static struct v9_shrinker *choose(uint32_t only, bool first)
{
    struct v9_shrinker *most = NULL;
    uint32_t held, most_held = 0;

    pthread_mutex_lock(&shrinkers.lock);
    for (struct v9_shrinker *each = shrinkers.first; each; each = each->next) {
        if (only && each->account != only)
            continue;
        if (each->skips) {
            each->skips -= first;
            continue;
        }
        held = v9_budget_held(each->account);
        if (held > most_held) {
            most = each;
            most_held = held;
        }
    }
    if (most)
        most->users++;
    pthread_mutex_unlock(&shrinkers.lock);
    return most;
}

static void release(struct v9_shrinker *shrinker, uint32_t skips)
{
    pthread_mutex_lock(&shrinkers.lock);
    shrinker->skips = skips;
    if (--shrinker->users == 0)
        pthread_cond_broadcast(&shrinkers.left);
    pthread_mutex_unlock(&shrinkers.lock);
}

static uint32_t shrink(uint32_t only)
{
    struct v9_budget_charged before;
    struct v9_shrinker *shrinker;
    uint32_t evicted = 0;

    for (bool first = true; !evicted && (shrinker = choose(only, first)); first = false) {
        before = v9_budget_force(shrinker->account);
        shrinking = true;
        evicted = shrinker->ops->evict(shrinker, BATCH);
        shrinking = false;
        v9_budget_restore(before);
        release(shrinker, evicted ? 0 : SKIPS);
    }
    return evicted;
}

/* ---- the thread ------------------------------------------------------------------------------ */

bool v9_shrinker_thread(void *(*run)(void *))
{
    sigset_t all, old;
    pthread_t thread;
    bool runs;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    runs = pthread_create(&thread, NULL, run, NULL) == 0;
    if (runs)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return runs;
}

static struct {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    pthread_cond_t wanted, done;
    bool runs, asked;
    bool late;        /* a wait for the present round timed out: its file system hangs */
    uint64_t round;   /* that have ended */
    uint32_t evicted; /* in the last one */
} thread = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER};

static void *serve(void *unused)
{
    uint32_t evicted;

    pthread_mutex_lock(&thread.lock);
    while (true) {
        while (!thread.asked)
            pthread_cond_wait(&thread.wanted, &thread.lock);
        thread.asked = false;
        pthread_mutex_unlock(&thread.lock);
        evicted = shrink(0);
        pthread_mutex_lock(&thread.lock);
        thread.evicted = evicted;
        thread.late = false;
        thread.round++;
        pthread_cond_broadcast(&thread.done);
    }
    return unused;
}

/* The lock is held. */
static bool start(void)
{
    pthread_condattr_t clock;

    if (thread.runs)
        return true;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&thread.done, &clock);
    pthread_condattr_destroy(&clock);
    thread.runs = v9_shrinker_thread(serve);
    return thread.runs;
}

/* Has the thread evict from whoever holds the most; returns how many were evicted in time. */
static uint32_t ask(void)
{
    struct timespec until;
    uint64_t round;
    uint32_t evicted = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WAIT_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&thread.lock);
    if (!thread.late && start()) {
        round = thread.round;
        thread.asked = true;
        pthread_cond_signal(&thread.wanted);
        while (thread.round == round && !thread.late)
            thread.late = pthread_cond_timedwait(&thread.done, &thread.lock, &until) == ETIMEDOUT &&
                          thread.round == round;
        evicted = thread.round == round ? 0 : thread.evicted;
    }
    pthread_mutex_unlock(&thread.lock);
    return evicted;
}

/* ---- visits ---------------------------------------------------------------------------------- */

static uint64_t visits; /* that have begun */

/* The next shrinker that visit `number` has not come to yet, with a user more. */
static struct v9_shrinker *next_to_visit(uint64_t number)
{
    struct v9_shrinker *each = shrinkers.first;

    while (each && each->visit >= number)
        each = each->next;
    if (each) {
        each->visit = number;
        each->users++;
    }
    return each;
}

void v9_shrinker_visit(void (*visit)(struct v9_shrinker *shrinker))
{
    struct v9_shrinker *each;
    uint64_t number;

    pthread_mutex_lock(&shrinkers.lock);
    number = ++visits;
    while ((each = next_to_visit(number))) { /* the list may change during a visit */
        pthread_mutex_unlock(&shrinkers.lock);
        visit(each);
        pthread_mutex_lock(&shrinkers.lock);
        if (--each->users == 0)
            pthread_cond_broadcast(&shrinkers.left);
    }
    pthread_mutex_unlock(&shrinkers.lock);
}

/* ---- when one lacks -------------------------------------------------------------------------- */

static bool others_hold_more(uint32_t account)
{
    const uint32_t own = v9_budget_held(account);
    bool more = false;

    pthread_mutex_lock(&shrinkers.lock);
    for (struct v9_shrinker *each = shrinkers.first; each && !more; each = each->next)
        more = each->account != account && v9_budget_held(each->account) > own;
    pthread_mutex_unlock(&shrinkers.lock);
    return more;
}

bool v9_shrinker_retry(int error, uint32_t *tries)
{
    const uint32_t account = v9_budget_charged_account();
    uint32_t evicted;

    /* Eviction needs descriptors too; it must not evict others for them. */
    if ((error != EMFILE && error != ENFILE) || *tries == TRIES || shrinking)
        return false;
    ++*tries;
    lend_reserve();
    evicted = others_hold_more(account) ? ask() : 0;
    if (!evicted && account)
        evicted = shrink(account);
    restore_reserve();
    return evicted > 0;
}
