// sources: server/stop.c
/*
 * The end of a process on SIGTERM: in order, or by force where that does not come.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>

#include "check.h"
#include "server/api.h"

enum { ORDERLY = 3, FOR_EVER = 1000000, AT_ONCE = 1 };

/* Runs a process that gets SIGTERM; `is_orderly`: one that ends when it reads of it. `start` takes
 * the signals. Returns its exit status. */
static int end_process(int (*start)(int32_t, uint32_t), int reported, uint32_t patience_ms,
                       bool is_orderly)
{
    uint64_t number;
    int status = -1;
    sigset_t set;
    const pid_t child = fork();

    if (child == 0) {
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        if (start == v9_stop_start)
            sigprocmask(SIG_BLOCK, &set, NULL);
        if (start(reported, patience_ms))
            _exit(1);
        kill(getpid(), SIGTERM);
        if (is_orderly && read(reported, &number, sizeof(number)) == sizeof(number))
            _exit(number == SIGTERM ? ORDERLY : 1);
        for (;;)
            pause();
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int (*const starts[])(int32_t, uint32_t) = {v9_stop_start, v9_stop_handle};

TEST(a_process_that_hears_of_the_signal_ends_by_itself)
{
    const int reported = eventfd(0, EFD_CLOEXEC);

    for (int i = 0; i < 2; i++)
        CHECK(end_process(starts[i], reported, FOR_EVER, true) == ORDERLY);
    close(reported);
}

TEST(a_process_that_hangs_is_ended_with_status_0)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    uint64_t number;

    for (int i = 0; i < 2; i++) {
        number = 0;
        CHECK(end_process(starts[i], reported, AT_ONCE, false) == 0);
        CHECK(read(reported, &number, sizeof(number)) == sizeof(number) && number == SIGTERM);
    }
    close(reported);
}

TEST(only_the_first_signal_is_reported)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    uint64_t number = 0;
    int status = -1;
    const pid_t child = fork();

    if (child == 0) {
        if (v9_stop_handle(reported, FOR_EVER))
            _exit(1);
        raise(SIGALRM);
        raise(SIGINT);
        raise(SIGTERM);
        _exit(ORDERLY);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == ORDERLY);
    CHECK(read(reported, &number, sizeof(number)) == sizeof(number) && number == SIGINT);
    close(reported);
}

/* Of two signals that wait, the kernel may begin with SIGTERM's handler, whichever came first. */
TEST(a_stray_alarm_does_not_end_a_process_before_the_time_is_up)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    int status = -1;
    sigset_t both;
    const pid_t child = fork();

    if (child == 0) {
        sigemptyset(&both);
        sigaddset(&both, SIGALRM);
        sigaddset(&both, SIGTERM);
        if (v9_stop_handle(reported, FOR_EVER) || sigprocmask(SIG_BLOCK, &both, NULL))
            _exit(1);
        raise(SIGALRM);
        raise(SIGTERM);
        sigprocmask(SIG_UNBLOCK, &both, NULL);
        raise(SIGALRM);
        _exit(ORDERLY);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == ORDERLY);
    close(reported);
}

TEST(the_end_can_be_postponed)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    int status = -1;
    const pid_t child = fork();

    if (child == 0) {
        if (v9_stop_handle(reported, FOR_EVER))
            _exit(1);
        raise(SIGTERM);
        v9_stop_postpone(AT_ONCE);
        for (;;)
            pause();
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(reported);
}

/* Whoever starts the daemon may have blocked them, which is inherited. */
TEST(blocked_signals_end_a_process_too)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    int status = -1;
    sigset_t all;
    const pid_t child = fork();

    if (child == 0) {
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        if (v9_stop_handle(reported, AT_ONCE))
            _exit(1);
        kill(getpid(), SIGTERM);
        for (int i = 0; i < 1000; i++)
            usleep(10000);
        _exit(1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    close(reported);
}
