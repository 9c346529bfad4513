#define _GNU_SOURCE
#include "export/xattr_ids.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <string.h>

_Static_assert(sizeof(struct posix_acl_xattr_header) == 4, "an ACL's version");
_Static_assert(sizeof(struct posix_acl_xattr_entry) == 8, "tag, permissions, id");
_Static_assert(XATTR_CAPS_SZ_3 == XATTR_CAPS_SZ_2 + V9_XATTR_IDS_MORE, "the id of root");

bool v9_xattr_is_acl(const char *name)
{
    return !strcmp(name, "system.posix_acl_access") || !strcmp(name, "system.posix_acl_default");
}

/* An id of V9_UID or V9_GID; -EPERM. */
static int64_t map_id(const v9_export *ex, enum v9_xattr_direction direction, uint32_t kind,
                      uint32_t id)
{
    return direction == V9_XATTR_TO_HOST ? v9_export_host_id(ex, kind, id)
                                         : v9_export_guest_id(ex, kind, id);
}

static int map_acl(const v9_export *ex, enum v9_xattr_direction direction, uint8_t *value,
                   size_t size)
{
    struct posix_acl_xattr_header header;
    struct posix_acl_xattr_entry entry;
    int64_t id;

    if (size % sizeof(entry) != sizeof(header))
        return -EINVAL;
    memcpy(&header, value, sizeof(header));
    if (header.a_version != POSIX_ACL_XATTR_VERSION)
        return -EINVAL;
    for (uint8_t *at = value + sizeof(header); at < value + size; at += sizeof(entry)) {
        memcpy(&entry, at, sizeof(entry));
        if (entry.e_tag != ACL_USER && entry.e_tag != ACL_GROUP)
            continue;
        id = map_id(ex, direction, entry.e_tag == ACL_USER ? V9_UID : V9_GID, entry.e_id);
        if (id < 0)
            return (int)id;
        entry.e_id = (uint32_t)id;
        memcpy(at, &entry, sizeof(entry));
    }
    return (int)size;
}

static int map_caps(const v9_export *ex, enum v9_xattr_direction direction, uint8_t *value,
                    size_t size)
{
    uint32_t magic = 0, root = 0;
    int64_t mapped;

    if (size >= sizeof(magic))
        memcpy(&magic, value, sizeof(magic));
    if ((magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_3 && size == XATTR_CAPS_SZ_3)
        memcpy(&root, value + XATTR_CAPS_SZ_2, sizeof(root));
    else if ((magic & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_2 || size != XATTR_CAPS_SZ_2)
        return -EINVAL;
    mapped = map_id(ex, direction, V9_UID, root);
    if (mapped < 0)
        return (int)mapped;
    root = (uint32_t)mapped;
    magic = (magic & ~VFS_CAP_REVISION_MASK) | (root ? VFS_CAP_REVISION_3 : VFS_CAP_REVISION_2);
    memcpy(value, &magic, sizeof(magic));
    memcpy(value + XATTR_CAPS_SZ_2, &root, sizeof(root));
    return root ? XATTR_CAPS_SZ_3 : XATTR_CAPS_SZ_2;
}

int v9_xattr_map_ids(const v9_export *ex, enum v9_xattr_direction direction, const char *name,
                     void *value, size_t size)
{
    if (!size || (!ex->ids[V9_UID].set && !ex->ids[V9_GID].set))
        return (int)size;
    if (v9_xattr_is_acl(name))
        return map_acl(ex, direction, value, size);
    return strcmp(name, "security.capability") ? (int)size : map_caps(ex, direction, value, size);
}
