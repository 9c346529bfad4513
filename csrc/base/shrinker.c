#define _GNU_SOURCE
#include "base/shrinker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include "base/budget.h"

enum {
    BATCH = 32,    /* descriptors at a time */
    PATIENCE = 64, /* times that a holder is left alone which had nothing to give */
    TRIES = 8,
    SPARES = 4,
    WAIT_NS = 100000000, /* for another device's descriptors */
};

static _Thread_local bool relieving;

/* Descriptors that are closed for those that it takes to give others up. */
static int spares[SPARES] = {-1, -1, -1, -1};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t left;
    struct v9_shrinker *first;
} holders = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static void lend_spares(void)
{
    for (int i = 0; i < SPARES; i++) {
        int fd = __atomic_exchange_n(&spares[i], -1, __ATOMIC_ACQ_REL);
        if (fd >= 0)
            close(fd);
    }
}

static void restore_spares(void)
{
    for (int i = 0; i < SPARES; i++) {
        int none = -1, fd = open("/", O_PATH | O_CLOEXEC);
        if (fd >= 0 && !__atomic_compare_exchange_n(&spares[i], &none, fd, false, __ATOMIC_ACQ_REL,
                                                    __ATOMIC_RELAXED))
            close(fd);
    }
}

void v9_shrinker_init(void)
{
    restore_spares();
}

void v9_shrinker_join(struct v9_shrinker *holder)
{
    pthread_mutex_lock(&holders.lock);
    holder->next = holders.first;
    holders.first = holder;
    pthread_mutex_unlock(&holders.lock);
}

void v9_shrinker_leave(struct v9_shrinker *holder, bool wait)
{
    struct v9_shrinker **link = &holders.first;

    pthread_mutex_lock(&holders.lock);
    while (*link != holder)
        link = &(*link)->next;
    *link = holder->next;
    while (wait && holder->users)
        pthread_cond_wait(&holders.left, &holders.lock);
    pthread_mutex_unlock(&holders.lock);
}

/* The holder with the most of those that may be asked, or only that of an account (0: any), with a
 * user more; or NULL. `first`: of a round, which shortens the rests. */
static struct v9_shrinker *choose(uint32_t only, bool first)
{
    struct v9_shrinker *most = NULL;
    uint32_t held, most_held = 0;

    pthread_mutex_lock(&holders.lock);
    for (struct v9_shrinker *each = holders.first; each; each = each->next) {
        if (only && each->account != only)
            continue;
        if (each->rest) {
            each->rest -= first;
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
    pthread_mutex_unlock(&holders.lock);
    return most;
}

static void leave_alone(struct v9_shrinker *holder, uint32_t rest)
{
    pthread_mutex_lock(&holders.lock);
    holder->rest = rest;
    if (--holder->users == 0)
        pthread_cond_broadcast(&holders.left);
    pthread_mutex_unlock(&holders.lock);
}

static uint32_t relieve(uint32_t only)
{
    struct v9_budget_charged before;
    struct v9_shrinker *holder;
    uint32_t given = 0;

    for (bool first = true; !given && (holder = choose(only, first)); first = false) {
        before = v9_budget_force(holder->account);
        relieving = true;
        given = holder->give_up(holder, BATCH);
        relieving = false;
        v9_budget_restore(before);
        leave_alone(holder, given ? 0 : PATIENCE);
    }
    return given;
}

/* ---- the thread --------------------------------------------------------------------------------
 */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted, done;
    bool runs, asked;
    bool late;      /* somebody has waited in vain for the present round: its file system hangs */
    uint64_t round; /* that have ended */
    uint32_t given; /* in the last one */
} thread = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = PTHREAD_COND_INITIALIZER};

static void *serve(void *unused)
{
    uint32_t given;

    pthread_mutex_lock(&thread.lock);
    while (true) {
        while (!thread.asked)
            pthread_cond_wait(&thread.wanted, &thread.lock);
        thread.asked = false;
        pthread_mutex_unlock(&thread.lock);
        given = relieve(0);
        pthread_mutex_lock(&thread.lock);
        thread.given = given;
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
    sigset_t all, old;
    pthread_t id;

    if (thread.runs)
        return true;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&thread.done, &clock);
    pthread_condattr_destroy(&clock);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    if (pthread_create(&id, NULL, serve, NULL) == 0) {
        pthread_detach(id);
        thread.runs = true;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread.runs;
}

/* Has the thread ask who holds the most; how many were given up in time. */
static uint32_t ask(void)
{
    struct timespec until;
    uint64_t round;
    uint32_t given = 0;

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
        given = thread.round == round ? 0 : thread.given;
    }
    pthread_mutex_unlock(&thread.lock);
    return given;
}

/* ---- visits ------------------------------------------------------------------------------------
 */

static uint64_t visits; /* that have begun */

/* The next holder that visit `number` has not come to yet, with a user more. */
static struct v9_shrinker *next_to_visit(uint64_t number)
{
    struct v9_shrinker *each = holders.first;

    while (each && each->visit >= number)
        each = each->next;
    if (each) {
        each->visit = number;
        each->users++;
    }
    return each;
}

void v9_shrinker_visit(void (*visit)(struct v9_shrinker *holder))
{
    struct v9_shrinker *each;
    uint64_t number;

    pthread_mutex_lock(&holders.lock);
    number = ++visits;
    while ((each = next_to_visit(number))) { /* the list may change during a visit */
        pthread_mutex_unlock(&holders.lock);
        visit(each);
        pthread_mutex_lock(&holders.lock);
        if (--each->users == 0)
            pthread_cond_broadcast(&holders.left);
    }
    pthread_mutex_unlock(&holders.lock);
}

/* ---- when one lacks ----------------------------------------------------------------------------
 */

static bool others_hold_more(uint32_t account)
{
    const uint32_t own = v9_budget_held(account);
    bool more = false;

    pthread_mutex_lock(&holders.lock);
    for (struct v9_shrinker *each = holders.first; each && !more; each = each->next)
        more = each->account != account && v9_budget_held(each->account) > own;
    pthread_mutex_unlock(&holders.lock);
    return more;
}

bool v9_shrinker_eased(int error, uint32_t *tries)
{
    const uint32_t account = v9_budget_charged_account();
    uint32_t given;

    /* What gives up needs descriptors too; it must not have others given up for them. */
    if ((error != EMFILE && error != ENFILE) || *tries == TRIES || relieving)
        return false;
    ++*tries;
    lend_spares();
    given = others_hold_more(account) ? ask() : 0;
    if (!given && account)
        given = relieve(account);
    restore_spares();
    return given > 0;
}
