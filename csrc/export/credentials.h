/*
 * credentials: who the daemon is, and creating files as a guest's user.
 *
 * Files are created as the guest user whom the fid's attach named. For that one system call the
 * thread's fsuid and fsgid are switched (setfsuid(2) is per thread), which also drops the file
 * capabilities from the thread's effective set. CAP_DAC_OVERRIDE is raised again: the guest's
 * kernel has checked access already, with supplementary groups that the wire does not carry. So is
 * CAP_MKNOD for mknod alone, which the guest's kernel has checked too.
 */
#ifndef V9_EXPORT_CREDENTIALS_H
#define V9_EXPORT_CREDENTIALS_H

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

/* Who a created file belongs to. */
struct v9_cred {
    uint32_t uid, gid;
    bool switched; /* false: as the daemon is (it lacks the privilege, or need not) */
    bool required; /* -EPERM if the owner cannot be these; else the owner stays as far as needed */
};

extern const struct v9_cred v9_cred_daemon;

/* A new regular file (O_CREAT|O_EXCL); a descriptor. */
int v9_cred_create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                   uint32_t mode);
int v9_cred_mkdir(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode);
int v9_cred_mknod(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode,
                  uint32_t major, uint32_t minor);
int v9_cred_symlink(const struct v9_cred *cred, const char *target, int dir_fd, const char *name);

#endif
