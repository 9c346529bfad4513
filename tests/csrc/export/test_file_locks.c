// sources: export/file_locks.c export/ quota/ base/
/*
 * Locks of two descriptions of one file, and a wait that is called off.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "export/api.h"

static char path[] = "/var/tmp/v9-locks-XXXXXX";
static int one, other;

SET_UP()
{
    one = mkstemp(path);
    other = open(path, O_RDWR);
    CHECK(one >= 0 && other >= 0);
}

TEAR_DOWN()
{
    unlink(path);
    close(one);
    close(other);
}

TEST(a_range_is_locked_against_the_other_description_only)
{
    struct v9_lock lock = {V9_LOCK_RDLCK, 0, 0, 100};

    CHECK(v9_lock_ofd(one, V9_LOCK_WRLCK, 10, 5, NULL) == 0);
    CHECK(v9_lock_ofd(other, V9_LOCK_RDLCK, 0, 100, NULL) == -EAGAIN);
    CHECK(v9_lock_ofd(other, V9_LOCK_RDLCK, 15, 5, NULL) == 0);
    CHECK(v9_lock_ofd_test(other, &lock) == 0);
    CHECK(lock.type == V9_LOCK_WRLCK && lock.pid == -1 && lock.start == 10 && lock.length == 5);
    CHECK(v9_lock_ofd(one, V9_LOCK_UNLCK, 0, 0, NULL) == 0);
    CHECK(v9_lock_ofd_test(other, &lock) == 0 && lock.type == V9_LOCK_UNLCK);
}

TEST(a_whole_file_is_locked_shared_or_alone)
{
    CHECK(v9_lock_flock(one, V9_LOCK_RDLCK, NULL) == 0);
    CHECK(v9_lock_flock(other, V9_LOCK_RDLCK, NULL) == 0);
    CHECK(v9_lock_flock(other, V9_LOCK_WRLCK, NULL) == -EAGAIN);
}

TEST(what_is_no_lock_is_refused)
{
    CHECK(v9_lock_ofd(one, 3, 0, 0, NULL) == -EINVAL && v9_lock_flock(one, -1, NULL) == -EINVAL);
    CHECK(v9_lock_ofd(one, V9_LOCK_RDLCK, UINT64_MAX, 0, NULL) == -EINVAL);
}

static int32_t cancel, result;

static void *wait_for_it(void *unused)
{
    __atomic_store_n(&result, v9_lock_ofd(other, V9_LOCK_WRLCK, 0, 0, &cancel), __ATOMIC_RELEASE);
    return unused;
}

TEST(a_wait_ends_when_it_is_cancelled)
{
    const int number = v9_sys_wake_signal();
    pthread_t waiter;

    CHECK(number > 0 && v9_lock_ofd(one, V9_LOCK_WRLCK, 0, 0, NULL) == 0);
    result = 1;
    CHECK(pthread_create(&waiter, NULL, wait_for_it, NULL) == 0);
    v9_lock_cancel(&cancel);
    while (__atomic_load_n(&result, __ATOMIC_ACQUIRE) == 1) {
        pthread_kill(waiter, number);
        usleep(1000);
    }
    CHECK(pthread_join(waiter, NULL) == 0 && result == -EINTR);
}
