#define _GNU_SOURCE
#include "export/file_caps.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

int v9_caps_watch(struct v9_caps *caps, const char *name)
{
    size_t size = strnlen(name, V9_CAPS_NAME);

    if (!size || size == V9_CAPS_NAME)
        return -EINVAL;
    memcpy(caps->name, name, size + 1);
    caps->seq = 1;
    return 0;
}

void v9_caps_changed(struct v9_caps *caps)
{
    __atomic_add_fetch(&caps->seq, 1, __ATOMIC_RELEASE);
}

/* Lists the names: unlike reading one attribute, that needs no permission on the file, which may be
 * open for writing with a mode that lets nobody read. A longer list counts as having the name. */
static bool may_have(const char *path, const char *name)
{
    char list[4096];
    ssize_t size = listxattr(path, list, sizeof(list));

    if (size < 0)
        return errno == ERANGE || errno == E2BIG;
    for (const char *at = list; at < list + size; at += strlen(at) + 1)
        if (!strcmp(at, name))
            return true;
    return false;
}

int v9_caps_drop_file(const struct v9_caps *caps, int32_t fd)
{
    char path[32];
    struct stat st;

    if (!caps->name[0])
        return 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (!may_have(path, caps->name))
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return 0;
    return removexattr(path, caps->name) < 0 && errno != ENODATA ? -errno : 0;
}

int v9_caps_drop(const struct v9_caps *caps, int32_t io_fd, uint32_t *seen)
{
    uint32_t seq;
    int err;

    if (!caps->name[0])
        return 0;
    seq = __atomic_load_n(&caps->seq, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(seen, __ATOMIC_RELAXED) == seq)
        return 0;
    err = v9_caps_drop_file(caps, io_fd);
    if (!err)
        __atomic_store_n(seen, seq, __ATOMIC_RELAXED);
    return err;
}
