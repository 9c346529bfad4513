/*
 * hidden names: what no guest may see or use: the names under which mapped-file keeps metadata, and
 * the paths that the operator hides (export/hidden_paths.h).
 *
 * What is hidden follows from the path that the host has for a file at the moment, which the kernel
 * reports for the descriptor of its directory. So nothing is kept about files or directories that
 * could get out of date, or be lost with a process. A path is looked at in four places:
 *
 *  - Each step by a name, and each name that a request lists, creates, links, removes or renames,
 *    is checked in its directory (v9_export_hides). This assumes that the directory itself is not
 *    hidden, which holds for a fid that was just looked up by its name (p9/lookup.c).
 *  - A directory whose fid is open, or has no name, stays what it is when the host moves it. So it
 *    is checked whenever it is used (v9_export_hides_directory).
 *  - A directory that ".." or a path has led to is checked likewise.
 *  - The guest could change what is hidden below a directory by renaming that: it could reveal what
 *    is there, or fill a hidden place. So it may not rename a directory to a place where other
 * paths below it are hidden (v9_export_may_move). Since the check looks whether the name stands for
 * a directory, no other thread of the device changes names meanwhile (v9_export_names_begin).
 */
#ifndef V9_EXPORT_HIDDEN_NAMES_H
#define V9_EXPORT_HIDDEN_NAMES_H

#include <stdbool.h>

#include "export/export.h"

#define V9_META_DIR_NAME ".virtfs_metadata"
#define V9_META_ROOT_NAME ".virtfs_metadata_root"

enum { V9_VISIBLE = 0, V9_IS_METADATA = 1, V9_IS_HIDDEN = 2 };

/* v9_export_hides (export/api.h) for a request that changes a name: 0 if it is visible; -EINVAL for
 * metadata, -`hidden` for a hidden path: EACCES if the name is to be made, ENOENT if it is to go.
 * By one that another export is joined by there is something, which stays: -EEXIST, -EBUSY. */
int v9_export_check_name(v9_export *ex, int32_t dir_fd, const char *name, int hidden);
/* Whether a directory is, or lies below, a path that is hidden: 0, -ENOENT, or -errno as above. */
int v9_export_hides_directory(v9_export *ex, int32_t fd);
/* Whether a component of the path is one of mapped-file's names, in its usual spelling. */
bool v9_export_hides_path(const v9_export *ex, const char *path);
/* Whether the guest may rename what both names allow: -EACCES for a directory that would have other
 * hidden paths below it. Between v9_export_names_begin and _end. */
int v9_export_may_move(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir,
                       const char *new);

#endif
