/*
 * sys: who the daemon is, and creating calls that run with a guest user's identity.
 */
#ifndef V9_BASE_SYS_H
#define V9_BASE_SYS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* The daemon's own identity, which it keeps. */
struct v9_self {
    uint32_t uid, gid;
    bool privileged; /* it may create as anybody */
    int group_count;
    gid_t *groups; /* supplementary ones, where it is not privileged */
};
int v9_self_read(struct v9_self *self);
void v9_self_free(struct v9_self *self);
bool v9_self_has_group(const struct v9_self *self, uint32_t gid);

/*
 * The calls that open files of the host. All have idle files give descriptors up where there are
 * none (base/shrinker.h), and return a descriptor or -errno.
 *
 * By name there are O_PATH descriptors only, which open nothing, and new files; no symlink is ever
 * followed.
 */
int v9_sys_reach(int dir_fd, const char *name, int more_flags);
/* The same by a path, with openat2's `scope`: RESOLVE_BENEATH or RESOLVE_IN_ROOT. */
int v9_sys_resolve(int dir_fd, const char *path, int more_flags, uint64_t scope);
/* Opens a regular file or directory by a descriptor; else -ENXIO, or -ELOOP (see
 * export/containment.h). It is asked what it is, unless it is `known`: this O_PATH descriptor has
 * told before that it is either. `proc_fd` is /proc/self/fd. */
int v9_sys_open_file(int proc_fd, int fd, bool known, int flags);
/* The path by which a descriptor was reached, as the kernel has it now (proc(5)); its length. */
int v9_sys_path(int proc_fd, int fd, char path[PATH_MAX]);
/* A new regular file of the daemon's own, without a name (O_TMPFILE). */
int v9_sys_make_nameless(int dir_fd, int flags, uint32_t mode);

/* Who a created file belongs to. */
struct v9_cred {
    uint32_t uid, gid;
    bool switched; /* false: as the daemon is (it lacks the privilege, or need not) */
    bool required; /* -EPERM where it cannot be these; else it stays what it cannot change */
};

extern const struct v9_cred v9_sys_as_daemon;

/* A new regular file (O_CREAT|O_EXCL); a descriptor. */
int v9_sys_create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                  uint32_t mode);
int v9_sys_mkdir(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode);
int v9_sys_mknod(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode,
                 uint32_t major, uint32_t minor);
int v9_sys_symlink(const struct v9_cred *cred, const char *target, int dir_fd, const char *name);

#endif
