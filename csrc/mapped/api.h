/*
 * api: what Python sees of mapped/ (vhost9p.h).
 */
#ifndef V9_MAPPED_API_H
#define V9_MAPPED_API_H

#include "export/api.h"

/* ---- mapped.c: what the mapped security models keep beside a file ---------------------------- */

enum { V9_HAS_UID = 1, V9_HAS_GID = 2, V9_HAS_MODE = 4, V9_HAS_RDEV = 8, V9_HAS_ALL = 15 };

struct v9_mapped {
    uint32_t has; /* V9_HAS_*: the fields that count; V9_NO_SET_IDS (mapped/mapped.h) */
    uint32_t uid, gid, mode;
    uint64_t rdev; /* a dev_t (makedev(3)) */
};

/* The target of a symlink of the guest: its length, at most `size` - 1; -ENAMETOOLONG. */
int v9_mapped_readlink(v9_export *ex, int32_t fd, char *target, size_t size);
/* Caches metadata of mapped-xattr as long as ctime proves that they are current
 * (mapped/metadata_cache.h). Once, before the export is served. */
void v9_export_cache_metadata(v9_export *ex);

#endif
