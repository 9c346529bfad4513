/*
 * file_caps: capabilities of programs that are kept under a name that the host's kernel does not
 * know.
 *
 * capabilities(7): writing to a program removes its capabilities. The kernel does that for
 * security.capability. Where a rule keeps them in user.* it is done here, before the data is
 * written, so that nobody runs the new data with the old capabilities.
 *
 * Looking at the file before each write would cost a system call. Capabilities are seldom set, so
 * each time they are, a sequence number is raised; an open file is checked when its first write
 * since then comes.
 */
#ifndef V9_EXPORT_FILE_CAPS_H
#define V9_EXPORT_FILE_CAPS_H

#include <stdint.h>

enum { V9_CAPS_NAME = 256 }; /* XATTR_NAME_MAX and NUL */

struct v9_caps {
    char name[V9_CAPS_NAME]; /* "": none are kept so */
    uint32_t seq;            /* from 1 on */
};

/* Begins to watch; -EINVAL for a name that is none. */
int v9_caps_watch(struct v9_caps *caps, const char *name);
/* Some file has capabilities now. */
void v9_caps_changed(struct v9_caps *caps);
/* Whether the file `fd` (O_PATH will do) has some: 1, 0 or -errno. */
int v9_caps_has(const struct v9_caps *caps, int32_t fd);
/* Before the file `fd` (O_PATH will do) is cut or changes its owner: 0, or -errno where it has
 * capabilities that cannot be removed. */
int v9_caps_drop_file(const struct v9_caps *caps, int32_t fd);
/*
 * The same before a write through io_fd. `seen` is the sequence number at which the open file was
 * checked last, 0 at first.
 */
int v9_caps_drop(const struct v9_caps *caps, int32_t io_fd, uint32_t *seen);

#endif
