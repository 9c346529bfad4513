/*
 * fid names: the names that fids stand for: looking at them, and what the guest does to them.
 *
 * A fid that is not open stands for whatever has its name (p9/lookup.c). Its dentry (fid/dentry.h)
 * knows the inode that the name led to last. Functions here take the table's lock unless they say
 * that it is held.
 */
#ifndef V9_FID_FID_NAMES_H
#define V9_FID_FID_NAMES_H

#include <stdbool.h>
#include <stdint.h>

#include "fid/fid_table.h"

/* Finishes what was deferred; drops the dentry, and those above it that end with it. */
void v9_fids_finish(struct v9_fids *fids, struct v9_deferred *deferred);
/* Whether a pinned fid stands for what its name led to when that was looked at last. */
bool v9_fids_is_named(struct v9_fids *fids, const struct v9_fid *fid);
/* The name by which the guest has reached a pinned fid, from its export's root on, without a NUL:
 * its size. *known: whether it has one still. *cut: it is longer than V9_FID_PATH, and this is
 * its end. */
uint32_t v9_fids_path(struct v9_fids *fids, const struct v9_fid *fid, char path[V9_FID_PATH],
                      uint8_t *known, uint8_t *cut);
/* Forgets what a name has led to: the next lookup walks to it again. */
void v9_fids_invalidate_name(struct v9_fids *fids, uint32_t dentry);
/* The inode of a file, with a reference, or -EMFILE. Takes over the descriptors in either case. */
int v9_fids_acquire_found(struct v9_fids *fids, const struct v9_found *found, uint32_t *inode);
void v9_found_close(const struct v9_found *found);

/* The guest has removed an entry of a pinned fid's directory, or the fid's own name (""). */
void v9_fids_name_removed(struct v9_fids *fids, const struct v9_fid *fid, const char *name);
/* It has renamed one, to `new` in the directory of another pinned fid; NULL: in its own. `again`: a
 * process that died may have entered it already. */
void v9_fids_name_renamed(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                          const struct v9_fid *into, const char *new, bool again);

/* The directory that a dentry is in, which is neither fixed nor of several components: its
 * descriptor, and the name there. *inode is its inode, pinned, to be released, also where this
 * fails; 0: none, the export's root. The lock is held, but released meanwhile: then the guest may
 * change names, and dentries end to which the caller has no reference. */
int32_t v9_fids_acquire_parent(struct v9_fids *fids, uint32_t at, char name[V9_NAME_SIZE],
                               uint32_t *inode);
/* The same of a pinned fid's own name, without the lock. -ENOENT where the guest has removed it,
 * or it led to another file when it was looked at last, -ENODATA where it is not known. The caller
 * has to look what the host has by that name now. */
int32_t v9_fids_own_name(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE],
                         uint32_t *inode);
/* Releases a pinned inode. */
void v9_fids_release_inode(struct v9_fids *fids, uint32_t inode);

#endif
