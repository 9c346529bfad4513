/*
 * file_locks: locks of the host's files (export/api.h), and the descriptors that hold them.
 */
#ifndef V9_EXPORT_FILE_LOCKS_H
#define V9_EXPORT_FILE_LOCKS_H

#include <stdint.h>

#include "export/api.h"

/* Opens a separate descriptor for locks of a regular file or directory, which `fd` (O_PATH) is
 * known to be: for writing too if the host allows it, so that it can hold any lock. Its access mode
 * (O_ACCMODE) is in *access. -ENOLCK: no descriptor is left. */
int v9_lock_open(v9_export *ex, int32_t fd, int32_t *access);

#endif
