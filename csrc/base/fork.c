#define _GNU_SOURCE
#include "base/fork.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

/* The C library keeps the number of the running thread in memory. The kernel writes the child's own
 * there, as for fork(3): the address is the one that the library has registered for this thread. */
static void *thread_number(void)
{
    void *address = NULL;

    return prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0) < 0 ? NULL : address;
}

int v9_fork(unsigned long flags, int32_t *pidfd, void (*before)(void), void (*in_parent)(void),
            void (*in_child)(void))
{
    void *number = thread_number();
    int err;
    long pid;

    if (!number)
        return -EOPNOTSUPP;
    before();
    /* Without a stack of its own the child goes on here, on its copy of this one. The last two
     * arguments are the address and a TLS that is not set, in an order of each architecture. */
    pid = syscall(SYS_clone, flags | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, NULL,
                  pidfd, number, number);
    err = errno;
    if (pid == 0)
        in_child();
    else
        in_parent();
    return pid < 0 ? -err : (int)pid;
}
