/*
 * landlock: which files may be opened, whatever the root directory is (landlock(7)).
 *
 * An addition: Landlock stops neither stat(2) nor O_PATH nor chmod(2). Without the right to move
 * files between directories (REFER, ABI 2) it would have every such rename fail with EXDEV, so an
 * older ABI is not used.
 *
 * A file that was opened by its handle may be in no directory that the kernel knows, and Landlock
 * then refuses it. So files are not restricted where they are reopened by handles.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/api.h"

enum {
    ABI_MIN = 2,
    ABI_TRUNCATE = 3,
    ABI_NET = 4,
    ABI_IOCTL_DEV = 5,
    ABI_SCOPE = 6,
};
enum {
    READING = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    ALL_OF_ABI_2 = (LANDLOCK_ACCESS_FS_REFER << 1) - 1,
    TRUNCATE = 1 << 14, /* of newer headers: LANDLOCK_ACCESS_FS_TRUNCATE, */
    IOCTL_DEV = 1 << 15,
    NET_BIND_AND_CONNECT = 3,
    SCOPE_SOCKET_AND_SIGNAL = 3,
};

/* struct landlock_ruleset_attr of ABI 6; older kernels take less of it. */
struct ruleset {
    uint64_t files, net, scoped;
};

static uint64_t files_of(int abi)
{
    return ALL_OF_ABI_2 | (abi >= ABI_TRUNCATE ? TRUNCATE : 0) |
           (abi >= ABI_IOCTL_DEV ? IOCTL_DEV : 0);
}

static uint64_t access_of(const struct v9_landlock_path *path, uint64_t files)
{
    if (path->access == V9_LANDLOCK_CHANGE)
        return files & ~(uint64_t)LANDLOCK_ACCESS_FS_EXECUTE;
    return path->access == V9_LANDLOCK_LIST ? LANDLOCK_ACCESS_FS_READ_DIR : READING;
}

static int allow(int ruleset, const struct v9_landlock_path *path, uint64_t files)
{
    struct landlock_path_beneath_attr rule = {
        .allowed_access = access_of(path, files),
        .parent_fd = open(path->path, O_PATH | O_CLOEXEC),
    };
    int err = 0;

    if (rule.parent_fd < 0)
        return -errno;
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        err = -errno;
    close(rule.parent_fd);
    return err;
}

int v9_landlock(const struct v9_landlock_path *paths, uint32_t count)
{
    const int abi =
        (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset rules = {
        .files = count ? files_of(abi) : 0,
        .net = abi >= ABI_NET ? NET_BIND_AND_CONNECT : 0,
        .scoped = abi >= ABI_SCOPE ? SCOPE_SOCKET_AND_SIGNAL : 0,
    };
    const size_t size = abi >= ABI_SCOPE ? sizeof(rules)
                        : abi >= ABI_NET ? offsetof(struct ruleset, scoped)
                                         : offsetof(struct ruleset, net);
    int ruleset, err = 0;

    if (abi < ABI_MIN)
        return abi < 0 ? -errno : -ENOSYS;
    if (!rules.files && !rules.net && !rules.scoped)
        return abi;
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, size, 0);
    if (ruleset < 0)
        return -errno;
    for (uint32_t i = 0; i < count && !err; i++)
        err = allow(ruleset, &paths[i], rules.files);
    if (!err && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        err = -errno;
    close(ruleset);
    return err ? err : abi;
}
