/*
 * namespaces: a process of its own (namespaces(7)).
 *
 * A pid namespace holds the children of who has created it, so a process gets into a new one by
 * birth. Its first process is the init: when that ends, the kernel ends the others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "base/fork.h"
#include "sandbox/api.h"

static unsigned long flags_of(uint32_t namespaces)
{
    return (namespaces & V9_NEW_USER ? CLONE_NEWUSER : 0) |
           (namespaces & V9_NEW_PID ? CLONE_NEWPID : 0) |
           (namespaces & V9_NEW_MOUNTS ? CLONE_NEWNS : 0) |
           (namespaces & V9_NEW_NET ? CLONE_NEWNET : 0) |
           (namespaces & V9_NEW_IPC ? CLONE_NEWIPC | CLONE_NEWUTS : 0) |
           (namespaces & V9_AS_SIBLING ? CLONE_PARENT : 0);
}

int v9_namespaces_fork(uint32_t namespaces, void (*before)(void), void (*in_parent)(void),
                       void (*in_child)(void))
{
    return v9_fork(flags_of(namespaces), NULL, before, in_parent, in_child);
}

int v9_namespaces_unshare(uint32_t namespaces)
{
    return unshare((int)flags_of(namespaces)) < 0 ? -errno : 0;
}

int v9_namespaces_join(int32_t pidfd, uint32_t namespaces)
{
    if (!namespaces)
        return 0;
    return setns(pidfd, (int)flags_of(namespaces)) < 0 ? -errno : 0;
}

int v9_namespaces_enter(int32_t fd)
{
    /* By its type, since a service manager's filter (systemd's RestrictNamespaces=) has to see that
     * in the arguments, and refuses a call without it. */
    const int type = ioctl(fd, NS_GET_NSTYPE); /* ioctl_ns(2) */
    return type < 0 || setns(fd, type) < 0 ? -errno : 0;
}
