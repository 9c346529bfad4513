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

/* Under mapped-file, the directory that has the metadata files of a directory's files: a
 * descriptor, or negative: -EMFILE or -ENFILE where none was left. */
int32_t v9_mapped_dir(v9_export *ex, int32_t dir_fd);
/* The target of a symlink of the guest: its length, at most `size` - 1; -ENAMETOOLONG. */
int v9_mapped_readlink(v9_export *ex, int32_t fd, char *target, size_t size);
/* Caches metadata of mapped-xattr as long as ctime proves that they are current
 * (mapped/metadata_cache.h). Once, before the export is served. */
void v9_export_cache_metadata(v9_export *ex);
/* Python begins to change names (begin 1), or has ended (0). In between, a file and its metadata
 * may have different names. */
void v9_mapped_changing(v9_export *ex, uint32_t begin);

/* ---- sidecar.c: mapped-file's metadata files, while names change ----------------------------- */

/* All but v9_sidecar_open are called under the export's lock of names. */

/* The metadata file of the file `fd` (O_PATH will do), found by the file's name, or created without
 * metadata: a descriptor. -ENOENT for a file that has neither a name nor metadata. */
int v9_sidecar_open(v9_export *ex, int32_t fd);
/* Opens, or creates, the directory with the metadata of a directory's files: a descriptor. */
int v9_sidecar_dir(int32_t dir_fd);
/* Before a file gets one more name: its metadata, which `meta_fd` is open on, get that name too.
 * Metadata that lie there for another file are removed; -EEXIST for a name in use. Returns the
 * metadata directory for v9_sidecar_placed, which has to follow when the file has its name, or when
 * that has `failed`. */
int v9_sidecar_share(v9_export *ex, int32_t dir_fd, const char *name, int32_t meta_fd);
void v9_sidecar_placed(int32_t meta_dir, const char *name, uint32_t failed);
/* Removes a name's metadata, if there are any. */
int v9_sidecar_discard(int32_t dir_fd, const char *name);
/* Removes the metadata directory of directory `name` that holds nothing else, for it to count as
 * empty. What is no directory is left alone. */
int v9_sidecar_clear(v9_export *ex, int32_t dir_fd, const char *name);

#endif
