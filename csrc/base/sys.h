/*
 * sys: the calls that open files of the host.
 *
 * All return a descriptor or -errno. Where no descriptor is left, they evict others and try again
 * (base/shrinker.h). No symlink is ever followed.
 */
#ifndef V9_BASE_SYS_H
#define V9_BASE_SYS_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

/* Whether a result of -errno means that the host could not do what it was asked for: nothing
 * follows from it about what there is. Other errors are answers: no such file, not permitted. */
static inline bool v9_sys_has_failed(int result)
{
    return result == -EIO || result == -ENOMEM || result == -EMFILE || result == -ENFILE ||
           result == -ESTALE || result == -ENOSPC || result == -EDQUOT || result == -ETIMEDOUT ||
           result == -EUCLEAN || result == -EBADMSG;
}

/* By name, only O_PATH descriptors, which open nothing, and new files. */
int v9_sys_reach(int dir_fd, const char *name, int more_flags);
/* The same by a path, with openat2's `scope`: RESOLVE_BENEATH or RESOLVE_IN_ROOT. */
int v9_sys_resolve(int dir_fd, const char *path, int more_flags, uint64_t scope);
/* Opens a regular file or directory by a descriptor; else -ENXIO, or -ELOOP (see
 * export/containment.h). Its type is checked, unless it is `known`: this O_PATH
 * descriptor was seen before to be either. `proc_fd` is /proc/self/fd. */
int v9_sys_open_file(int proc_fd, int fd, bool known, int flags);
/* Duplicates a descriptor; -EMFILE beyond the budget. */
int v9_sys_dup(int fd);
/* The path by which a descriptor was reached, as the kernel has it now (proc(5)); its length. */
int v9_sys_path(int proc_fd, int fd, char path[PATH_MAX]);
/* link(2) by a descriptor, O_PATH will do. */
int v9_sys_link(int proc_fd, int fd, int dir_fd, const char *name);
/* chmod(2) by a descriptor, O_PATH will do. */
int v9_sys_chmod(int proc_fd, int fd, uint32_t mode);
/* utimensat on a descriptor (O_PATH will do); nsec may be V9_TIME_NOW or V9_TIME_OMIT. */
int v9_sys_utimens(int32_t fd, int64_t atime_sec, int64_t atime_nsec, int64_t mtime_sec,
                   int64_t mtime_nsec);
enum { V9_TIME_NOW = 1073741823, V9_TIME_OMIT = 1073741822 };
/* A new regular file of the daemon's own, without a name (O_TMPFILE). */
int v9_sys_tmpfile(int dir_fd, int flags, uint32_t mode);

#endif
