/*
 * containment: how files of an export are reached, by a name, by a path, or from below, and the
 * proof that they are inside.
 *
 * A name stands for whatever the host has under it at the moment, so it is resolved once, to an
 * O_PATH descriptor; what is asked and done afterwards goes by the descriptor. To open what it
 * names, for reading or writing, is v9_export_open's alone, which demands to know what it is:
 * opening a device, a FIFO or a socket does something. (Files that the daemon makes, with O_EXCL,
 * are regular: base/sys.h.)
 *
 * That a directory is inside the export is proven from the root: the kernel tells the path by which
 * it was reached (proc(5)), openat2(2) takes that path below the root, and what is there has to be
 * the very file. So a proof takes a few system calls, however deep the directory lies. Where its
 * path is too long to be told, an ancestor is proven instead, eight levels up at a time; at most
 * 512 levels below that the proof is given up.
 */
#ifndef V9_EXPORT_CONTAINMENT_H
#define V9_EXPORT_CONTAINMENT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "export/export.h"

/* Another O_PATH descriptor of what `fd` names. */
int v9_export_reopen(v9_export *ex, int32_t fd);
/* v9_export_open; `known` where this O_PATH descriptor has told itself before that it is a regular
 * file or a directory: what it names is never another file. */
int v9_export_open_known(v9_export *ex, int32_t fd, bool known, int32_t flags);
/* Whether what `fd` names is what a directory has by this name. */
bool v9_export_is_entry(int32_t fd, int32_t dir, const char *name);
/* The path of fd, or of `name` in directory fd, below the export's root: its length; -EBUSY for
 * the root itself, -ENOENT for what is outside. */
int v9_export_path(v9_export *ex, int32_t fd, const char *name, char path[PATH_MAX]);

#endif
