/*
 * namespaces: a process of its own (namespaces(7)).
 *
 * A pid namespace holds the children of who has created it, so a process gets into a new one by
 * birth. Its first process is the init: when that ends, the kernel ends the others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/api.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

static unsigned long flags_of(uint32_t namespaces)
{
    return (namespaces & V9_NEW_USER ? CLONE_NEWUSER : 0) |
           (namespaces & V9_NEW_PID ? CLONE_NEWPID : 0) |
           (namespaces & V9_NEW_MOUNTS ? CLONE_NEWNS : 0) |
           (namespaces & V9_NEW_NET ? CLONE_NEWNET : 0) |
           (namespaces & V9_NEW_IPC ? CLONE_NEWIPC | CLONE_NEWUTS : 0);
}

int v9_namespaces_fork(uint32_t namespaces, void (*before)(void), void (*in_parent)(void),
                       void (*in_child)(void))
{
    void *number = NULL; /* where the C library keeps the thread's; the kernel writes the child's */
    int err;
    long pid;

    if (prctl(PR_GET_TID_ADDRESS, &number, 0, 0, 0) < 0 || !number)
        return -EOPNOTSUPP;
    before();
    /* Without a stack of its own the child goes on here, on its copy of this one. The last two
     * arguments are the address and a TLS that is not set, in an order of each architecture. */
    pid = syscall(SYS_clone,
                  flags_of(namespaces) | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD, NULL,
                  NULL, number, number);
    err = errno;
    if (pid == 0)
        in_child();
    else
        in_parent();
    return pid < 0 ? -err : (int)pid;
}

int v9_namespaces_unshare(uint32_t namespaces)
{
    return unshare((int)flags_of(namespaces)) < 0 ? -errno : 0;
}
