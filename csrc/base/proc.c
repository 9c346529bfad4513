#define _GNU_SOURCE
#include "base/proc.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What paths of this process begin with, and those of its descriptors. */
static const char *own = "/proc/self/", *fds = "/proc/self/fd/";

void v9_proc_is_here(void)
{
    own = "self/";
    fds = "self/fd/";
}

int v9_proc_go_to_fds(void)
{
    if (chdir(fds) < 0)
        return -errno;
    own = "../";
    fds = "";
    return 0;
}

/* printf(3) takes as long as some system calls. What is no descriptor has no such name. */
void v9_proc_number(int fd, char number[V9_PROC_NUMBER])
{
    char digits[V9_PROC_NUMBER], *at = digits + sizeof(digits);
    unsigned rest = (unsigned)(fd < 0 ? 0 : fd);

    *--at = 0;
    do {
        *--at = (char)('0' + rest % 10);
        rest /= 10;
    } while (rest);
    if (fd < 0)
        *at = '-';
    memcpy(number, at, (size_t)(digits + sizeof(digits) - at));
}

void v9_proc_path(int fd, char path[V9_PROC_PATH])
{
    v9_proc_number(fd, stpcpy(path, fds));
}

void v9_proc_fds(char path[V9_PROC_PATH])
{
    snprintf(path, V9_PROC_PATH, "%s.", fds);
}

void v9_proc_system_call(int tid, char path[V9_PROC_PATH])
{
    snprintf(path, V9_PROC_PATH, "%stask/%d/syscall", own, tid);
}
