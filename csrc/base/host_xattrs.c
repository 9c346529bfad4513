#define _GNU_SOURCE
#include "base/host_xattrs.h"

#include <errno.h>
#include <linux/limits.h>
#include <stdlib.h>
#include <sys/xattr.h>

/* Lists into memory that holds the longest list there is. */
static int read_long(const char *path, struct v9_host_xattrs *list)
{
    ssize_t size;

    list->names = malloc(XATTR_LIST_MAX);
    if (!list->names)
        return -ENOMEM;
    size = listxattr(path, list->names, XATTR_LIST_MAX);
    if (size < 0) {
        const int err = -errno;
        free(list->names);
        return err;
    }
    list->size = (uint32_t)size;
    return 0;
}

int v9_host_xattrs_list(const char *path, struct v9_host_xattrs *list)
{
    const ssize_t size = listxattr(path, list->few, sizeof(list->few));

    if (size < 0)
        return errno == ERANGE ? read_long(path, list) : -errno;
    list->names = list->few;
    list->size = (uint32_t)size;
    return 0;
}

void v9_host_xattrs_free(struct v9_host_xattrs *list)
{
    if (list->names != list->few)
        free(list->names);
}
