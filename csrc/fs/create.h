/*
 * make: making and removing entries of an export's directories.
 *
 * v9_create and v9_unlink (vhost9p.h) map the guest's ids to the host's, keep the quota true, and
 * leave the rest to the security model:
 *
 *   passthrough, none   fs/create.c: what the guest creates has the guest's owner and mode on the
 * host. With privilege the creating call runs as that owner (base/sys.c); without, the daemon can
 * create files of its own user only, which passthrough says with EPERM and none does not say.
 *   mapped              fs/create_mapped.c: plain files of the daemon's own user. A file gets its
 *       content and its metadata before it gets its name: the guest never finds it as something
 *       else, nor does a daemon that ends in the middle leave half of one.
 *
 * Before each change the most that it may take of the quota is set aside. A new name may let its
 * directory grow by a block; new directories and symlinks may take one of their own. Removing takes
 * nothing, and is never refused.
 */
#ifndef V9_FS_CREATE_H
#define V9_FS_CREATE_H

#include "fs/attributes.h"
#include "vhost9p.h"

#define V9_CREATED_NONE ((struct v9_created){.path_fd = -1, .meta_fd = -1, .io_fd = -1})

/* Closes what is there, and forgets it. */
void v9_created_close(struct v9_created *made);
/* An O_PATH descriptor of the file `fd` that was just made. By its name: that takes half of the
 * time that it takes through `fd`, of which the kernel goes on to tell, where it was made without
 * one, that it has no name. Through `fd` where the name is gone, or another file's. */
int v9_created_reach(v9_export *ex, int dir_fd, const char *name, int fd);

/* fs/create_mapped.c: these take the host's ids. Creates a regular file, and opens it with flags of
 * the host. */
int v9_create_mapped_file(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                          int host, struct v9_created *made);
/* Anything else. */
int v9_create_mapped_other(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                           struct v9_created *made);

/* mapped/sidecar.c: a name comes, with its metadata before it is there. On success
 * v9_sidecar_placed has to follow, and *meta_dir is its, and the caller has a descriptor of the
 * metadata file (-1: the model has none) in *meta_fd. */
int v9_sidecar_place(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped,
                     int *meta_dir, int *meta_fd);
/* A name goes, and then its metadata do. */
int v9_sidecar_remove(v9_export *ex, int dir_fd, const char *name, bool directory);

#endif
