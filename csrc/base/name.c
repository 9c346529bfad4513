/*
 * name: what a directory entry may be called. Every name that a guest sends is checked here,
 * whether C or Python answers its request.
 *
 * The length is checked before the bytes, as open(2) does: the kernel refuses a path that is too
 * long before it looks for slashes. So a name that is too long is always reported as such, also in
 * a request that is too long to be read at all (request/request.c).
 */
#include <errno.h>
#include <string.h>

#include "base/api.h"
#include "base/wire.h"

int v9_name_check(const char *name, uint32_t size)
{
    if (!size)
        return -ENOENT;
    if (size > P9_NAME_MAX)
        return -ENAMETOOLONG;
    if (memchr(name, '/', size) || memchr(name, 0, size))
        return -EINVAL;
    return name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.')) ? V9_NAME_DOTS : 0;
}
