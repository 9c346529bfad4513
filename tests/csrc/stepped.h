/*
 * A process that a test runs instruction by instruction, to see what is left of it after each one
 * (ptrace(2)). It shares the test's descriptors, and what is mapped MAP_SHARED.
 */
#ifndef STEPPED_H
#define STEPPED_H

#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

/* Starts a process that waits before its work. */
static inline pid_t stepped_start(void (*work)(void))
{
    const pid_t child = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        work();
        raise(SIGSTOP);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    return child;
}

/* Runs one instruction, which may be a system call; false at the end of the work. */
static inline bool stepped_once(pid_t child)
{
    int status = 0;

    if (ptrace(PTRACE_SINGLESTEP, child, 0, 0) < 0 || waitpid(child, &status, 0) != child ||
        !WIFSTOPPED(status))
        return CHECK(!"the child can be traced") && false;
    return WSTOPSIG(status) == SIGTRAP;
}

static inline void stepped_kill(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

#endif
