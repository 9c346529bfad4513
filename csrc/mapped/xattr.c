#define _GNU_SOURCE
#include "mapped/xattr.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/proc.h"
#include "base/sys.h"

/* ---- reading --------------------------------------------------------------------------------- */

enum { PROC_PATH = V9_PROC_PATH + V9_NAME_SIZE };

/* A path that names `name` in directory `fd`, or `fd` itself. The xattr calls take nothing else. */
static void proc_path(int fd, const char *name, char path[PROC_PATH])
{
    v9_proc_path(fd, path);
    if (*name)
        strcat(strcat(path, "/"), name);
}

/* A file whose attributes are read: `name` in directory `fd`, or `fd` itself. */
struct carrier {
    int fd;
    const char *name;
    char path[PROC_PATH]; /* "" until it is needed */
    int err;              /* why something could not be read: -errno where the host has failed */
};

#ifndef SYS_getxattrat
#define SYS_getxattrat 464 /* Linux 6.13 */
#endif

/* getxattrat of an entry: its result, or -1 with ENOSYS. It does not take O_PATH descriptors of
 * files themselves. */
static ssize_t read_at(const struct carrier *from, const char *key, void *value, size_t size)
{
    static bool is_missing;
    const struct {
        uint64_t value;
        uint32_t size, flags;
    } args = {(uintptr_t)value, (uint32_t)size, 0};
    ssize_t got = -1;

    errno = ENOSYS;
    if (*from->name && !__atomic_load_n(&is_missing, __ATOMIC_RELAXED))
        got = syscall(SYS_getxattrat, from->fd, from->name, AT_SYMLINK_NOFOLLOW, key, &args,
                      sizeof(args));
    if (got < 0 && errno == EPERM) /* seccomp filters return it for unknown calls */
        errno = ENOSYS;
    if (got < 0 && errno == ENOSYS && *from->name)
        __atomic_store_n(&is_missing, true, __ATOMIC_RELAXED);
    return got;
}

static bool read_xattr(struct carrier *from, const char *key, void *value, size_t size)
{
    ssize_t got = read_at(from, key, value, size);

    if (got < 0 && errno == ENOSYS) {
        if (!*from->path)
            proc_path(from->fd, from->name, from->path);
        got = *from->name ? lgetxattr(from->path, key, value, size)
                          : getxattr(from->path, key, value, size);
    }
    if (got < 0 && v9_sys_has_failed(-errno))
        from->err = -errno;
    return got == (ssize_t)size;
}

static bool read_xattr32(struct carrier *from, const char *key, uint32_t *out)
{
    uint32_t value;

    if (!read_xattr(from, key, &value, sizeof(value)))
        return false;
    *out = le32toh(value);
    return true;
}

int v9_mapped_read_xattrs(int32_t fd, const char *name, uint32_t wanted, struct v9_mapped *out)
{
    struct carrier from = {.fd = fd, .name = name};
    uint64_t rdev;

    if (wanted & V9_HAS_UID && read_xattr32(&from, "user.virtfs.uid", &out->uid))
        out->has |= V9_HAS_UID;
    if (wanted & V9_HAS_GID && read_xattr32(&from, "user.virtfs.gid", &out->gid))
        out->has |= V9_HAS_GID;
    if (wanted & V9_HAS_MODE && read_xattr32(&from, "user.virtfs.mode", &out->mode))
        out->has |= V9_HAS_MODE;
    if (wanted & V9_HAS_RDEV && (S_ISCHR(out->mode) || S_ISBLK(out->mode)) &&
        read_xattr(&from, "user.virtfs.rdev", &rdev, sizeof(rdev))) {
        out->has |= V9_HAS_RDEV;
        out->rdev = le64toh(rdev);
    }
    return from.err;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* By the descriptor, or where that is O_PATH by a path. */
static int write_xattr(int fd, const char *key, const void *value, size_t size)
{
    char path[PROC_PATH];

    if (fsetxattr(fd, key, value, size, 0) == 0)
        return 0;
    if (errno != EBADF)
        return -errno;
    proc_path(fd, "", path);
    return setxattr(path, key, value, size, 0) < 0 ? -errno : 0;
}

static int write_xattr32(int fd, const char *key, uint32_t value)
{
    const uint32_t stored = htole32(value);
    return write_xattr(fd, key, &stored, sizeof(stored));
}

int v9_mapped_write_xattrs(int32_t fd, const struct v9_mapped *change)
{
    const uint64_t rdev = htole64(change->rdev);
    int err = 0;

    /* The mode first: a program that is given away is not its new owner's with its set-id bits. */
    if (change->has & V9_HAS_MODE)
        err = write_xattr32(fd, "user.virtfs.mode", change->mode);
    if (!err && change->has & V9_HAS_UID)
        err = write_xattr32(fd, "user.virtfs.uid", change->uid);
    if (!err && change->has & V9_HAS_GID)
        err = write_xattr32(fd, "user.virtfs.gid", change->gid);
    if (!err && change->has & V9_HAS_RDEV)
        err = write_xattr(fd, "user.virtfs.rdev", &rdev, sizeof(rdev));
    return err;
}

static void restore_xattr(int fd, const char *key, const void *value, size_t size, bool was_there)
{
    char path[PROC_PATH];

    if (was_there) {
        write_xattr(fd, key, value, size);
        return;
    }
    proc_path(fd, "", path);
    removexattr(path, key);
}

static void restore_xattr32(int fd, const char *key, uint32_t value, bool was_there)
{
    const uint32_t stored = htole32(value);
    restore_xattr(fd, key, &stored, sizeof(stored), was_there);
}

void v9_mapped_restore_xattrs(int32_t fd, const struct v9_mapped *change,
                              const struct v9_mapped *old)
{
    if (change->has & V9_HAS_MODE)
        restore_xattr32(fd, "user.virtfs.mode", old->mode, old->has & V9_HAS_MODE);
    if (change->has & V9_HAS_UID)
        restore_xattr32(fd, "user.virtfs.uid", old->uid, old->has & V9_HAS_UID);
    if (change->has & V9_HAS_GID)
        restore_xattr32(fd, "user.virtfs.gid", old->gid, old->has & V9_HAS_GID);
}
