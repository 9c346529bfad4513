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

/* Runs a process that gets SIGTERM; `is_orderly`: one that ends when it reads of it. Returns its
 * exit status. */
static int end_process(int reported, uint32_t patience_ms, bool is_orderly)
{
    uint64_t number;
    int status = -1;
    sigset_t set;
    const pid_t child = fork();

    if (child == 0) {
        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigprocmask(SIG_BLOCK, &set, NULL);
        if (v9_stop_start(reported, patience_ms))
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

TEST(a_process_that_hears_of_the_signal_ends_by_itself)
{
    const int reported = eventfd(0, EFD_CLOEXEC);

    CHECK(end_process(reported, FOR_EVER, true) == ORDERLY);
    close(reported);
}

TEST(a_process_that_hangs_is_ended_with_status_0)
{
    const int reported = eventfd(0, EFD_CLOEXEC);
    uint64_t number = 0;

    CHECK(end_process(reported, AT_ONCE, false) == 0);
    CHECK(read(reported, &number, sizeof(number)) == sizeof(number) && number == SIGTERM);
    close(reported);
}
