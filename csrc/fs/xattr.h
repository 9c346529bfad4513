/*
 * xattr: extended attributes of a file as the guest sees them.
 *
 * Names are translated by the export's rules (export/xattr_names.h), ids in values by its map
 * (export/xattr_ids.h). The export's limits and its quota bound what is set. `fd` is a descriptor
 * of the file, O_PATH will do; `name` is the guest's.
 */
#ifndef V9_FS_XATTR_H
#define V9_FS_XATTR_H

#include <linux/limits.h>
#include <stddef.h>
#include <stdint.h>

#include "export/xattr_ids.h"

enum { V9_XATTR_ROOM = XATTR_SIZE_MAX + V9_XATTR_IDS_MORE }; /* for any value while it is mapped */

/* Reads a value into `room` bytes, at most V9_XATTR_ROOM and more than V9_XATTR_IDS_MORE, and
 * returns its size. -ERANGE if it may not fit; -ENODATA, -EOPNOTSUPP; -EINVAL for a malformed value
 * of the host. A label that is missing on an unlabelled host is -EOPNOTSUPP: after -ENODATA `ls -l`
 * would ask for that of each file. */
int v9_xattr_get(const v9_export *ex, int32_t fd, const char *name, void *value, size_t room);
/* Lists the names, each with its NUL, and returns their size. -ERANGE if they do not fit `room`
 * bytes; -E2BIG if they exceed the XATTR_LIST_MAX bytes that listxattr(2) can return. */
int v9_xattr_list(const v9_export *ex, int32_t fd, char *names, size_t room);
/*
 * Sets a value with the flags of setxattr(2). Setting an empty ACL removes it, as in the kernel
 * (acl(5)). -EPERM for a name that is refused, or an id that the guest may not use; -E2BIG, -ENOSPC
 * beyond a limit; -ENOSPC, -EDQUOT beyond a quota.
 */
int v9_xattr_set(v9_export *ex, int32_t fd, const char *name, const void *value, size_t size,
                 int flags);
/* Removes an attribute; removing the ACL of a file without one succeeds. */
int v9_xattr_remove(v9_export *ex, int32_t fd, const char *name);

#endif
