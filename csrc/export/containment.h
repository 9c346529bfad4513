/*
 * containment: how files of an export are reached, by a name, by a path, or from below, and the
 * proof that they are inside.
 *
 * A name stands for whatever the host has under it at the moment, so it is resolved once, to an
 * O_PATH descriptor; everything afterwards goes by the descriptor. Only v9_export_open opens a file
 * for reading or writing, and it checks the type first: opening a device, a FIFO or a socket has
 * side effects. (Files that the daemon creates, with O_EXCL, are regular: export/credentials.h.)
 *
 * The proof that a directory is inside the export starts from the root: the kernel reports the path
 * by which the directory was reached (proc(5)), openat2(2) resolves that path below the root, and
 * the result has to be the same file. So a proof takes a few system calls, however deep the
 * directory lies. Where its path is too long for the kernel, an ancestor is proven instead, eight
 * levels up at a time; after 512 levels the proof fails.
 */
#ifndef V9_EXPORT_CONTAINMENT_H
#define V9_EXPORT_CONTAINMENT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "export/export.h"

/* Another O_PATH descriptor of what `fd` names. */
int v9_export_reopen(v9_export *ex, int32_t fd);
/* v9_export_open; `known` if this O_PATH descriptor was seen before to be a regular file or a
 * directory: a descriptor never names another file. */
int v9_export_open_known(v9_export *ex, int32_t fd, bool known, int32_t flags);
/* Opens a regular file that a process that died has made for this request (base/evidence.h). */
int v9_export_take_made(v9_export *ex, int dir_fd, const char *name, int flags);
/* Whether the file `fd` is the entry `name` of a directory: 1, 0, or -errno if that is not known.
 */
int v9_export_is_entry(int32_t fd, int32_t dir, const char *name);
/*
 * Finds the directory (returned as an O_PATH descriptor) and the name in it by which the file `fd`
 * was reached, and checks that the name still stands for that file, and that the directory is not
 * hidden: else -ENOENT. -EBUSY for the root, and for a file that was moved out of the export.
 */
int v9_export_parent(v9_export *ex, int32_t fd, char name[V9_NAME_SIZE]);

#endif
