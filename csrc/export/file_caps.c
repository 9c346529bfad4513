#define _GNU_SOURCE
#include "export/file_caps.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "base/host_xattrs.h"
#include "base/proc.h"

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

/* Whether a file has the attribute: 1, 0, or -errno. Lists the names: unlike reading one attribute,
 * that needs no permission on the file, which may be open for writing with a mode that lets nobody
 * read. A list that the kernel cannot return counts as having the name (listxattr(2), BUGS). */
static int has(const char *path, const char *name)
{
    struct v9_host_xattrs list;
    int found = v9_host_xattrs_list(path, &list);

    if (found)
        return found == -ERANGE || found == -E2BIG ? 1 : found == -EOPNOTSUPP ? 0 : found;
    for (const char *at = list.names; at < list.names + list.size && !found; at += strlen(at) + 1)
        found = !strcmp(at, name);
    v9_host_xattrs_free(&list);
    return found;
}

int v9_caps_has(const struct v9_caps *caps, int32_t fd)
{
    char path[V9_PROC_PATH];

    if (!caps->name[0])
        return 0;
    v9_proc_path(fd, path);
    return has(path, caps->name);
}

int v9_caps_drop_file(const struct v9_caps *caps, int32_t fd)
{
    const int found = v9_caps_has(caps, fd);
    char path[V9_PROC_PATH];
    struct stat st;

    if (found <= 0)
        return found;
    v9_proc_path(fd, path);
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
