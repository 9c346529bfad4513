/*
 * names: changes of names of pinned fids' files, for the requests of both dialects.
 *
 * Names are single components that the caller has checked. -EBADF for a fid that stands for no
 * file, -EROFS in a read-only export, -EXDEV for fids of different exports: this comes first, as
 * between mounts (rename(2)), since tools then copy. Other errors are those of fid/renames.h and
 * v9_link_file.
 */
#ifndef V9_P9_NAMES_H
#define V9_P9_NAMES_H

#include "request/state.h"

/* Gives a fid's file one more name, in the directory of another fid. */
int v9_p9_add_name(struct v9_device *dev, const struct v9_fid *fid, const struct v9_fid *into,
                   const char *name);
/* Renames entry `old` of a fid's directory, or the fid's own file (""), to `new` in the directory
 * of another; NULL: in its own. */
int v9_p9_move_name(struct v9_device *dev, const struct v9_fid *fid, const char *old,
                    const struct v9_fid *into, const char *new);
/* Removes the name by which the guest reached a fid. */
int v9_p9_remove_name(struct v9_device *dev, const struct v9_fid *fid);

#endif
