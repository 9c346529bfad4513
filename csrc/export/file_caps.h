/*
 * caps: capabilities of programs that are kept under a name that the host's kernel does not know.
 *
 * capabilities(7): whoever writes to a program takes its capabilities away. The kernel does that
 * for security.capability. Where a rule keeps them in user.* it is done here, before the data
 * comes: nobody runs what was written with them.
 *
 * Looking at the file before each write would cost a system call. Capabilities are seldom set, so
 * each time begins an epoch; an open file is looked at when its first write of an epoch comes.
 */
#ifndef V9_EXPORT_FILE_CAPS_H
#define V9_EXPORT_FILE_CAPS_H

#include <stdint.h>

enum { V9_CAPS_NAME = 256 }; /* XATTR_NAME_MAX and NUL */

struct v9_caps {
    char name[V9_CAPS_NAME]; /* "": none are kept so */
    uint32_t epoch;          /* from 1 on */
};

/*
 * Before a write through io_fd. `seen` is the epoch in which the open file was looked at last, 0 at
 * first. 0, or -errno where the file has capabilities that cannot be removed.
 */
int v9_caps_drop(const struct v9_caps *caps, int32_t io_fd, uint32_t *seen);

#endif
