#include "base/proc.h"

#include <stdio.h>

static const char *root = "/proc/";

void v9_proc_is_here(void)
{
    root = "";
}

void v9_proc_path(int fd, char path[V9_PROC_PATH])
{
    snprintf(path, V9_PROC_PATH, "%sself/fd/%d", root, fd);
}

void v9_proc_fds(char path[V9_PROC_PATH])
{
    snprintf(path, V9_PROC_PATH, "%sself/fd", root);
}

void v9_proc_system_call(int tid, char path[V9_PROC_PATH])
{
    snprintf(path, V9_PROC_PATH, "%sself/task/%d/syscall", root, tid);
}
