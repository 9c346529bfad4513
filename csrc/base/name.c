/*
 * name: what a directory entry may be called. Every name that a guest sends is checked here,
 * whether C or Python answers its request.
 */
#include <errno.h>
#include <string.h>

#include "base/api.h"
#include "base/wire.h"

int v9_name_check(const char *name, uint32_t size)
{
    if (!size)
        return -ENOENT;
    if (memchr(name, '/', size) || memchr(name, 0, size))
        return -EINVAL;
    if (size > P9_NAME_MAX)
        return -ENAMETOOLONG;
    return name[0] == '.' && (size == 1 || (size == 2 && name[1] == '.')) ? V9_NAME_DOTS : 0;
}
