/*
 * xattr_names: translates the guest's names of extended attributes into the host's, and back, by
 * rules. Why there are rules, and what they must not do to each other, is in
 * vhost9p/policy/xattrs.py.
 */
#ifndef V9_EXPORT_XATTR_NAMES_H
#define V9_EXPORT_XATTR_NAMES_H

#include "export/export.h"

/* As v9_xattr_names_host, by the export's rules; without rules a name stays. */
int v9_export_xattr_name(const v9_export *ex, const char *name, int refused,
                         char host[V9_XATTR_NAME]);
/* As v9_xattr_names_guest, likewise. */
int v9_export_xattr_shown(const v9_export *ex, const char *host, char guest[V9_XATTR_NAME]);

#endif
