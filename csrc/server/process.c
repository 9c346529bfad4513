/*
 * process: what a keeper and its workers need of the kernel and Python's os module lacks
 * (vhost9p/keeper.py has the theory).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fork.h"
#include "server/api.h"

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

int v9_process_clone(void (*before)(void), void (*in_parent)(void), void (*in_child)(void),
                     int32_t *pidfd)
{
    return v9_fork(CLONE_FILES | CLONE_PIDFD, pidfd, before, in_parent, in_child);
}

int v9_process_end_with(int32_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -errno;
    return getppid() == parent ? 0 : -ESRCH;
}

void v9_process_admit(int32_t pid)
{
    prctl(PR_SET_PTRACER, pid, 0, 0, 0);
}

int v9_process_take(int32_t pidfd, int32_t number)
{
    const long fd = syscall(SYS_pidfd_getfd, pidfd, number, 0);

    return fd < 0 ? -errno : (int)fd;
}

/* Where the kernel finds the command line for /proc/PID/cmdline (proc_pid_stat(5), fields 48 and
 * 49). */
static size_t find_arguments(char **start)
{
    enum { FIRST = 3, ARG_START = 48 }; /* the fields behind the name; the name may hold anything */
    unsigned long from = 0, to = 0;
    char text[2048], *at;
    FILE *stat = fopen("/proc/self/stat", "re");
    size_t size = stat ? fread(text, 1, sizeof(text) - 1, stat) : 0;

    if (stat)
        fclose(stat);
    text[size] = 0;
    at = strrchr(text, ')');
    for (int field = FIRST; at && field <= ARG_START; field++)
        at = strchr(at + 1, ' ');
    if (!at || sscanf(at, " %lu %lu", &from, &to) != 2 || !from || to <= from)
        return 0;
    *start = (char *)from; /* NOLINT: the kernel's number of an address */
    return to - from;
}

void v9_process_name(const char *name, const char *title)
{
    char *start;
    const size_t size = find_arguments(&start);

    prctl(PR_SET_NAME, name, 0, 0, 0);
    if (!title || !size)
        return;
    memset(start, 0, size);
    memcpy(start, title, strnlen(title, size - 1));
}

int v9_process_signals(const int32_t *numbers, uint32_t count)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    for (uint32_t i = 0; i < count; i++)
        sigaddset(&set, numbers[i]);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

int v9_process_close_range(uint32_t first, uint32_t last)
{
    return syscall(SYS_close_range, first, last, 0) < 0 ? -errno : 0;
}

void *v9_process_map(int32_t fd, uint64_t offset, uint64_t size, uint64_t at)
{
    void *place = (void *)(uintptr_t)at; /* NOLINT: an address that all versions agree upon */
    /* The kernel takes the address if nothing is there. MAP_FIXED_NOREPLACE would say the same, but
     * ThreadSanitizer, whose own memory is there, ends the process for it. */
    void *memory =
        mmap(place, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);

    if (memory == MAP_FAILED)
        return NULL;
    if (!at || memory == place)
        return memory;
    munmap(memory, size);
    return NULL;
}

void v9_process_unmap(void *memory, uint64_t size)
{
    munmap(memory, size);
}
