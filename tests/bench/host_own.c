/*
 * The workloads on a file of its own as system calls: those that vhost9p's handlers make. What the
 * daemon takes beyond them is the way there and back.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "host.h"
#include "tree.h"

static int made_fd, file_fd, path_fd, link_fd;
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

/* ---- attributes */

bool host_chmod(struct lane *lane)
{
    (void)lane;
    turned = !turned;
    must(chmod(proc_path(), turned ? 0600 : 0644) == 0, "chmod");
    return false;
}

bool host_utimens(struct lane *lane)
{
    const struct timespec times[2] = {{TIME_SET, 0}, {TIME_SET, 0}};

    (void)lane;
    must(utimensat(path_fd, "", times, AT_EMPTY_PATH) == 0, "utimensat");
    return false;
}

bool host_truncate(struct lane *lane)
{
    (void)lane;
    turned = !turned;
    must(ftruncate(file_fd, turned ? SMALL : 0) == 0, "ftruncate");
    return false;
}

/* ---- names */

bool host_rename(struct lane *lane)
{
    (void)lane;
    turned = !turned;
    must(renameat(made_fd, turned ? "f" : "g", made_fd, turned ? "g" : "f") == 0, "rename");
    return false;
}

bool host_link(struct lane *lane)
{
    (void)lane;
    must(linkat(AT_FDCWD, proc_path(), made_fd, "g", AT_SYMLINK_FOLLOW) == 0, "link");
    must(unlinkat(made_fd, "g", 0) == 0, "unlink");
    return false;
}

bool host_mkdir(struct lane *lane)
{
    (void)lane;
    must(mkdirat(made_fd, "g", 0755) == 0, "mkdir");
    must(unlinkat(made_fd, "g", AT_REMOVEDIR) == 0, "rmdir");
    return false;
}

bool host_symlink(struct lane *lane)
{
    (void)lane;
    must(symlinkat(LINK_TARGET, made_fd, "g") == 0, "symlink");
    must(unlinkat(made_fd, "g", 0) == 0, "unlink");
    return false;
}

bool host_readlink(struct lane *lane)
{
    char target[128];

    (void)lane;
    must(readlinkat(link_fd, "", target, sizeof(target)) == TARGET_SIZE, "readlink");
    return false;
}

/* ---- extended attributes, which not every file system has */

static void expect(struct lane *lane, ssize_t got, ssize_t want)
{
    if (got < 0)
        engine_take_error(lane, 0, errno);
    else if (got != want)
        wrong(lane, "%zd instead of %zd", got, want);
}

bool host_xattr_get(struct lane *lane)
{
    char value[128];

    expect(lane, getxattr(proc_path(), XATTR_NAME, value, sizeof(value)), XATTR_SIZE);
    return false;
}

bool host_xattr_none(struct lane *lane)
{
    char value[128];
    ssize_t got = getxattr(proc_path(), XATTR_MISSING, value, sizeof(value));

    if (got >= 0 || errno != ENODATA)
        expect(lane, got, 0);
    return false;
}

bool host_xattr_list(struct lane *lane)
{
    uint8_t names[XATTR_NAMES_MAX];
    ssize_t size = listxattr(proc_path(), (char *)names, sizeof(names));

    expect(lane, size, size);
    if (size >= 0 && !tree_names_xattr(names, (uint32_t)size))
        wrong(lane, "%s is not among the names", XATTR_NAME);
    return false;
}

bool host_xattr_set(struct lane *lane)
{
    expect(lane, setxattr(proc_path(), XATTR_NAME, XATTR_VALUE, XATTR_SIZE, 0), 0);
    return false;
}

/* ---- locks, and the rest */

bool host_lock(struct lane *lane)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

    (void)lane;
    must(fcntl(file_fd, F_OFD_SETLK, &lock) == 0, "a lock");
    lock.l_type = F_UNLCK;
    must(fcntl(file_fd, F_OFD_SETLK, &lock) == 0, "an unlock");
    return false;
}

bool host_getlock(struct lane *lane)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};

    (void)lane;
    must(fcntl(file_fd, F_OFD_GETLK, &lock) == 0, "a look for a lock");
    return false;
}

bool host_fsync(struct lane *lane)
{
    (void)lane;
    must(fsync(file_fd) == 0, "fsync");
    return false;
}

bool host_statfs(struct lane *lane)
{
    struct statfs found;

    (void)lane;
    must(fstatfs(host_directory, &found) == 0, "statfs");
    return false;
}

bool host_attach(struct lane *lane)
{
    int fd = fcntl(host_directory, F_DUPFD_CLOEXEC, 0);
    struct statx found;

    (void)lane;
    must(fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &found) == 0,
         "statx");
    close(fd);
    return false;
}

/* ---- around the runs */

void host_prepare_own(struct lane *lane)
{
    made_fd = openat(host_directory, "made", O_PATH | O_DIRECTORY | O_CLOEXEC);
    must(made_fd >= 0, "made");
    file_fd = openat(made_fd, "f", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    path_fd = openat(made_fd, "f", O_PATH | O_CLOEXEC);
    must(file_fd >= 0 && path_fd >= 0, "made/f");
    if (run.workload == XATTR_GET || run.workload == XATTR_LIST)
        engine_try(lane, host_xattr_set);
    if (run.workload == READLINK) {
        must(symlinkat(LINK_TARGET, made_fd, "g") == 0, "symlink");
        link_fd = openat(made_fd, "g", O_PATH | O_NOFOLLOW | O_CLOEXEC);
        must(link_fd >= 0, "made/g");
    }
    turned = false;
}

void host_release_own(struct lane *lane)
{
    (void)lane;
    if (run.workload == READLINK) {
        close(link_fd);
        must(unlinkat(made_fd, "g", 0) == 0, "unlink");
    }
    close(file_fd);
    close(path_fd);
    must(unlinkat(made_fd, "f", 0) == 0 || unlinkat(made_fd, "g", 0) == 0, "unlink");
    close(made_fd);
}
