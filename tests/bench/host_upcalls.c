/*
 * The system calls of the requests that vhost9p answers in Python: those that its handlers make, in
 * a loop of their own. So what the daemon takes beyond them is the way there and back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "bench.h"

static int made_fd, file_fd, path_fd;
static bool turned; /* every other time */

static void must(bool held, const char *what)
{
    if (!held)
        broken("%s: %s", what, strerror(errno));
}

/* What names a file that is held by an O_PATH descriptor (proc(5)). */
static const char *proc_path(void)
{
    static char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    return path;
}

void host_prepare_upcall(enum workload workload)
{
    made_fd = openat(host_directory, "made", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(made_fd >= 0, "made");
    file_fd = openat(made_fd, "f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    path_fd = openat(made_fd, "f", O_PATH | O_CLOEXEC);
    must(file_fd >= 0 && path_fd >= 0, "made/f");
    if (workload == XATTR_GET)
        must(fsetxattr(file_fd, XATTR_NAME, XATTR_VALUE, XATTR_SIZE, 0) == 0, "setxattr");
    turned = false;
}

void host_release_upcall(void)
{
    close(file_fd);
    close(path_fd);
    must(unlinkat(made_fd, "f", 0) == 0 || unlinkat(made_fd, "g", 0) == 0, "unlink");
    close(made_fd);
}

static void do_lock(bool ask)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    struct stat found;
    int fd;

    must(fstat(path_fd, &found) == 0, "fstat");
    fd = open(proc_path(), O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    must(fd >= 0 && fcntl(fd, ask ? F_OFD_GETLK : F_OFD_SETLK, &lock) == 0, "a lock");
    if (!ask) {
        lock.l_type = F_UNLCK;
        must(fcntl(fd, F_OFD_SETLK, &lock) == 0, "an unlock");
    }
    close(fd);
}

static void do_link(void)
{
    must(linkat(AT_FDCWD, proc_path(), made_fd, "g", AT_SYMLINK_FOLLOW) == 0, "link");
    must(unlinkat(made_fd, "g", 0) == 0, "unlink");
}

static void do_fsync(void)
{
    int fd = fcntl(file_fd, F_DUPFD_CLOEXEC, 0);

    must(fd >= 0 && fsync(fd) == 0, "fsync");
    close(fd);
}

static void do_attach(void)
{
    int fd = fcntl(host_directory, F_DUPFD_CLOEXEC, 0);
    struct statx found;

    must(fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) == 0,
         "statx");
    close(fd);
}

void host_step_upcall(enum workload workload)
{
    const struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    char value[128];

    turned = !turned;
    switch (workload) {
    case CHMOD:
        must(chmod(proc_path(), turned ? 0600 : 0644) == 0, "chmod");
        break;
    case UTIMENS:
        must(utimensat(path_fd, "", times, AT_EMPTY_PATH) == 0, "utimensat");
        break;
    case TRUNCATE:
        must(ftruncate(file_fd, turned ? SMALL : 0) == 0, "ftruncate");
        break;
    case RENAME:
        must(renameat(made_fd, turned ? "f" : "g", made_fd, turned ? "g" : "f") == 0, "rename");
        break;
    case LINK:
        do_link();
        break;
    case XATTR_GET:
        must(getxattr(proc_path(), XATTR_NAME, value, sizeof(value)) == XATTR_SIZE, "getxattr");
        break;
    case XATTR_SET:
        must(setxattr(proc_path(), XATTR_NAME, XATTR_VALUE, XATTR_SIZE, 0) == 0, "setxattr");
        break;
    case LOCK:
    case GETLOCK:
        do_lock(workload == GETLOCK);
        break;
    case FSYNC:
        do_fsync();
        break;
    default:
        do_attach();
        break;
    }
}
