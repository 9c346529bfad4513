#define _GNU_SOURCE
#include "export/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/evidence.h"
#include "base/shrinker.h"
#include "export/api.h"

/* ---- identity -------------------------------------------------------------------------------- */

/* The capabilities for giving a file any owner: to be that user while it is created, in any
 * directory, and to change it afterwards. */
#define OWNING                                                                                     \
    (1u << CAP_CHOWN | 1u << CAP_DAC_OVERRIDE | 1u << CAP_FOWNER | 1u << CAP_SETGID |              \
     1u << CAP_SETUID)

static int read_capabilities(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

    return syscall(SYS_capget, &header, data) < 0 ? -errno : 0;
}

uint32_t v9_cred_lacking_caps(void)
{
    struct __user_cap_data_struct data[2];

    return read_capabilities(data) ? OWNING : OWNING & ~data[0].effective;
}

int v9_self_read(struct v9_self *self)
{
    int count;

    *self = (struct v9_self){geteuid(), getegid(), !v9_cred_lacking_caps(), 0, NULL};
    count = self->privileged ? 0 : getgroups(0, NULL);
    if (count <= 0)
        return count < 0 ? -errno : 0;
    self->groups = calloc((size_t)count, sizeof(*self->groups));
    if (!self->groups)
        return -ENOMEM;
    count = getgroups(count, self->groups);
    self->group_count = count < 0 ? 0 : count;
    return 0;
}

void v9_self_free(struct v9_self *self)
{
    free(self->groups);
    self->groups = NULL;
}

bool v9_self_has_group(const struct v9_self *self, uint32_t gid)
{
    if (gid == self->gid)
        return true;
    for (int i = 0; i < self->group_count; i++)
        if (self->groups[i] == gid)
            return true;
    return false;
}

struct identity {
    bool switched;
    int uid, gid;
};

static int raise_capabilities(uint32_t which)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    int err = read_capabilities(data);

    if (err)
        return err;
    data[0].effective |= data[0].permitted & which;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static void leave(const struct identity *own)
{
    if (!own->switched)
        return;
    setfsgid((gid_t)own->gid);
    /* Back to 0 raises the file capabilities again, back from 0 drops them. */
    if (setfsuid((uid_t)own->uid) == 0 && own->uid)
        raise_capabilities(OWNING | 1u << CAP_DAC_READ_SEARCH | 1u << CAP_FSETID | 1u << CAP_MKNOD);
}

/* `needed`: capabilities that the call itself takes, over that of naming files everywhere. */
static int enter(const struct v9_cred *cred, uint32_t needed, struct identity *own)
{
    int err;

    own->switched = cred->switched;
    if (!own->switched)
        return 0;
    own->gid = setfsgid(cred->gid);
    own->uid = setfsuid(cred->uid);
    /* setfsuid reports no errors; with an invalid id it returns the current one. An id that the
     * daemon's user namespace does not have leaves its own. */
    if (cred->required &&
        (setfsuid((uid_t)-1) != (int)cred->uid || setfsgid((gid_t)-1) != (int)cred->gid))
        err = -EPERM;
    else
        err = cred->uid ? raise_capabilities(1u << CAP_DAC_OVERRIDE | needed) : 0;
    if (err)
        leave(own);
    return err;
}

const struct v9_cred v9_cred_daemon = {.switched = false};

/* ---- creating -------------------------------------------------------------------------------- */

/* -1 with errno. */
static int create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                  uint32_t mode)
{
    struct identity own;
    int fd, err = enter(cred, 0, &own);

    if (!err) {
        fd = openat(dir_fd, name, flags | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
        err = errno;
        leave(&own);
        errno = err;
        return fd;
    }
    errno = -err;
    return -1;
}

/* What gives descriptors up is done by the daemon, not by the guest's user. */
int v9_cred_create(const struct v9_cred *cred, int dir_fd, const char *name, int flags,
                   uint32_t mode)
{
    int fd;

    V9_OPEN(fd, create(cred, dir_fd, name, flags, mode));
    return fd;
}

int v9_cred_mkdir(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode)
{
    struct identity own;
    int result;

    if (v9_evidence_made(dir_fd, name))
        return 0;
    result = enter(cred, 0, &own);
    if (result)
        return v9_evidence_outcome(result);
    result = mkdirat(dir_fd, name, mode) < 0 ? -errno : 0;
    leave(&own);
    return v9_evidence_outcome(result);
}

int v9_cred_mknod(const struct v9_cred *cred, int dir_fd, const char *name, uint32_t mode,
                  uint32_t major, uint32_t minor)
{
    struct identity own;
    int result;

    if (v9_evidence_made(dir_fd, name))
        return 0;
    result = enter(cred, 1u << CAP_MKNOD, &own);
    if (result)
        return v9_evidence_outcome(result);
    result = mknodat(dir_fd, name, mode, makedev(major, minor)) < 0 ? -errno : 0;
    leave(&own);
    return v9_evidence_outcome(result);
}

int v9_cred_symlink(const struct v9_cred *cred, const char *target, int dir_fd, const char *name)
{
    struct identity own;
    int result;

    if (v9_evidence_made(dir_fd, name))
        return 0;
    result = enter(cred, 0, &own);
    if (result)
        return v9_evidence_outcome(result);
    result = symlinkat(target, dir_fd, name) < 0 ? -errno : 0;
    leave(&own);
    return v9_evidence_outcome(result);
}
