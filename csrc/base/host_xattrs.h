/*
 * host xattrs: the names of a file's extended attributes, as the host's kernel returns them.
 */
#ifndef V9_BASE_HOST_XATTRS_H
#define V9_BASE_HOST_XATTRS_H

#include <stdint.h>

struct v9_host_xattrs {
    char few[4096];
    char *names; /* each with its NUL */
    uint32_t size;
};

/* Lists the names at a path. 0, or listxattr(2)'s -errno: -E2BIG for a list that the kernel cannot
 * return. v9_host_xattrs_free has to follow where this succeeded. */
int v9_host_xattrs_list(const char *path, struct v9_host_xattrs *list);
void v9_host_xattrs_free(struct v9_host_xattrs *list);

#endif
