#define _GNU_SOURCE
#include "fs/create_mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/evidence.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/credentials.h"
#include "fs/created.h"
#include "mapped/sidecar.h"
#include "mapped/xattr.h"

enum {
    PERMISSIONS = 07777,
    TARGET_MAX = 4095, /* bytes of a symlink's target (PATH_MAX without its NUL) */
};

/* How file systems that do not know O_TMPFILE answer it (open(2)), and how some of those that do
 * answer it in a removed directory. */
static bool has_no_tmpfile(int err)
{
    return err == EOPNOTSUPP || err == EISDIR || err == ENOENT || err == EINVAL || err == EPERM;
}

/* The new metadata, without ids that stand for the daemon's own: the host reports those. */
static struct v9_mapped mapped_of(const struct v9_new *as, uint32_t mode)
{
    struct v9_mapped mapped = {.has = V9_HAS_MODE, .uid = as->uid, .gid = as->gid, .mode = mode};

    if (as->uid != V9_NO_ID)
        mapped.has |= V9_HAS_UID;
    if (as->gid != V9_NO_ID)
        mapped.has |= V9_HAS_GID;
    return mapped;
}

static int fill(const v9_export *ex, int fd, const struct v9_mapped *mapped, const char *content)
{
    const size_t size = strlen(content);
    ssize_t put = size ? write(fd, content, size) : 0;

    if (put != (ssize_t)size)
        return put < 0 ? -errno : -ENOSPC;
    return ex->conf.model == V9_MODEL_XATTR ? v9_mapped_write_xattrs(fd, mapped) : 0;
}

/* One that a process that died has made; it may lack the rest. On failure it is removed. */
static int take_made(v9_export *ex, int dir_fd, const char *name, int flags,
                     const struct v9_mapped *mapped, const char *content)
{
    const int fd = v9_export_take_made(ex, dir_fd, name, flags);
    const int err = fd < 0 ? fd : fill(ex, fd, mapped, content);

    if (fd >= 0 && err)
        v9_budget_close(fd);
    if (err && err != -EEXIST) /* that is another's */
        unlinkat(dir_fd, name, 0);
    return err ? err : fd;
}

/* One that nobody has made yet. */
static int make(v9_export *ex, int dir_fd, const char *name, int flags,
                const struct v9_mapped *mapped, const char *content)
{
    int fd, err;
    bool named;

    fd = v9_sys_tmpfile(dir_fd, flags, ex->conf.fmode);
    named = fd < 0 && has_no_tmpfile(-fd);
    if (named)
        fd = v9_cred_create(&v9_cred_daemon, dir_fd, name, flags, ex->conf.fmode);
    if (fd < 0)
        return fd;
    err = fill(ex, fd, mapped, content);
    if (!err && !named)
        err = v9_sys_link(ex->proc_fd, fd, dir_fd, name);
    if (!err)
        return fd;
    v9_budget_close(fd);
    if (named)
        unlinkat(dir_fd, name, 0);
    return err;
}

/* A new file with its content and metadata, open for writing with `flags`: a descriptor. */
static int create_file(v9_export *ex, int dir_fd, const char *name, int flags,
                       const struct v9_mapped *mapped, const char *content)
{
    if (v9_evidence_made(dir_fd, name))
        return take_made(ex, dir_fd, name, flags, mapped, content);
    return v9_evidence_outcome(make(ex, dir_fd, name, flags, mapped, content));
}

/* The same, under a name that has its metadata. */
static int place_file(v9_export *ex, int dir_fd, const char *name, int flags,
                      const struct v9_mapped *mapped, const char *content, int *meta_fd)
{
    int meta_dir, fd, err = v9_sidecar_place(ex, dir_fd, name, mapped, &meta_dir, meta_fd);

    if (err)
        return err;
    fd = create_file(ex, dir_fd, name, flags, mapped, content);
    v9_sidecar_placed(meta_dir, name, fd < 0);
    return fd;
}

int v9_create_mapped_file(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                          int host, struct v9_created *created)
{
    const bool writable = (host & O_ACCMODE) != O_RDONLY;
    int fd;

    created->metadata = mapped_of(as, S_IFREG | as->mode);
    fd = place_file(ex, dir_fd, name, writable ? host : host | O_RDWR, &created->metadata, "",
                    &created->meta_fd);
    if (fd < 0)
        return fd;
    created->is_new = true;
    created->path_fd = v9_created_reach(ex, dir_fd, name, fd);
    created->io_flags = host;
    created->io_fd = fd;
    if (created->path_fd < 0)
        return created->path_fd;
    if (writable)
        return 0;
    created->io_fd = v9_export_open(ex, created->path_fd, host);
    v9_budget_close(fd);
    return created->io_fd < 0 ? created->io_fd : 0;
}

static int create_dir(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped)
{
    int fd, err = 0;

    if (!v9_evidence_made(dir_fd, name))
        err = v9_evidence_outcome(mkdirat(dir_fd, name, ex->conf.dmode) < 0 ? -errno : 0);
    if (err || ex->conf.model != V9_MODEL_XATTR)
        return err;
    fd = v9_sys_reach(dir_fd, name, O_DIRECTORY);
    err = fd < 0 ? fd : v9_mapped_write_xattrs(fd, mapped);
    if (fd >= 0)
        v9_budget_close(fd);
    if (err)
        unlinkat(dir_fd, name, AT_REMOVEDIR);
    return err;
}

static int place_dir(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped)
{
    int meta_dir, meta_fd, err = v9_sidecar_place(ex, dir_fd, name, mapped, &meta_dir, &meta_fd);

    if (err)
        return err;
    if (meta_fd >= 0)
        v9_budget_close(meta_fd);
    err = create_dir(ex, dir_fd, name, mapped);
    v9_sidecar_placed(meta_dir, name, err);
    return err;
}

static int check_type(uint32_t kind)
{
    if (kind == S_IFDIR)
        return -EPERM;
    return kind == S_IFREG || kind == S_IFCHR || kind == S_IFBLK || kind == S_IFIFO ||
                   kind == S_IFSOCK
               ? 0
               : -EINVAL;
}

int v9_create_mapped_other(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                           struct v9_created *created)
{
    const uint32_t kind = as->mode & S_IFMT ? as->mode & S_IFMT : S_IFREG;
    struct v9_mapped *const mapped = &created->metadata;
    int fd, meta_fd, err = as->kind == V9_NEW_SPECIAL ? check_type(kind) : 0;

    if (err)
        return err;
    if (as->kind == V9_NEW_DIR) {
        *mapped = mapped_of(as, S_IFDIR | as->mode);
        err = place_dir(ex, dir_fd, name, mapped);
        created->is_new = !err;
        return err;
    }
    if (as->kind == V9_NEW_LINK) {
        if (!*as->target)
            return -ENOENT;
        if (strlen(as->target) > TARGET_MAX)
            return -ENAMETOOLONG;
        *mapped = mapped_of(as, S_IFLNK | 0777);
    } else {
        *mapped = mapped_of(as, kind | (as->mode & PERMISSIONS));
        mapped->has |= V9_HAS_RDEV;
        mapped->rdev = makedev(as->major, as->minor);
    }
    fd = place_file(ex, dir_fd, name, O_WRONLY, mapped, as->kind == V9_NEW_LINK ? as->target : "",
                    &meta_fd);
    if (fd >= 0)
        v9_budget_close(fd);
    if (meta_fd >= 0)
        v9_budget_close(meta_fd);
    created->is_new = fd >= 0;
    return fd < 0 ? fd : 0;
}
