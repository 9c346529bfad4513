/*
 * api: what Python sees of mapped/ (vhost9p.h).
 */
#ifndef V9_MAPPED_API_H
#define V9_MAPPED_API_H

#include "export/api.h"

/* ---- mapped.c: what the mapped security models keep beside a file ---------------------------- */

enum { V9_HAS_UID = 1, V9_HAS_GID = 2, V9_HAS_MODE = 4, V9_HAS_RDEV = 8, V9_HAS_ALL = 15 };
/* In a change: a program loses its set-id bits, as by chown(2) and write(2), whatever its mode is
 * by then. Not together with a mode. */
enum { V9_NO_SET_IDS = 16 };

struct v9_mapped {
    uint32_t has; /* V9_HAS_*: the fields that count; V9_NO_SET_IDS */
    uint32_t uid, gid, mode;
    uint64_t rdev; /* a dev_t (makedev(3)) */
};

/* Opens the metadata file of the file `fd` (O_PATH will do), by the file's present name; -ENOENT:
 * it has none, or the model is not mapped-file. */
int v9_mapped_find(v9_export *ex, int32_t fd);
/* Under mapped-file, the directory that has the metadata files of a directory's files: a
 * descriptor, or negative: -EMFILE or -ENFILE where none was left. */
int32_t v9_mapped_dir(v9_export *ex, int32_t dir_fd);
/* The target of a symlink of the guest: its length, at most `size` - 1; -ENAMETOOLONG. */
int v9_mapped_readlink(v9_export *ex, int32_t fd, char *target, size_t size);
/*
 * Changes the metadata of the file `fd` (O_PATH will do); `meta_fd` is its metadata file under
 * mapped-file. A mode without a type leaves the type alone. After a crash the text of mapped-file
 * is the old one or the new one.
 */
int v9_mapped_write(v9_export *ex, int32_t fd, int32_t meta_fd, const struct v9_mapped *change);
/* Caches metadata of mapped-xattr as long as ctime proves that they are current
 * (mapped/metadata_cache.h). Once, before the export is served. */
void v9_export_cache_metadata(v9_export *ex);
/* Python begins to change names (begin 1), or has ended (0). In between, a file and its metadata
 * may have different names. */
void v9_mapped_changing(v9_export *ex, uint32_t begin);

/* ---- sidecar.c: mapped-file's metadata files, while names change ----------------------------- */

/* mapped/sidecar.c: mapped-file's metadata files, while names change. The lock is held. */
/* Opens, or creates, the directory with the metadata of a directory's files: a descriptor. */
int v9_sidecar_dir(int32_t dir_fd);
/* Before a file gets one more name: its metadata, which `meta_fd` is open on, get that name too.
 * Metadata that lie there for another file are removed; -EEXIST for a name in use. Returns the
 * metadata directory for v9_sidecar_placed, which has to follow when the file has its name, or when
 * that has `failed`. */
int v9_sidecar_share(v9_export *ex, int32_t dir_fd, const char *name, int32_t meta_fd);
void v9_sidecar_placed(int32_t meta_dir, const char *name, uint32_t failed);
/* A new metadata file with its text: a descriptor. */
int v9_sidecar_new(int32_t meta_dir, const char *name, const struct v9_mapped *mapped);
/* Removes a name's metadata, if there are any. */
int v9_sidecar_discard(int32_t dir_fd, const char *name);
/* Removes the metadata directory of directory `name` that holds nothing else, for it to count as
 * empty. What is no directory is left alone. */
int v9_sidecar_clear(v9_export *ex, int32_t dir_fd, const char *name);

#endif
