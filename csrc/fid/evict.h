/*
 * evict: closes descriptors that can be reopened, when one lacks (base/shrinker.h).
 *
 * A descriptor is needed only while a request uses its fid, that is, while the fid is pinned.
 * Descriptors are evicted class by class:
 *
 *  1. cached inodes, which no fid needs (fid/inode.h);
 *  2. inodes of fids that are not open;
 *  3. inodes of open fids, which have the file's other descriptor;
 *  4. descriptors of open files and directories. They are reopened with the same access mode.
 *
 * The first by age, the others by a clock: what was used since it came to the front of its list
 * goes to the end once more. An evicted inode keeps a recipe to reopen its file (fid/recipe.h);
 * the next pin restores it (fid/restore.h). Never evicted are an export's root, inodes of files
 * without names, directories that were read where their position does not outlive the descriptor,
 * fids that hold locks, and what the daemon could not reopen now.
 *
 * No lock is held across a system call. An inode that is being evicted may be used meanwhile: then
 * it stays. Requests of the guest that take a name away restore what it stands for first, and no
 * inode of the export is evicted until they are done (fid/renames.h): a file that the guest
 * unlinked stays readable.
 */
#ifndef V9_FID_EVICT_H
#define V9_FID_EVICT_H

#include "fid/fid.h"

/* The operations of a fid table's shrinker (v9_fids_init). */
extern const struct v9_shrinker_ops v9_evict_ops;

#endif
