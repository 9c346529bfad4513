// sources: base/proc.c
#include <string.h>

#include "base/proc.h"
#include "check.h"

TEST(proc_is_below_the_root)
{
    char path[V9_PROC_PATH];

    v9_proc_path(2147483647, path);
    CHECK(!strcmp(path, "/proc/self/fd/2147483647"));
    v9_proc_fds(path);
    CHECK(!strcmp(path, "/proc/self/fd"));
    v9_proc_system_call(2147483647, path);
    CHECK(!strcmp(path, "/proc/self/task/2147483647/syscall"));
}

TEST(proc_is_the_current_directory)
{
    char path[V9_PROC_PATH];

    v9_proc_is_here();
    v9_proc_path(3, path);
    CHECK(!strcmp(path, "self/fd/3"));
    v9_proc_fds(path);
    CHECK(!strcmp(path, "self/fd"));
}
