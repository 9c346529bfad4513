/*
 * xattr_ids: maps ids within the values of extended attributes: ACLs and file capabilities.
 *
 * An ACL (acl(5), linux/posix_acl_xattr.h) is le32 version 2 and entries of le16 tag, le16
 * permissions, le32 id. The id has a meaning in entries of named users and groups only.
 *
 * Capabilities (capabilities(7), linux/capability.h) are le32 revision and flags, and two pairs of
 * le32 sets. Revision 3 adds a le32: the user id of root of the user namespace in which they are
 * valid. Revision 2 is valid for the host's root. So capabilities that a guest's root sets become
 * valid, on the host, for the id that the guest's root maps to, and not for the host's root.
 */
#ifndef V9_EXPORT_XATTR_IDS_H
#define V9_EXPORT_XATTR_IDS_H

#include <stdbool.h>
#include <stddef.h>

#include "export/export.h"

enum { V9_XATTR_IDS_MORE = 4 }; /* bytes by which a value may grow */

enum v9_xattr_direction { V9_XATTR_TO_GUEST, V9_XATTR_TO_HOST };

/* Whether the guest's name is an ACL's. */
bool v9_xattr_is_acl(const char *name);
/* Maps the ids in a value, which has room for V9_XATTR_IDS_MORE bytes more, by the guest's name of
 * its attribute. The new size; -EINVAL for a malformed value, -EPERM for an id that the guest may
 * not use. Without a map of ids nothing changes. */
int v9_xattr_map_ids(const v9_export *ex, enum v9_xattr_direction direction, const char *name,
                     void *value, size_t size);

#endif
