/*
 * sys: who the daemon is, and creating calls that run with a guest user's identity.
 */
#ifndef V9_SYS_H
#define V9_SYS_H

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

/* openat with O_NOFOLLOW|O_CLOEXEC added, which has idle files give descriptors up where there are
 * none (pressure.h); a descriptor. */
int v9_sys_open(int dir_fd, const char *name, int flags, uint32_t mode);

/* Who a created file belongs to. */
struct v9_cred {
    uint32_t uid, gid;
    bool switched; /* false: as the daemon is (it lacks the privilege, or need not) */
    bool required; /* -EPERM where it cannot be these; else it stays what it cannot change */
};

/* openat with O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC added; a descriptor. */
int v9_sys_create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                  uint32_t mode);
int v9_sys_mkdir(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode);
int v9_sys_mknod(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode,
                 uint32_t major, uint32_t minor);
int v9_sys_symlink(const struct v9_cred *cred, const char *target, int dir_fd, const char *name);

#endif
