/*
 * created: the descriptors of a file that was just created (struct v9_created).
 */
#ifndef V9_FS_CREATED_H
#define V9_FS_CREATED_H

#include <stdbool.h>
#include <string.h>

#include "base/commit.h"
#include "export/export.h"
#include "fs/api.h"

#define V9_CREATED_NONE ((struct v9_created){.path_fd = -1, .meta_fd = -1, .io_fd = -1})

/* Makes it V9_CREATED_NONE, one field after the other: a request's outlives the process, which may
 * die in the middle of an assignment of the whole. */
static inline void v9_created_forget(struct v9_created *created)
{
    created->path_fd = -1; /* then the others are not looked at */
    V9_COMMIT();
    created->meta_fd = created->io_fd = -1;
    created->io_flags = created->is_new = 0;
    memset(&created->metadata, 0, sizeof(created->metadata));
    V9_COMMIT();
}

/* Whether there are descriptors. */
static inline bool v9_created_is_open(const struct v9_created *created)
{
    return created->path_fd >= 0 || created->meta_fd >= 0 || created->io_fd >= 0;
}

/* Forgets the descriptors, and closes them. */
void v9_created_close(struct v9_created *created);
/* An O_PATH descriptor of the file `fd` that was just created. By its name: that takes half of the
 * time, and /proc goes on to report no name for a file that was created without one. Through `fd`
 * where the name is gone, or another file's. */
int v9_created_reach(v9_export *ex, int dir_fd, const char *name, int fd);

#endif
