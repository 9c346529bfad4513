// sources: base/proc.c
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/proc.h"
#include "check.h"

TEST(proc_is_below_the_root)
{
    char path[V9_PROC_PATH];

    v9_proc_path(2147483647, path);
    CHECK(!strcmp(path, "/proc/self/fd/2147483647"));
    v9_proc_fds(path);
    CHECK(!strcmp(path, "/proc/self/fd/."));
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
    CHECK(!strcmp(path, "self/fd/."));
}

TEST(proc_paths_lead_to_descriptors)
{
    char number[V9_PROC_NUMBER], path[V9_PROC_PATH];
    const int fd = open("/", O_PATH);
    struct stat st, root;

    v9_proc_number(0, number);
    CHECK(!strcmp(number, "0"));
    v9_proc_number(-1, number);
    CHECK(!strcmp(number, "-"));
    v9_proc_number(2147483647, number);
    CHECK(!strcmp(number, "2147483647"));
    v9_proc_number(100, number);
    CHECK(!strcmp(number, "100"));
    CHECK(!stat("/", &root) && !v9_proc_go_to_fds());
    v9_proc_path(fd, path);
    CHECK(!stat(path, &st) && st.st_ino == root.st_ino && st.st_dev == root.st_dev);
    v9_proc_fds(path);
    CHECK(!access(path, R_OK));
    v9_proc_system_call(getpid(), path);
    CHECK(!strncmp(path, "../task/", 8) && !access(path, F_OK));
    close(fd);
}
