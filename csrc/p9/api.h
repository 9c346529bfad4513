/*
 * api: what Python sees of p9/ (vhost9p.h).
 */
#ifndef V9_P9_API_H
#define V9_P9_API_H

#include "request/api.h"

/* Reads entries of a pinned fid's open directory, in the layout of getdents64(2), from the one
 * after `offset` (a d_off; 0: from the first). Returns their size in bytes, 0 at the end. -EBADF,
 * -ENOTDIR. */
int v9_fid_read_dir(v9_device *dev, uint64_t handle, uint64_t offset, uint8_t *out, uint32_t size);

#endif
