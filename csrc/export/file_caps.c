#define _GNU_SOURCE
#include "export/file_caps.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/xattr.h>

#include "fs/attributes.h"

int v9_export_watch_caps(v9_export *ex, const char *name)
{
    size_t size = strnlen(name, V9_CAPS_NAME);

    if (!size || size == V9_CAPS_NAME)
        return -EINVAL;
    memcpy(ex->caps.name, name, size + 1);
    ex->caps.epoch = 1;
    return 0;
}

void v9_export_caps_set(v9_export *ex)
{
    __atomic_add_fetch(&ex->caps.epoch, 1, __ATOMIC_RELEASE);
}

/* Listing names takes no permission on the file, other than asking for one of them: a file may be
 * open for writing and of a mode that lets nobody in. A list that is longer than looked at counts
 * as one with the name in it. */
static bool may_have(int32_t fd, const char *name)
{
    char list[4096];
    ssize_t size = flistxattr(fd, list, sizeof(list));

    if (size < 0)
        return errno == ERANGE || errno == E2BIG;
    for (const char *at = list; at < list + size; at += strlen(at) + 1)
        if (!strcmp(at, name))
            return true;
    return false;
}

int v9_caps_drop(const struct v9_caps *caps, int32_t io_fd, uint32_t *seen)
{
    uint32_t epoch;

    if (!caps->name[0])
        return 0;
    epoch = __atomic_load_n(&caps->epoch, __ATOMIC_ACQUIRE);
    if (__atomic_load_n(seen, __ATOMIC_RELAXED) == epoch)
        return 0;
    if (may_have(io_fd, caps->name) && fremovexattr(io_fd, caps->name) < 0 && errno != ENODATA)
        return -errno;
    __atomic_store_n(seen, epoch, __ATOMIC_RELAXED);
    return 0;
}
