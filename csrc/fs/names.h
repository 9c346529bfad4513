/*
 * names: changes of names (fs/api.h), and the usual rename, which is one system call.
 */
#ifndef V9_FS_NAMES_H
#define V9_FS_NAMES_H

#include <stdbool.h>

#include "fs/api.h"

/* Removes an entry with its metadata, beyond any quota: what was just created, and not counted. */
int v9_unlink_entry(v9_export *ex, int dir_fd, const char *name, bool directory);

/* As v9_rename, where nothing has the new name; else -EEXIST. Fails as well, and changes nothing,
 * where v9_rename has to look what has that name. */
int v9_rename_to_free(v9_export *ex, int32_t old_dir, const char *old, int32_t new_dir,
                      const char *new);

#endif
