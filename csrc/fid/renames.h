/*
 * renames: the guest's own changes of names: of entries of a pinned fid's directory, and of a fid's
 * own file, by the name by which the guest reached it: that one name of a file that has several.
 *
 * The host makes the change (fs/names.c). While it does, nothing of the export is evicted
 * (fid/evict.h), so a file that loses its name stays reachable; and who looks a name up meanwhile
 * looks again (p9/lookup.c). A file that is evicted already is restored before its name changes,
 * and one that is cached is dropped. Afterwards the names of fids follow.
 *
 * Renames that concern evicted files are recorded in the order in which the host made them: so the
 * export's names are locked then. If nothing was evicted before, nothing is until the end.
 *
 * Errors are those of v9_rename and v9_unlink; -EMFILE or -ENFILE where there is no descriptor for
 * an evicted file: then it keeps its name. Of a fid's own name -ENOENT where the file has it no
 * more, whoever took it; -EBUSY for an export's root.
 */
#ifndef V9_FID_RENAMES_H
#define V9_FID_RENAMES_H

#include <stdbool.h>

#include "fid/fid.h"

/* Renames entry `old`, or the fid's own file (""), to `new` in the directory of another fid of the
 * same export; NULL: in its own. */
int v9_renames_entry(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                     const struct v9_fid *into, const char *new);
int v9_renames_unlink(struct v9_fids *fids, const struct v9_fid *fid, const char *name,
                      bool directory);
/* Unlinks the fid's own file. */
int v9_renames_remove(struct v9_fids *fids, const struct v9_fid *fid);
/* The directory, as an O_PATH descriptor that the caller closes, and the name in it by which the
 * guest reached the fid. */
int v9_renames_name_of(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE]);

#endif
