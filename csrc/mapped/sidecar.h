/*
 * sidecar: mapped-file's metadata files (mapped/mapped.h), while names of their files change.
 *
 * Files are found by name, so each change of names has two halves, which are ordered around the
 * host's call:
 *
 * - A name appears with its metadata: they are there before it is.
 * - A name goes before its metadata do. What a crash leaves behind is metadata of nothing; whatever
 *   gets that name next begins with metadata of its own.
 *
 * All of it happens under the export's lock of names. While metadata of a name that is in use go,
 * readers do not trust what they find by name (v9_mapped_changing).
 */
#ifndef V9_MAPPED_SIDECAR_H
#define V9_MAPPED_SIDECAR_H

#include <stdbool.h>
#include <stdint.h>

#include "export/export.h"
#include "mapped/api.h"

/* Puts metadata in place for a name that is about to appear. On success the caller has a descriptor
 * of the metadata file in *meta_fd (-1: the model has none), and passes *meta_dir on to
 * v9_sidecar_placed. */
int v9_sidecar_place(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped,
                     int *meta_dir, int *meta_fd);
/* Removes a name, and then its metadata. */
int v9_sidecar_remove(v9_export *ex, int dir_fd, const char *name, bool directory);

#endif
