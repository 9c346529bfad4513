/*
 * idle: fids that nobody uses give their descriptors up, and get them back.
 *
 * A descriptor is needed while a request uses its fid, that is, while it is pinned. Under pressure
 * (base/shrinker.h) inodes that are not pinned are parked: their descriptors are closed, and the
 * way to the file is stored (fid/evicted.h). To pin a fid brings its inode back, or fails with
 * ESTALE where the file is not to be found. What goes first, after what lingers (fid/cached.h):
 *
 *  1. inodes of fids that are not open;
 *  2. inodes of open fids, which have the file's other descriptor;
 *  3. descriptors of open files and directories. They are opened anew with the same access mode.
 *
 * each in the order of its use, by a clock: what was used since it came to the front of the list
 * goes to its end once more. Never parked are an export's root, inodes of files without names,
 * directories that were read where their position does not outlive the descriptor, fids that hold
 * locks, and what the daemon could not open again now.
 *
 * No lock is held across a system call. A inode that is being parked may be used meanwhile: then it
 * stays. Of those that pin a parked inode one thread brings it back, the others wait for it.
 *
 * Requests of the guest that take a name away bring back what it stands for first, and no inode is
 * parked until they are done: a file that the guest unlinked stays readable.
 */
#ifndef V9_FID_EVICT_H
#define V9_FID_EVICT_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/fid.h"

/* Brings back what a pinned fid has given up. The lock is held, but released meanwhile. 0, -ESTALE,
 * or why the file cannot be opened. */
int v9_evict_return(struct v9_fids *fids, const struct v9_fid *fid);
/* The same for a inode that the caller has pinned. */
int v9_evict_return_node(struct v9_fids *fids, uint32_t inode);
/* Brings back every parked inode of a file; what is not to be found stays as it is. -EMFILE or
 * -ENFILE where there was no descriptor for one. */
int v9_evict_return_file(struct v9_fids *fids, uint64_t st_dev, uint64_t st_ino);
/* v9_shrinker.give_up of a fid table. */
uint32_t v9_evict_give_up(struct v9_shrinker *holder, uint32_t batch);
/* The guest has renamed a directory; paths are below the export's root. */
void v9_evict_renamed(struct v9_fids *fids, uint32_t export, const char *old, const char *new);
/* Enters an open fid into the list of those, and takes it out. The lock is held. */
void v9_evict_opened(struct v9_fids *fids, struct v9_fid *fid);
void v9_evict_closed(struct v9_fids *fids, struct v9_fid *fid);

#endif
