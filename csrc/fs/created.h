/*
 * created: the descriptors of a file that was just created (struct v9_created).
 */
#ifndef V9_FS_CREATED_H
#define V9_FS_CREATED_H

#include "export/export.h"
#include "fs/api.h"

#define V9_CREATED_NONE ((struct v9_created){.path_fd = -1, .meta_fd = -1, .io_fd = -1})

/* Resets the struct, first for a successor of this process, and closes the descriptors. */
void v9_created_close(struct v9_created *created);
/* An O_PATH descriptor of the file `fd` that was just created. By its name: that takes half of the
 * time, and /proc goes on to report no name for a file that was created without one. Through `fd`
 * where the name is gone, or another file's. */
int v9_created_reach(v9_export *ex, int dir_fd, const char *name, int fd);

#endif
