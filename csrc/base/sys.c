/*
 * sys: system calls that Python's os module lacks, or that must run with a guest user's identity.
 *
 * The server creates files as the guest user that the fid's attach named. For the one call the
 * thread's fsuid and fsgid are switched (setfsuid(2) is per thread), which also drops the file
 * capabilities from the thread's effective set. CAP_DAC_OVERRIDE is raised again: the guest's
 * kernel has checked access already, with supplementary groups that the wire does not carry. So is
 * CAP_MKNOD for mknod alone, which the guest's kernel has checked too.
 */
#define _GNU_SOURCE
#include "base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/budget.h"
#include "vhost9p.h"

/* ---- identity ----------------------------------------------------------------------------------
 */

/* What it takes to give a file any owner: to be that user while it is made, wherever that is, and
 * to change it afterwards. */
#define OWNING                                                                                     \
    (1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_SETGID |              \
     1u << CAP_SETUID)

static int read_capabilities(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return syscall(SYS_capget, &header, data) < 0 ? -errno : 0;
}

uint32_t v9_sys_lacking_caps(void)
{
    struct __user_cap_data_struct data[2];

    return read_capabilities(data) ? OWNING : OWNING & ~data[0].effective;
}

int v9_self_read(struct v9_self *self)
{
    int count;

    *self = (struct v9_self){geteuid(), getegid(), !v9_sys_lacking_caps(), 0, NULL};
    count = self->privileged ? 0 : getgroups(0, NULL);
    if (count <= 0)
        return count < 0 ? -errno : 0;
    self->groups = calloc((size_t)count, sizeof(*self->groups));
    if (!self->groups)
        return -ENOMEM;
    count = getgroups(count, self->groups);
    self->group_count = count < 0 ? 0 : count;
    return 0;
}

void v9_self_free(struct v9_self *self)
{
    free(self->groups);
    self->groups = NULL;
}

bool v9_self_has_group(const struct v9_self *self, uint32_t gid)
{
    if (gid == self->gid)
        return true;
    for (int i = 0; i < self->group_count; i++)
        if (self->groups[i] == gid)
            return true;
    return false;
}

struct identity {
    bool switched;
    int uid, gid;
};

static int raise_capabilities(uint32_t which)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    int err = read_capabilities(data);

    if (err)
        return err;
    data[0].effective |= data[0].permitted & which;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static void leave(const struct identity *own)
{
    if (!own->switched)
        return;
    setfsgid((gid_t)own->gid);
    /* Back to 0 raises the file capabilities again, back from 0 drops them. */
    if (setfsuid((uid_t)own->uid) == 0 && own->uid)
        raise_capabilities(OWNING | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FSETID | 1u << CAP_MKNOD);
}

/* `needed`: capabilities that the call itself takes, over that of naming files everywhere. */
static int enter(const struct v9_cred *cred, uint32_t needed, struct identity *own)
{
    int err;

    own->switched = cred->switched;
    if (!own->switched)
        return 0;
    own->gid = setfsgid(cred->gid);
    own->uid = setfsuid(cred->uid);
    /* setfsuid tells no errors: asked with an invalid id, it tells the current one. An id that the
     * daemon's user namespace does not have leaves its own. */
    if (cred->required &&
        (setfsuid((uid_t)-1) != (int)cred->uid || setfsgid((gid_t)-1) != (int)cred->gid))
        err = -EPERM;
    else
        err = cred->uid ? raise_capabilities(1u << CAP_DAC_OVERRIDE | needed) : 0;
    if (err)
        leave(own);
    return err;
}

const struct v9_cred v9_sys_as_daemon = {.switched = false};

enum { RACES = 64 }; /* renames that a resolution with ".." may meet (openat2(2), EAGAIN) */

/* ---- opening -----------------------------------------------------------------------------------
 */

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
    char number[16];
    struct stat st;
    int opened;

    if (!known && fstat(fd, &st) < 0)
        return -errno;
    if (!known && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
        return S_ISLNK(st.st_mode) ? -ELOOP : -ENXIO;
    snprintf(number, sizeof(number), "%d", fd);
    V9_OPEN(opened, openat(proc_fd, number, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    return opened;
}

int v9_sys_path(int proc_fd, int fd, char path[PATH_MAX])
{
    char number[16];
    ssize_t size;

    snprintf(number, sizeof(number), "%d", fd);
    size = readlinkat(proc_fd, number, path, PATH_MAX);
    if (size < 0)
        return -errno;
    if (size == PATH_MAX)
        return -ENAMETOOLONG;
    path[size] = 0;
    return (int)size;
}

int v9_sys_make_nameless(int dir_fd, int flags, uint32_t mode)
{
    int fd;

    V9_OPEN(fd, openat(dir_fd, ".", flags | O_TMPFILE | O_CLOEXEC, mode));
    return fd;
}

/* ---- creating ----------------------------------------------------------------------------------
 */

/* -1 with errno. */
static int create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                  uint32_t mode)
{
    struct identity own;
    int fd, err = enter(cred, 0, &own);

    if (!err) {
        fd = openat(dir_fd, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        err = errno;
        leave(&own);
        errno = err;
        return fd;
    }
    errno = -err;
    return -1;
}

/* What gives descriptors up is done by the daemon, not by the guest's user. */
int v9_sys_create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                  uint32_t mode)
{
    int fd;

    V9_OPEN(fd, create(cred, dir_fd, name, flags, mode));
    return fd;
}

int v9_sys_mkdir(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode)
{
    struct identity own;
    int result = enter(cred, 0, &own);

    if (result)
        return result;
    result = mkdirat(dir_fd, name, mode) < 0 ? -errno : 0;
    leave(&own);
    return result;
}

int v9_sys_mknod(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode,
                 uint32_t major, uint32_t minor)
{
    struct identity own;
    int result = enter(cred, 1u << CAP_MKNOD, &own);

    if (result)
        return result;
    result = mknodat(dir_fd, name, mode, makedev(major, minor)) < 0 ? -errno : 0;
    leave(&own);
    return result;
}

int v9_sys_symlink(const struct v9_cred *cred, const char *target, int dir_fd, const char *name)
{
    struct identity own;
    int result = enter(cred, 0, &own);

    if (result)
        return result;
    result = symlinkat(target, dir_fd, name) < 0 ? -errno : 0;
    leave(&own);
    return result;
}

int v9_sys_utimens(int32_t fd, int64_t atime_sec, int64_t atime_nsec, int64_t mtime_sec,
                   int64_t mtime_nsec)
{
    const struct timespec times[2] = {{atime_sec, atime_nsec}, {mtime_sec, mtime_nsec}};
    _Static_assert(V9_TIME_NOW == UTIME_NOW && V9_TIME_OMIT == UTIME_OMIT, "utimensat(2)");

    return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* ---- locks -------------------------------------------------------------------------------------
 */

static bool is_cancelled(const int32_t *cancel)
{
    return cancel && __atomic_load_n(cancel, __ATOMIC_ACQUIRE);
}

void v9_sys_cancel(int32_t *cancel)
{
    __atomic_store_n(cancel, 1, __ATOMIC_RELEASE);
}

static const short ofd_types[] = {F_RDLCK, F_WRLCK, F_UNLCK};
static const int flock_types[] = {LOCK_SH, LOCK_EX, LOCK_UN};

static int describe(struct flock *lock, int32_t type, uint64_t start, uint64_t length)
{
    if (type < V9_LOCK_RDLCK || type > V9_LOCK_UNLCK || start > INT64_MAX || length > INT64_MAX)
        return -EINVAL;
    *lock = (struct flock){
        .l_type = ofd_types[type],
        .l_whence = SEEK_SET,
        .l_start = (off_t)start,
        .l_len = (off_t)length,
    };
    return 0;
}

int v9_sys_ofd_lock(int32_t fd, int32_t type, uint64_t start, uint64_t length,
                    const int32_t *cancel)
{
    struct flock lock;
    int err = describe(&lock, type, start, length);

    while (!err) {
        if (is_cancelled(cancel))
            return -EINTR;
        if (fcntl(fd, cancel ? F_OFD_SETLKW : F_OFD_SETLK, &lock) == 0)
            return 0;
        err = errno == EINTR ? 0 : errno == EACCES ? -EAGAIN : -errno;
    }
    return err;
}

int v9_sys_flock(int32_t fd, int32_t type, const int32_t *cancel)
{
    int err = type < V9_LOCK_RDLCK || type > V9_LOCK_UNLCK ? -EINVAL : 0;

    while (!err) {
        if (is_cancelled(cancel))
            return -EINTR;
        if (flock(fd, flock_types[type] | (cancel ? 0 : LOCK_NB)) == 0)
            return 0;
        err = errno == EINTR ? 0 : -errno;
    }
    return err;
}

int v9_sys_ofd_test(int32_t fd, struct v9_lock *out)
{
    struct flock lock;
    int err = describe(&lock, out->type, out->start, out->length);

    if (err)
        return err;
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    out->type = lock.l_type == F_UNLCK   ? V9_LOCK_UNLCK
                : lock.l_type == F_RDLCK ? V9_LOCK_RDLCK
                                         : V9_LOCK_WRLCK;
    out->pid = lock.l_pid;
    out->start = (uint64_t)lock.l_start;
    out->length = (uint64_t)lock.l_len;
    return 0;
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
