/*
 * renames: the guest's own changes of names: unlinks, renames, links.
 *
 * A change is made between v9_renames_begin and _end. Meanwhile nothing of the export is
 * evicted (fid/evict.h), so a file that loses its name in between stays reachable.
 *
 * Renames that concern evicted files are recorded in the order in which the host made them: the
 * export's names are locked after begin, and unlocked after v9_renames_directory. If nothing
 * was evicted at begin, nothing is until end.
 */
#ifndef V9_FID_RENAMES_H
#define V9_FID_RENAMES_H

#include <stdint.h>

#include "fid/fid.h"

/* Whether anything of the table is evicted, or something of these kinds (V9_NAMES_*) may be cached;
 * if not, the caller may leave out the other calls but end. */
int v9_renames_begin(struct v9_fids *fids, uint32_t export, uint32_t kinds);
void v9_renames_end(struct v9_fids *fids, uint32_t export);
/*
 * Before `name` of directory `fd`, or of the export's root (fd -1; then it may be a path), or the
 * file `fd` itself ("") loses a name: restores the file, and caches it no more. Whether it is a
 * directory: then its rename concerns what is evicted below it. -EMFILE or -ENFILE where there is
 * no descriptor for it: then it must keep its name.
 */
int v9_renames_before_loss(struct v9_fids *fids, uint32_t export, int32_t fd, const char *name);
/* A directory has been renamed; paths are below the export's root. */
void v9_renames_directory(struct v9_fids *fids, uint32_t export, const char *old, const char *new);
/* An entry of a pinned fid's directory, or the fid's own name (""), has become `new` in the
 * directory of another pinned fid; NULL: in its own. */
void v9_renames_entry(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                      const struct v9_fid *into, const char *new);
/*
 * The directory, as an O_PATH descriptor that the caller closes, and the name in it by which the
 * guest reached a pinned fid: that one name of a file that has several. -ENOENT where it has it no
 * more, whoever took it; -EBUSY for an export's root.
 */
int v9_renames_name_of(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE]);

#endif
