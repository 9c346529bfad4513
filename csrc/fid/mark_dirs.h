/*
 * mark dirs: marks the directories of a fid table that have no marks (export/dir_marks.h): after a
 * death, where too many were wanted, or where nobody knows any more where a directory is.
 */
#ifndef V9_FID_MARK_DIRS_H
#define V9_FID_MARK_DIRS_H

#include "fid/fid_table.h"

/* The caller holds no lock; others use the table meanwhile. A directory that cannot be reopened is
 * left out. */
void v9_fids_mark_dirs(struct v9_fids *fids);

#endif
