/*
 * sidecar: mapped-file's metadata files (mapped/mapped.h), while names of their files change.
 *
 * Files are found by name, so each change of names has two halves, which are ordered around the
 * host's call:
 *
 * - A name appears with its metadata: they are there before it is.
 * - A name goes before its metadata do. What a crash leaves behind is metadata of nothing; whatever
 *   gets that name next begins with metadata of its own.
 * - A renamed file has metadata under both names until it has moved. (Only under the new name if
 *   the host's file system has no hard links.) A crash in the middle of a rename that replaces a
 *   file may leave the replaced one with the metadata of the other, or without any.
 * - All names of a file share one metadata file, so that their metadata never differ.
 *
 * All of it happens under the export's lock of names. While metadata of a name that is in use go,
 * readers do not trust what they find by name (v9_mapped_changing).
 */
#ifndef V9_MAPPED_SIDECAR_H
#define V9_MAPPED_SIDECAR_H

#include <stdbool.h>
#include <stdint.h>

#include "export/export.h"
#include "mapped/mapped.h"

/* Puts metadata in place for a name that is about to appear. On success the caller has a descriptor
 * of the metadata file in *meta_fd (-1: the model has none), and passes *meta_dir on to
 * v9_sidecar_placed. */
int v9_sidecar_place(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped,
                     int *meta_dir, int *meta_fd);
/* The same before the file `fd`, whose metadata file is `meta_fd` (-1: not known), gets one more
 * name: its metadata get that name too. A file without metadata gets an empty metadata file. */
int v9_sidecar_share(v9_export *ex, int fd, int meta_fd, int dir_fd, const char *name,
                     int *meta_dir);
/* The name has appeared, or that has `failed`. */
void v9_sidecar_placed(int meta_dir, const char *name, bool failed);
/* Removes a name, and then its metadata. */
int v9_sidecar_remove(v9_export *ex, int dir_fd, const char *name, bool directory);
/* Renames an entry, with its metadata; removes those of a file that it replaces. */
int v9_sidecar_rename(v9_export *ex, int old_dir, const char *old, int new_dir, const char *new);
/* The metadata file of the file `fd` (O_PATH will do), found by the file's name, or created without
 * metadata: a descriptor. -ENOENT for a file that has neither a name nor metadata. Takes the lock
 * itself. */
int v9_sidecar_open(v9_export *ex, int32_t fd);

#endif
