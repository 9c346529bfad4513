/*
 * mark dirs: marks all directories of a fid table (export/dir_marks.h), where there are no marks:
 * after a death, or where too many were wanted.
 *
 * The directories above are marked with them, since the path of one depends on the names of all.
 * Cached inodes are dropped, since a walk to one passes no step that would mark it.
 */
#ifndef V9_FID_MARK_DIRS_H
#define V9_FID_MARK_DIRS_H

#include "fid/fid_table.h"

/* The caller holds no lock; others use the table meanwhile. A directory that cannot be reopened is
 * left out. */
void v9_fids_mark_dirs(struct v9_fids *fids);

#endif
