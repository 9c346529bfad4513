/*
 * xattr: the metadata of mapped-xattr, as extended attributes of the file itself.
 */
#ifndef V9_MAPPED_XATTR_H
#define V9_MAPPED_XATTR_H

#include <stdint.h>

#include "mapped/api.h"

/* Adds to *out the `wanted` (V9_HAS_*) attributes of `name` in directory `fd`, or of `fd` itself
 * where name is "". -errno where the host has failed. */
int v9_mapped_read_xattrs(int32_t fd, const char *name, uint32_t wanted, struct v9_mapped *out);
int v9_mapped_write_xattrs(int32_t fd, const struct v9_mapped *change);
/* Takes a change back that has failed half-way, from a file that had the attributes `old`. */
void v9_mapped_restore_xattrs(int32_t fd, const struct v9_mapped *change,
                              const struct v9_mapped *old);

#endif
