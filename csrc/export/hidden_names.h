/*
 * hidden_names: the names under which mapped-file keeps metadata, which no guest may see or use.
 */
#ifndef V9_EXPORT_HIDDEN_NAMES_H
#define V9_EXPORT_HIDDEN_NAMES_H

#include <stdbool.h>

#include "export/export.h"

#define V9_META_DIR_NAME ".virtfs_metadata"
#define V9_META_ROOT_NAME ".virtfs_metadata_root"

/* Whether a component of the path is one of these names. v9_export_hides (export/api.h) knows one
 * component better: by what it stands for. */
bool v9_export_hides_path(const v9_export *ex, const char *path);

#endif
