/*
 * create_mapped: how the mapped security models create the guest's files on the host.
 *
 * Regular files (a symlink's content is its target) and directories of the daemon's own user, with
 * the modes fmode and dmode and the process's umask, and metadata beside them (mapped/mapped.h).
 * File systems without O_TMPFILE show a moment of a name without metadata, and a crash may leave
 * that.
 */
#ifndef V9_FS_CREATE_MAPPED_H
#define V9_FS_CREATE_MAPPED_H

#include "export/export.h"
#include "fs/api.h"

/* Both take the host's ids. Creates a regular file, and opens it with flags of the host. */
int v9_create_mapped_file(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                          int host, struct v9_created *created);
/* Anything else. */
int v9_create_mapped_other(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                           struct v9_created *created);

#endif
