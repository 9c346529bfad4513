/*
 * hidden_names: the names under which mapped-file keeps metadata, which no guest may see or use.
 */
#ifndef V9_EXPORT_HIDDEN_NAMES_H
#define V9_EXPORT_HIDDEN_NAMES_H

#include <stdbool.h>

#include "export/export.h"

#define V9_META_DIR_NAME ".virtfs_metadata"
#define V9_META_ROOT_NAME ".virtfs_metadata_root"

/* Whether this entry of directory `dir_fd` is hidden from the guest: under mapped-file, one of
 * these names, or another spelling of one that the host's file system accepts. */
bool v9_export_hides(v9_export *ex, int32_t dir_fd, const char *name);
/* Whether a component of the path is one of these names, in its usual spelling. */
bool v9_export_hides_path(const v9_export *ex, const char *path);

#endif
