/*
 * root_directory: which files there are for this process.
 *
 * The new root is put together from detached mounts (mount_setattr(2), open_tree(2)): each gets its
 * attributes before it can be reached. A mount that the host has made can be made stricter without
 * naming its other attributes, so those that are locked in a user namespace stay.
 *
 * Device nodes in an export lead nowhere (nodev), and no program in it can be executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/proc.h"
#include "sandbox/api.h"

enum { STRICT = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };

static int restrict_mount(int fd, uint64_t attributes, int flags)
{
    struct mount_attr attr = {.attr_set = attributes};

    return mount_setattr(fd, "", (unsigned)(AT_EMPTY_PATH | flags), &attr, sizeof(attr));
}

/* A detached copy of what is mounted at a path, and below it. -1 with errno. */
static int copy_tree(const char *path, uint64_t attributes)
{
    int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    int err;

    if (fd < 0 || restrict_mount(fd, attributes, AT_RECURSIVE) == 0)
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

/* A new file system, mounted nowhere yet. -1 with errno. */
static int new_mount(const char *type, const char *key, const char *value, unsigned attributes)
{
    int context = fsopen(type, FSOPEN_CLOEXEC), fd = -1, err;

    if (context < 0)
        return -1;
    if (fsconfig(context, FSCONFIG_SET_STRING, key, value, 0) == 0 &&
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        fd = fsmount(context, FSMOUNT_CLOEXEC, attributes);
    err = errno;
    close(context);
    errno = err;
    return fd;
}

/* Directories for an absolute path below `root`, where there are none yet. */
static int create_directories(int root, const char *path)
{
    char part[PATH_MAX];

    for (const char *at = path + 1; at; at = strchr(at, '/')) {
        at += *at == '/';
        snprintf(part, sizeof(part), "%.*s", (int)(strchrnul(at, '/') - path - 1), path + 1);
        if (mkdirat(root, part, 0755) < 0 && errno != EEXIST)
            return -1;
    }
    return 0;
}

static int attach(int root, int tree, const char *target)
{
    if (strlen(target) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (create_directories(root, target) < 0)
        return -1;
    return move_mount(tree, "", root, target + 1, MOVE_MOUNT_F_EMPTY_PATH);
}

/* Copies of all that is to be mounted. A copy of "/" has what lies over it, too, so they are made
 * before the new root does. */
static int copy_all(const struct v9_sandbox_mount *mounts, uint32_t count, int *trees,
                    const char **step)
{
    for (uint32_t i = 0; i < count; i++) {
        *step = mounts[i].source;
        trees[i] = copy_tree(*step, STRICT | (mounts[i].readonly ? MOUNT_ATTR_RDONLY : 0));
        if (trees[i] < 0)
            return -1;
    }
    return 0;
}

static int attach_all(int root, const struct v9_sandbox_mount *mounts, uint32_t count,
                      const int *trees, const char **step)
{
    for (uint32_t i = 0; i < count; i++) {
        *step = mounts[i].source;
        if (attach(root, trees[i], mounts[i].target) < 0)
            return -1;
    }
    return 0;
}

static int new_proc(void)
{
    return new_mount("proc", "subset", "pid", STRICT | MOUNT_ATTR_RDONLY);
}

/* Where no new one may be mounted (something covers a part of the host's, as in a container), the
 * host's own serves. */
static int mount_proc(int root)
{
    int kind = V9_PROC_OWN, fd, err;

    fd = new_proc();
    if (fd < 0) {
        kind = V9_PROC_HOST;
        fd = copy_tree("/proc", STRICT | MOUNT_ATTR_RDONLY);
    }
    if (fd < 0)
        return -1;
    if (attach(root, fd, "/proc") < 0)
        kind = -1;
    err = errno;
    close(fd);
    errno = err;
    return kind;
}

/* The new root lies over the old one, which absolute paths still begin at, until it is the root. */
static int fill(int root, const struct v9_sandbox_mount *mounts, uint32_t count, int *trees,
                const char **step)
{
    int kind;

    if (copy_all(mounts, count, trees, step) < 0)
        return -1;
    *step = "tmpfs";
    if (move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
        attach_all(root, mounts, count, trees, step) < 0)
        return -1;
    *step = "/proc";
    kind = mount_proc(root);
    *step = "pivot_root";
    if (kind < 0 || fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
        umount2(".", MNT_DETACH) < 0)
        return -1;
    if (chdir("/") < 0 || restrict_mount(root, MOUNT_ATTR_RDONLY, 0) < 0)
        return -1;
    return kind;
}

static void close_all(int root, const int *trees, uint32_t count)
{
    for (uint32_t i = 0; trees && i < count; i++)
        if (trees[i] > 0)
            close(trees[i]);
    if (root >= 0)
        close(root);
}

int v9_root_pivot(const struct v9_sandbox_mount *mounts, uint32_t count, const char **step)
{
    int root, kind = -1, err, *trees;

    *step = "mount propagation";
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return -errno;
    *step = "tmpfs";
    root = new_mount("tmpfs", "size", "1m", STRICT);
    trees = calloc(count + 1, sizeof(*trees));
    if (root >= 0 && trees)
        kind = fill(root, mounts, count, trees, step);
    err = errno;
    close_all(root, trees, count);
    free(trees);
    return kind < 0 ? -err : kind;
}

/* ---- changes of a root that is in use -------------------------------------------------------- */

int v9_root_copy_tree(const char *path, uint32_t readonly)
{
    /* Mounts of the host still appear below it, and none made below it appears on the host. */
    struct mount_attr attr = {.attr_set = STRICT | (readonly ? MOUNT_ATTR_RDONLY : 0),
                              .propagation = MS_SLAVE};
    const int fd = copy_tree(path, 0);
    int err;

    if (fd < 0)
        return -errno;
    if (mount_setattr(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) == 0)
        return fd;
    err = errno;
    close(fd);
    return -err;
}

/* The root's own file system, writable here alone: the root itself stays read-only. -1 with errno.
 */
static int writable_root(void)
{
    struct mount_attr attr = {.attr_clr = MOUNT_ATTR_RDONLY};
    const int fd = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    int err;

    if (fd < 0 || mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0)
        return fd;
    err = errno;
    close(fd);
    errno = err;
    return -1;
}

int v9_root_attach(int32_t tree, const char *target)
{
    const int root = writable_root();
    int err = 0;

    if (root < 0)
        return -errno;
    if (create_directories(root, target) < 0 ||
        move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        err = -errno;
    close(root);
    return err;
}

int v9_root_detach(const char *target)
{
    int root, err = 0;

    if (umount2(target, MNT_DETACH | UMOUNT_NOFOLLOW) < 0 && errno != EINVAL && errno != ENOENT)
        return -errno;
    root = writable_root();
    if (root < 0)
        return -errno;
    if (unlinkat(root, target + 1, AT_REMOVEDIR) < 0 && errno != ENOENT)
        err = -errno;
    close(root);
    return err;
}

int v9_root_set_readonly(const char *target, uint32_t readonly)
{
    struct mount_attr attr = {.attr_set = readonly ? MOUNT_ATTR_RDONLY : 0,
                              .attr_clr = readonly ? 0 : MOUNT_ATTR_RDONLY};

    /* Mounts below may be read-only on the host as well: they stay it. */
    return mount_setattr(AT_FDCWD, target, readonly ? AT_RECURSIVE : 0, &attr, sizeof(attr)) < 0
               ? -errno
               : 0;
}

/* ---- others ---------------------------------------------------------------------------------- */

int v9_root_create_proc(void)
{
    int proc = new_proc();

    return proc < 0 ? -errno : proc;
}

/* Not over the old one, or each would stay for ever. There is none (EINVAL) where a process was
 * killed between both steps, of which the first one may take a while. */
int v9_root_replace_proc(int32_t proc)
{
    if ((umount2("/proc", MNT_DETACH) < 0 && errno != EINVAL) ||
        move_mount(proc, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -errno;
    return 0;
}

int v9_root_change(const char *path)
{
    int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC), err = 0;

    if (proc < 0)
        return -errno;
    if (chdir(path) < 0 || chroot(".") < 0 || fchdir(proc) < 0)
        err = -errno;
    else
        v9_proc_is_here();
    close(proc);
    return err;
}
