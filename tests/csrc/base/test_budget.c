// sources: base/budget.c base/sightings.c base/shrinker.c base/proc.c base/sys.c
/*
 * Budgets: what counts, what is refused, that loans go back first, and that no device ever lacks
 * its share, whatever others take meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/shrinker.h"
#include "base/sys.h"
#include "check.h"

enum { SHARE = 10, POOL = 5, DEVICES = 4 };

static uint32_t accounts[DEVICES];

SET_UP()
{
    v9_budget_init();
    for (int i = 0; i < DEVICES; i++) {
        const int account = v9_budget_join();
        CHECK(account > 0);
        accounts[i] = (uint32_t)account;
    }
    v9_budget_set(SHARE, POOL);
}

TEAR_DOWN()
{
    for (int i = 0; i < DEVICES; i++)
        v9_budget_leave(accounts[i]);
}

static int open_one(void)
{
    int fd;

    V9_OPEN(fd, open("/", O_PATH | O_CLOEXEC));
    return fd;
}

static int open_many(int *fds, int count)
{
    for (int i = 0; i < count; i++)
        if ((fds[i] = open_one()) < 0)
            return i;
    return count;
}

static void close_many(const int *fds, int count)
{
    for (int i = 0; i < count; i++)
        v9_budget_close(fds[i]);
}

TEST(a_device_has_its_share_and_borrows_from_the_pool)
{
    const uint32_t one = accounts[0], other = accounts[1];
    int mine[64], theirs[64], own[64];

    v9_budget_charge(one);
    CHECK(open_many(mine, 64) == SHARE + POOL && open_one() == -EMFILE);
    CHECK(v9_budget_held(one) == SHARE + POOL && !v9_budget_is_ample(one));
    v9_budget_charge(0); /* the process is never refused, and nothing of it is counted */
    CHECK(open_many(own, 64) == 64 && v9_budget_held(0) == 0);
    close_many(own, 64);
    v9_budget_charge(other);
    CHECK(open_many(theirs, 64) == SHARE);
    v9_budget_close(mine[0]); /* a loan goes back first, whoever closes it */
    CHECK((theirs[SHARE] = open_one()) >= 0 && open_one() == -EMFILE);
    v9_budget_charge(one);
    CHECK(open_one() == -EMFILE);
    close_many(theirs, SHARE + 1);
    CHECK((mine[0] = open_one()) >= 0 && open_one() == -EMFILE);
    close_many(mine, SHARE + POOL);
    CHECK(v9_budget_held(one) == 0 && v9_budget_held(other) == 0 && v9_budget_is_ample(one));
    CHECK(open_many(mine, 64) == SHARE + POOL); /* nothing was lost of the pool */
    close_many(mine, SHARE + POOL);
}

/* Descriptors opened for eviction may exceed the share, and do not change what counts as a loan. */
TEST(what_devices_need_grows_with_them_and_with_what_is_open)
{
    const uint32_t one = v9_budget_needed(1, 1024);
    int fds[8];

    CHECK(v9_budget_needed(2, 1024) > one);
    v9_budget_charge(0);
    CHECK(open_many(fds, 8) == 8 && v9_budget_needed(1, 1024) == one + 8);
    close_many(fds, 8);
    CHECK(v9_budget_begin() == 0); /* a limit that suffices */
    CHECK(v9_budget_needed(DEVICES, 1 << 20) < 1 << 20);
}

TEST(opening_for_eviction_goes_beyond_the_share)
{
    const uint32_t one = accounts[0];
    struct v9_budget_charged before;
    int fds[64], more;

    v9_budget_charge(one);
    CHECK(open_many(fds, 64) == SHARE + POOL);
    for (int i = 0; i < 100; i++) {
        before = v9_budget_force(one);
        CHECK((more = open_one()) >= 0);
        v9_budget_restore(before);
        CHECK(open_one() == -EMFILE);
        v9_budget_close(more);
    }
    CHECK(v9_budget_held(one) == SHARE + POOL && open_one() == -EMFILE);
    close_many(fds, SHARE + POOL);
    CHECK(open_many(fds, 64) == SHARE + POOL);
    close_many(fds, SHARE + POOL);
    CHECK(v9_budget_held(one) == 0);
}

TEST(only_open_descriptors_count)
{
    const uint32_t one = accounts[0];
    int fd;

    v9_budget_charge(one);
    V9_OPEN(fd, open("/nonexistent", O_PATH | O_CLOEXEC));
    CHECK(fd == -ENOENT && v9_budget_held(one) == 0);
    CHECK(v9_sys_dup(-1) == -EBADF && v9_budget_held(one) == 0);
    fd = open_one();
    close(fd); /* without telling: it counts until its number is another one's */
    CHECK(v9_budget_held(one) == 1 && open_one() == fd && v9_budget_held(one) == 1);
    v9_budget_forget(fd);
    CHECK(v9_budget_held(one) == 0 && close(fd) == 0);
}

/* ---- who evicts
 * -----------------------------------------------------------------------------------
 */

static int kept[SHARE + POOL], kept_count;
static bool hangs, hung;

static uint32_t evict_kept(struct v9_shrinker *shrinker, uint32_t batch)
{
    const struct timespec pause = {0, 1000000};
    uint32_t evicted = 0;

    (void)shrinker;
    while (__atomic_load_n(&hangs, __ATOMIC_RELAXED)) {
        __atomic_store_n(&hung, true, __ATOMIC_RELAXED);
        nanosleep(&pause, NULL);
    }
    for (; evicted < batch && kept_count; evicted++)
        v9_budget_close(kept[--kept_count]);
    return evicted;
}

static uint32_t evict_nothing(struct v9_shrinker *shrinker, uint32_t batch)
{
    (void)shrinker, (void)batch;
    return 0;
}

static const struct v9_shrinker_ops keeper = {evict_kept, NULL}, pauper = {evict_nothing, NULL};

/* A device that borrows gets what another one can evict, and does not wait where that hangs. */
TEST(a_borrower_gets_what_another_device_can_evict)
{
    const uint32_t one = accounts[0], other = accounts[1];
    struct v9_shrinker rich = {.ops = &keeper, .account = one};
    struct v9_shrinker poor = {.ops = &pauper, .account = other};
    int fds[64];

    v9_shrinker_join(&rich);
    v9_shrinker_join(&poor);
    v9_budget_charge(one);
    kept_count = open_many(kept, SHARE + POOL);
    v9_budget_charge(other);
    CHECK(open_many(fds, 64) == SHARE + POOL && kept_count == 0);
    close_many(fds, SHARE + POOL);
    v9_budget_charge(one);
    kept_count = open_many(kept, SHARE + POOL);
    __atomic_store_n(&hangs, true, __ATOMIC_RELAXED);
    v9_budget_charge(other);
    CHECK(open_many(fds, 64) == SHARE && __atomic_load_n(&hung, __ATOMIC_RELAXED));
    __atomic_store_n(&hangs, false, __ATOMIC_RELAXED);
    v9_shrinker_leave(&rich, true);
    v9_shrinker_leave(&poor, true);
    CHECK(kept_count == 0);
    close_many(fds, SHARE);
    CHECK(v9_budget_held(one) == 0 && v9_budget_held(other) == 0);
}

/* ---- many threads ------------------------------------------------------------------------------
 */

enum { TURNS = 20000 };

/* Holds as much as it gets; never less than its share can be had. */
static void *take_all(void *which)
{
    unsigned seed = *(unsigned *)which;
    int fds[SHARE + POOL], count = 0;

    v9_budget_charge(accounts[seed]);
    for (int turn = 0; turn < TURNS; turn++) {
        if (count < SHARE + POOL && rand_r(&seed) % 3) {
            const int fd = open_one();
            CHECK(fd >= 0 || (fd == -EMFILE && count >= SHARE));
            if (fd >= 0)
                fds[count++] = fd;
        } else if (count) {
            v9_budget_close(fds[--count]);
        }
    }
    close_many(fds, count);
    return NULL;
}

TEST(no_device_lacks_its_share_while_others_borrow)
{
    pthread_t threads[DEVICES];
    unsigned which[DEVICES];
    int fds[64];

    for (unsigned i = 0; i < DEVICES; i++) {
        which[i] = i;
        CHECK(!pthread_create(&threads[i], NULL, take_all, &which[i]));
    }
    for (int i = 0; i < DEVICES; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < DEVICES; i++) {
        CHECK(v9_budget_held(accounts[i]) == 0);
        v9_budget_charge(accounts[i]);
        CHECK(open_many(fds, 64) == SHARE + POOL);
        close_many(fds, SHARE + POOL);
    }
}
