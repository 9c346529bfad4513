#define _GNU_SOURCE
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/api.h"
#include "base/proc.h"
#include "base/shrinker.h"

enum { RACES = 64 }; /* renames that a resolution with ".." may meet (openat2(2), EAGAIN) */

enum {
    P9_ACCMODE = 03,
    P9_TRUNC = 01000,
    P9_APPEND = 02000,
    P9_DSYNC = 010000,
    P9_DIRECTORY = 0200000,
    P9_NOATIME = 01000000,
    P9_SYNC = 04000000,
};

int v9_sys_open_flags(uint32_t flags)
{
    int host = O_NONBLOCK | O_NOCTTY | O_CLOEXEC;

    host |= (flags & P9_ACCMODE) == P9_ACCMODE ? O_RDWR : (int)(flags & P9_ACCMODE);
    host |= flags & P9_TRUNC ? O_TRUNC : 0;
    host |= (flags & P9_APPEND) && (flags & P9_ACCMODE) == O_WRONLY ? O_APPEND : 0;
    host |= flags & P9_DIRECTORY ? O_DIRECTORY : 0;
    host |= flags & P9_NOATIME ? O_NOATIME : 0;
    host |= (flags & P9_SYNC) == P9_SYNC ? O_SYNC : flags & (P9_SYNC | P9_DSYNC) ? O_DSYNC : 0;
    return host;
}

int v9_sys_open_mode(uint32_t mode)
{
    enum { ACCESS = 3, EXEC = 3, TRUNC = 0x10, RCLOSE = 0x40, APPEND = 0x80 };
    uint32_t access = mode & ACCESS;

    if (mode & RCLOSE)
        return -EOPNOTSUPP;
    return (int)((access == EXEC ? O_RDONLY : access) | (mode & TRUNC ? P9_TRUNC : 0) |
                 (mode & APPEND ? P9_APPEND : 0));
}

int v9_sys_reach(int dir_fd, const char *name, int more_flags)
{
    int fd;

    V9_OPEN(fd, openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC | more_flags));
    return fd;
}

int v9_sys_resolve(int dir_fd, const char *path, int more_flags, uint64_t scope)
{
    struct open_how how = {
        .flags = (uint64_t)(O_PATH | O_NOFOLLOW | O_CLOEXEC | more_flags),
        .resolve = scope | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    int fd = -EAGAIN;

    for (int i = 0; i <= RACES && fd == -EAGAIN; i++)
        V9_OPEN(fd, syscall(SYS_openat2, dir_fd, path, &how, sizeof(how)));
    return fd;
}

int v9_sys_open_file(int proc_fd, int fd, bool known, int flags)
{
    char number[V9_PROC_NUMBER];
    struct stat st;
    int opened;

    if (!known && fstat(fd, &st) < 0)
        return -errno;
    if (!known && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return S_ISLNK(st.st_mode) ? -ELOOP : -ENXIO;
    v9_proc_number(fd, number);
    V9_OPEN(opened, openat(proc_fd, number, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    return opened;
}

int v9_sys_dup(int32_t fd)
{
    int copy;

    V9_OPEN(copy, fcntl(fd, F_DUPFD_CLOEXEC, 3));
    return copy;
}

int v9_sys_path(int proc_fd, int fd, char path[PATH_MAX])
{
    char number[V9_PROC_NUMBER];
    ssize_t size;

    v9_proc_number(fd, number);
    size = readlinkat(proc_fd, number, path, PATH_MAX);
    if (size < 0)
        return -errno;
    if (size == PATH_MAX)
        return -ENAMETOOLONG;
    path[size] = 0;
    return (int)size;
}

int v9_sys_link(int proc_fd, int fd, int dir_fd, const char *name)
{
    char number[V9_PROC_NUMBER];

    v9_proc_number(fd, number);
    return linkat(proc_fd, number, dir_fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int v9_sys_tmpfile(int dir_fd, int flags, uint32_t mode)
{
    int fd;

    V9_OPEN(fd, openat(dir_fd, ".", flags | O_TMPFILE | O_CLOEXEC, mode));
    return fd;
}

int v9_sys_utimens(int32_t fd, int64_t atime_sec, int64_t atime_nsec, int64_t mtime_sec,
                   int64_t mtime_nsec)
{
    const struct timespec times[2] = {{atime_sec, atime_nsec}, {mtime_sec, mtime_nsec}};
    _Static_assert(V9_TIME_NOW == UTIME_NOW && V9_TIME_OMIT == UTIME_OMIT, "utimensat(2)");

    return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static void on_wake(int number)
{
    (void)number;
}

int v9_sys_wake_signal(void)
{
    struct sigaction action = {.sa_handler = on_wake}; /* no SA_RESTART: the wait ends */
    int number = SIGRTMIN + 1;

    sigemptyset(&action.sa_mask);
    return sigaction(number, &action, NULL) < 0 ? -errno : number;
}

/* ---- modes ----------------------------------------------------------------------------------- */

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452 /* Linux 6.6 */
#endif

int v9_sys_chmod(int proc_fd, int fd, uint32_t mode)
{
    static bool is_missing;
    char number[V9_PROC_NUMBER];

    if (!__atomic_load_n(&is_missing, __ATOMIC_RELAXED)) {
        if (syscall(SYS_fchmodat2, fd, "", mode, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno == ENOSYS)
            __atomic_store_n(&is_missing, true, __ATOMIC_RELAXED);
        else if (errno != EPERM) /* which seccomp filters return for unknown calls */
            return -errno;
    }
    v9_proc_number(fd, number);
    return fchmodat(proc_fd, number, mode, 0) < 0 ? -errno : 0;
}
