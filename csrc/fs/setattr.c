/*
 * setattr: changing the attributes of a file, for all security models.
 *
 * Owner and size come before the mode, since they clear set-id bits, which the mode may set. Times
 * come last, since the others change them. What fails leaves the changes before it made, as in a
 * series of system calls. Values are checked, ids mapped and a metadata file opened before all.
 *
 *   passthrough, none   the host's attributes are changed. With none, the owner stays if the daemon
 *       may not set it, or if its user namespace or the mount lacks the id.
 *   mapped              owner and mode are metadata (mapped/mapped.h); the rest is the host's. A
 *       change of metadata is none of the file to the host, so the file's ctime is set.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/export.h"
#include "fs/attributes.h"
#include "mapped/mapped.h"
#include "mapped/sidecar.h"
#include "quota/change.h"

enum {
    PERMISSIONS = 07777,
    SET_IDS = S_ISUID | S_ISGID,
    OWNERS = V9_SETATTR_UID | V9_SETATTR_GID,
    TIMES = V9_SETATTR_ATIME | V9_SETATTR_MTIME,
    METADATA = OWNERS | V9_SETATTR_MODE,
    SETS_CTIME = METADATA | V9_SETATTR_SIZE | TIMES, /* by itself */
    NSEC_MAX = 999999999,
};

/* A file that is changed. */
struct target {
    v9_export *ex;
    int32_t fd;      /* O_PATH will do */
    int32_t io_fd;   /* open for writing; -1: none */
    int32_t meta_fd; /* its metadata file, -1: none or not known */
    int32_t sidecar; /* the same, if it was opened here; -1 */
};

/* ---- what a request asks for ----------------------------------------------------------------- */

static int check(const struct v9_setattr *to)
{
    const uint32_t valid = to->valid;

    if (valid & ~(uint32_t)V9_SETATTR_ALL)
        return -EINVAL;
    if (valid & V9_SETATTR_SIZE && to->size > INT64_MAX)
        return -EINVAL;
    if (valid & V9_SETATTR_ATIME && valid & V9_SETATTR_ATIME_SET && to->atime_nsec > NSEC_MAX)
        return -EINVAL;
    if (valid & V9_SETATTR_MTIME && valid & V9_SETATTR_MTIME_SET && to->mtime_nsec > NSEC_MAX)
        return -EINVAL;
    return 0;
}

/* The owner as the host knows it; -EPERM for one that the guest may not use. An id of V9_NO_ID
 * leaves the owner alone. */
static int map_owner(const v9_export *ex, struct v9_setattr *to)
{
    int64_t uid = V9_NO_ID, gid = V9_NO_ID;

    if (to->valid & V9_SETATTR_UID)
        uid = v9_export_host_id(ex, V9_UID, to->uid);
    if (uid >= 0 && to->valid & V9_SETATTR_GID)
        gid = v9_export_host_id(ex, V9_GID, to->gid);
    if (uid < 0 || gid < 0)
        return (int)(uid < 0 ? uid : gid);
    to->uid = (uint32_t)uid;
    to->gid = (uint32_t)gid;
    to->valid &= ~(uint32_t)OWNERS;
    to->valid |=
        (to->uid == V9_NO_ID ? 0 : V9_SETATTR_UID) | (to->gid == V9_NO_ID ? 0 : V9_SETATTR_GID);
    return 0;
}

/* ---- ctime ----------------------------------------------------------------------------------- */

/* Sets the ctime and nothing else. A chown with both ids -1 would clear a program's set-id bits; a
 * chmod would not, but does not work on symlinks. */
static int touch(const v9_export *ex, int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_mode & SET_IDS)
        return v9_sys_chmod(ex->proc_fd, fd, st.st_mode & PERMISSIONS);
    return fchownat(fd, "", (uid_t)-1, (gid_t)-1, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* ---- metadata -------------------------------------------------------------------------------- */

static int write_metadata(const struct target *file, const struct v9_mapped *change)
{
    const int err = v9_mapped_write(file->ex, file->fd, file->meta_fd, change);

    if (!err)
        touch(file->ex, file->fd); /* the host's owner may do it, others not; it is done without */
    return err;
}

/* As by chown(2), a program that changes its owner loses its set-id bits. */
static int set_metadata_owner(const struct target *file, const struct v9_setattr *to)
{
    const struct v9_mapped change = {
        .has = V9_NO_SET_IDS | (to->valid & V9_SETATTR_UID ? V9_HAS_UID : 0) |
               (to->valid & V9_SETATTR_GID ? V9_HAS_GID : 0),
        .uid = to->uid,
        .gid = to->gid,
    };

    return write_metadata(file, &change);
}

/* ---- one attribute after the other ----------------------------------------------------------- */

/* Whether an error of chown(2) means that this id cannot own a file. */
static bool is_unownable(int err)
{
    return err == EPERM || err == EINVAL || err == EOVERFLOW;
}

static int set_owner(const struct target *file, const struct v9_setattr *to)
{
    const int has_caps = v9_caps_has(&file->ex->caps, file->fd);
    int err = 0;

    if (has_caps < 0)
        return has_caps;
    if (file->ex->conf.model != V9_MODEL_HOST)
        err = set_metadata_owner(file, to);
    else if (fchownat(file->fd, "", to->uid, to->gid, AT_EMPTY_PATH) < 0)
        err = file->ex->conf.owners_matter || !is_unownable(errno) ? -errno : 0;
    return err || !has_caps ? err : v9_caps_drop_file(&file->ex->caps, file->fd);
}

/* Not truncate(2), which leaves the times alone where the size is the same. */
static int set_size(const struct target *file, uint64_t size)
{
    int fd = file->io_fd, err = v9_caps_drop_file(&file->ex->caps, file->fd);
    uint32_t type;

    if (!err && fd < 0)
        err = v9_attr_type(file->ex, file->fd, file->meta_fd, &type);
    if (err)
        return err;
    if (fd < 0 && !S_ISREG(type))
        return S_ISDIR(type) ? -EISDIR : -EINVAL;
    if (fd < 0)
        fd = v9_export_open(file->ex, file->fd, O_WRONLY);
    if (fd < 0)
        return fd;
    err = ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
    if (fd != file->io_fd)
        v9_budget_close(fd);
    return err;
}

static int set_mode(const struct target *file, uint32_t mode)
{
    const struct v9_mapped change = {.has = V9_HAS_MODE, .mode = mode & PERMISSIONS};

    if (file->ex->conf.model != V9_MODEL_HOST)
        return write_metadata(file, &change);
    return v9_sys_chmod(file->ex->proc_fd, file->fd, mode & PERMISSIONS);
}

static int64_t nsec_of(uint32_t changes, uint32_t is_explicit, uint64_t nsec)
{
    return !changes ? V9_TIME_OMIT : !is_explicit ? V9_TIME_NOW : (int64_t)nsec;
}

/* A change of size has set mtime to now already. Setting it again would fail if the daemon may
 * write the file but does not own it. */
static int set_times(const struct target *file, const struct v9_setattr *to)
{
    const uint32_t valid = to->valid;

    if (valid & V9_SETATTR_SIZE && (valid & (TIMES | V9_SETATTR_MTIME_SET)) == V9_SETATTR_MTIME)
        return 0;
    return v9_sys_utimens(
        file->fd, (int64_t)to->atime_sec,
        nsec_of(valid & V9_SETATTR_ATIME, valid & V9_SETATTR_ATIME_SET, to->atime_nsec),
        (int64_t)to->mtime_sec,
        nsec_of(valid & V9_SETATTR_MTIME, valid & V9_SETATTR_MTIME_SET, to->mtime_nsec));
}

/* ---- together -------------------------------------------------------------------------------- */

static int apply(const struct target *file, const struct v9_setattr *to)
{
    int err = 0;

    if (to->valid & OWNERS)
        err = set_owner(file, to);
    if (!err && to->valid & V9_SETATTR_SIZE)
        err = set_size(file, to->size);
    if (!err && to->valid & V9_SETATTR_MODE)
        err = set_mode(file, to->mode);
    if (!err && to->valid & TIMES)
        err = set_times(file, to);
    if (!err && to->valid & V9_SETATTR_CTIME && !(to->valid & SETS_CTIME))
        err = touch(file->ex, file->fd);
    return err;
}

/* A change of attributes is never refused for a quota; what it frees or takes is counted. */
static int apply_within_quota(const struct target *file, const struct v9_setattr *to)
{
    struct v9_quota_change change = {.fds = {file->fd, -1, -1}};
    int err;

    if (!file->ex->quota || !(to->valid & (METADATA | V9_SETATTR_SIZE)))
        return apply(file, to);
    err = v9_quota_change_begin(file->ex->quota, &change);
    if (err)
        return err;
    err = apply(file, to);
    v9_quota_change_end(file->ex->quota, &change);
    return err;
}

int v9_setattr(v9_export *ex, int32_t fd, int32_t meta_fd, int32_t io_fd,
               const struct v9_setattr *as)
{
    struct target file = {ex, fd, io_fd, meta_fd, -1};
    struct v9_setattr to = *as;
    int err = check(as);

    if (!err)
        err = map_owner(ex, &to);
    if (err)
        return err;
    if (ex->conf.model == V9_MODEL_FILE && meta_fd < 0 && to.valid & METADATA) {
        file.meta_fd = file.sidecar = v9_sidecar_open(ex, fd);
        if (file.sidecar < 0)
            return file.sidecar;
    }
    err = apply_within_quota(&file, &to);
    if (file.sidecar >= 0)
        v9_budget_close(file.sidecar);
    return err;
}
