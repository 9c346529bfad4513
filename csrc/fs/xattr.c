#define _GNU_SOURCE
#include "fs/xattr.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "base/host_xattrs.h"
#include "base/proc.h"
#include "base/refusal.h"
#include "export/xattr_names.h"
#include "quota/change.h"
#include "quota/quota.h"

/* An attribute on the host. */
struct attribute {
    int32_t fd; /* of its file */
    char path[V9_PROC_PATH];
    char name[V9_XATTR_NAME];
};

/* Fills in where the guest's attribute is; the length of its name, or as v9_xattr_names_host. */
static int find(const v9_export *ex, int32_t fd, const char *name, int refused,
                struct attribute *found)
{
    found->fd = fd;
    v9_proc_path(fd, found->path);
    return v9_export_xattr_name(ex, name, refused, found->name);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Whether the guest need not ask for the same of other files. */
static bool none_has(const v9_export *ex, const char *name)
{
    return ex->conf.unlabelled && !strcmp(name, "security.selinux");
}

int v9_xattr_get(const v9_export *ex, int32_t fd, const char *name, void *value, size_t room)
{
    struct attribute at;
    ssize_t size = find(ex, fd, name, ENODATA, &at);

    if (size < 0)
        return (int)size;
    size = getxattr(at.path, at.name, value, room - V9_XATTR_IDS_MORE);
    if (size < 0)
        return errno == ENODATA && none_has(ex, name) ? -EOPNOTSUPP : -errno;
    return v9_xattr_map_ids(ex, V9_XATTR_TO_GUEST, name, value, (size_t)size);
}

/* Writes the guest's names of a list of the host's. */
static int translate(const v9_export *ex, const struct v9_host_xattrs *list, char *names,
                     size_t room)
{
    char guest[V9_XATTR_NAME];
    size_t size = 0;

    for (const char *at = list->names; at < list->names + list->size; at += strlen(at) + 1) {
        const int length = v9_export_xattr_shown(ex, at, guest);
        if (length < 0)
            continue;
        if (size + (size_t)length + 1 > room)
            return room < XATTR_LIST_MAX ? -ERANGE : -E2BIG;
        memcpy(names + size, guest, (size_t)length + 1);
        size += (size_t)length + 1;
    }
    return (int)size;
}

int v9_xattr_list(const v9_export *ex, int32_t fd, char *names, size_t room)
{
    struct v9_host_xattrs list;
    char path[V9_PROC_PATH];
    ssize_t size;

    v9_proc_path(fd, path);
    if (!ex->xattr_names) {
        size = listxattr(path, names, room);
        return size < 0 ? -errno : (int)size;
    }
    size = v9_host_xattrs_list(path, &list);
    if (size)
        return (int)size;
    size = translate(ex, &list, names, room);
    v9_host_xattrs_free(&list);
    return (int)size;
}

/* ---- limits ---------------------------------------------------------------------------------- */

/* Sums up a file's attributes as the guest sees them, without the one that is to be set: bytes of
 * names and values, and their number. *before is what that one has, if it is there. */
static uint64_t sum_up(const v9_export *ex, const struct attribute *set,
                       const struct v9_host_xattrs *list, uint32_t *count, int64_t *before)
{
    char guest[V9_XATTR_NAME];
    uint64_t total = 0;

    *count = 0;
    *before = -1;
    for (const char *at = list->names; at < list->names + list->size; at += strlen(at) + 1) {
        const int length = v9_export_xattr_shown(ex, at, guest);
        ssize_t size;
        if (length < 0)
            continue;
        size = getxattr(set->path, at, NULL, 0);
        size = length + (size < 0 ? 0 : size); /* it is gone, or cannot be read */
        if (!strcmp(at, set->name)) {
            *before = size;
            continue;
        }
        total += (uint64_t)size;
        ++*count;
    }
    return total;
}

/* -ENOSPC if an attribute of `size` bytes, with its name, would exceed the limits, unless it
 * replaces one that is not smaller. */
static int check_room(const v9_export *ex, const struct attribute *set, uint64_t size)
{
    const struct v9_xattr_limits *limits = &ex->xattr_limits;
    struct v9_host_xattrs list;
    uint64_t total;
    uint32_t count;
    int64_t before;
    int err = v9_host_xattrs_list(set->path, &list);

    if (err)
        return err;
    total = sum_up(ex, set, &list, &count, &before);
    v9_host_xattrs_free(&list);
    if ((int64_t)size <= before)
        return 0;
    if (count + 1 > limits->names || total + size > limits->total)
        return v9_refuse(ENOSPC, V9_REFUSED_XATTR_ROOM, 0);
    return 0;
}

/* ---- changing -------------------------------------------------------------------------------- */

/* Begins a change of a file within the quota, if there is one. */
static int begin(const v9_export *ex, struct v9_quota_change *change)
{
    return ex->quota ? v9_quota_change_begin(ex->quota, change) : 0;
}

static void end(const v9_export *ex, const struct v9_quota_change *change)
{
    if (ex->quota)
        v9_quota_change_end(ex->quota, change);
}

/* Sets a value within the quota. */
static int set(v9_export *ex, const struct attribute *at, const void *value, size_t size, int flags)
{
    const uint64_t block = ex->quota ? v9_quota_block(ex->quota) : 1;
    struct v9_quota_change change = {.fds = {at->fd, -1, -1}};
    int err;

    change.bytes = (size / block + 1) * block; /* as many blocks as the value fills, and one */
    err = begin(ex, &change);
    if (err)
        return err;
    if (setxattr(at->path, at->name, value, size, flags) < 0)
        err = -errno;
    end(ex, &change);
    return err;
}

/* The same within the limits; `name` is the guest's. Whoever waits for the lock has nothing of the
 * quota set aside. */
static int set_within_limits(v9_export *ex, const struct attribute *at, const char *name,
                             const void *value, size_t size, int flags)
{
    int err;

    if (!ex->xattr_limits.names)
        return set(ex, at, value, size, flags);
    pthread_mutex_lock(&ex->xattr_lock);
    err = check_room(ex, at, strlen(name) + size);
    if (!err)
        err = set(ex, at, value, size, flags);
    pthread_mutex_unlock(&ex->xattr_lock);
    return err;
}

static int remove_found(v9_export *ex, const struct attribute *at, const char *name)
{
    struct v9_quota_change change = {.fds = {at->fd, -1, -1}};
    int err = begin(ex, &change);

    if (err)
        return err;
    if (removexattr(at->path, at->name) < 0)
        err = errno == ENODATA && v9_xattr_is_acl(name) ? 0 : -errno;
    end(ex, &change);
    return err;
}

int v9_xattr_remove(v9_export *ex, int32_t fd, const char *name)
{
    struct attribute at;
    const int err = find(ex, fd, name, EPERM, &at);

    return err < 0 ? err : remove_found(ex, &at, name);
}

/* Sets a value that is the host's. */
static int set_mapped(v9_export *ex, int32_t fd, const char *name, const void *value, size_t size,
                      int flags)
{
    struct attribute at;
    int err = find(ex, fd, name, EPERM, &at);

    if (err < 0)
        return err;
    if (!size && v9_xattr_is_acl(name))
        return remove_found(ex, &at, name);
    if (ex->xattr_limits.names && size > ex->xattr_limits.value)
        return v9_refuse(E2BIG, V9_REFUSED_XATTR_VALUE, ex->xattr_limits.value);
    err = set_within_limits(ex, &at, name, value, size, flags);
    if (!err && !strcmp(at.name, ex->caps.name))
        v9_caps_changed(&ex->caps);
    return err;
}

/* The guest's value may outlive this process: after a death it is mapped once more. */
int v9_xattr_set(v9_export *ex, int32_t fd, const char *name, const void *value, size_t size,
                 int flags)
{
    uint8_t *mapped = malloc(size + V9_XATTR_IDS_MORE);
    int err;

    if (!mapped)
        return -ENOMEM;
    memcpy(mapped, value, size);
    err = v9_xattr_map_ids(ex, V9_XATTR_TO_HOST, name, mapped, size);
    if (err >= 0)
        err = set_mapped(ex, fd, name, mapped, (size_t)err, flags);
    free(mapped);
    return err;
}
