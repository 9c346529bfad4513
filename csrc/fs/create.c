/*
 * create: creating entries of an export's directories.
 *
 * v9_create (fs/api.h) maps the guest's ids to the host's, keeps the quota true, and leaves the
 * rest to the security model:
 *
 *   passthrough, none   here: what the guest creates has the guest's owner and mode on the host.
 *       With privilege the creating call runs as that owner (export/credentials.h); without, the
 *       daemon can create files of its own user only: passthrough fails with EPERM, none does not.
 *   mapped              fs/create_mapped.c: plain files of the daemon's own user. A file gets its
 *       content and its metadata before it gets its name: the guest never sees it as something
 *       else, and a daemon that ends in the middle never leaves half of one.
 *
 * Before each change the most that it may take of the quota is set aside. A new name may let its
 * directory grow by a block; new directories and symlinks may take one of their own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/evidence.h"
#include "base/refusal.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/credentials.h"
#include "export/export.h"
#include "export/hidden_names.h"
#include "fs/attributes.h"
#include "fs/create_mapped.h"
#include "fs/created.h"
#include "fs/names.h"
#include "mapped/mapped.h"
#include "quota/change.h"
#include "quota/quota.h"

enum {
    RACES = 8, /* how often a create tries again when the file appears, and vanishes when opened */
    P9_EXCL = 0200,
    PERMISSIONS = 07777,
    SET_IDS = S_ISUID | S_ISGID,
    NOT_FOR_NEW = O_TRUNC | O_DIRECTORY, /* mean nothing for a file that is just created */
};

/* ---- as the owner ---------------------------------------------------------------------------- */

/* Who creates; -EPERM if the owner matters and the daemon cannot create as it. */
static int cred_of(const v9_export *ex, const struct v9_new *as, struct v9_cred *cred)
{
    const struct v9_self *self = &ex->self;

    cred->uid = as->uid == V9_NO_ID ? self->uid : as->uid;
    cred->gid = as->gid == V9_NO_ID ? self->gid : as->gid;
    cred->switched = self->privileged && (cred->uid != self->uid || cred->gid != self->gid);
    cred->required = ex->conf.owners_matter;
    if (self->privileged || !ex->conf.owners_matter)
        return 0;
    if (cred->uid == self->uid && v9_self_has_group(self, cred->gid))
        return 0;
    return v9_refuse(EPERM, V9_REFUSED_OWNER, cred->uid);
}

/* Whether to try again as the daemon: the mount does not have the guest's id (its ids are mapped),
 * and owners do not matter. */
static bool try_as_self(struct v9_cred *cred, int err)
{
    if (err != -EOVERFLOW || cred->required || !cred->switched)
        return false;
    cred->switched = false;
    return true;
}

static bool is_complete(const v9_export *ex, const struct v9_new *as)
{
    return ex->self.privileged && !(as->mode & SET_IDS);
}

/* Does what the creating call could not do: without privilege sets the group (where it matters),
 * and the set-id bits that got lost. */
static int complete(const v9_export *ex, int fd, const struct v9_new *as)
{
    const bool grouped = !ex->self.privileged && ex->conf.owners_matter && as->gid != V9_NO_ID;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (grouped && st.st_gid != as->gid &&
        (fchownat(fd, "", (uid_t)-1, as->gid, AT_EMPTY_PATH) < 0 || fstat(fd, &st) < 0))
        return -errno;
    if (!(as->mode & SET_IDS & ~st.st_mode))
        return 0;
    return v9_sys_chmod(ex->proc_fd, fd, (st.st_mode & PERMISSIONS) | (as->mode & SET_IDS));
}

/* Opens an entry of the export itself; -EXDEV where another export is joined. */
static int step(v9_export *ex, int dir_fd, const char *name)
{
    v9_export *where = ex;
    int fd = v9_export_step(&where, V9_NO_ID, dir_fd, name);

    if (fd >= 0 && where != ex) {
        v9_budget_close(fd);
        return v9_refuse(EXDEV, V9_REFUSED_EXPORTS, 0);
    }
    return fd;
}

/* Whether a name still stands for a file of the kind that was created: 1, 0 or -errno. Others are
 * left alone. */
static int is_kind(int fd, const struct v9_new *as)
{
    const uint32_t special = as->mode & S_IFMT ? as->mode & S_IFMT : S_IFREG;
    const uint32_t kind = as->kind == V9_NEW_DIR    ? S_IFDIR
                          : as->kind == V9_NEW_LINK ? S_IFLNK
                                                    : special;
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : (st.st_mode & S_IFMT) == kind;
}

static int create_entry(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                        struct v9_created *created)
{
    struct v9_cred cred;
    int fd, err = cred_of(ex, as, &cred);

    if (err)
        return err;
    do
        if (as->kind == V9_NEW_DIR)
            err = v9_cred_mkdir(&cred, dir_fd, name, as->mode);
        else if (as->kind == V9_NEW_LINK)
            err = v9_cred_symlink(&cred, as->target, dir_fd, name);
        else
            err = v9_cred_mknod(&cred, dir_fd, name, as->mode, as->major, as->minor);
    while (try_as_self(&cred, err));
    created->is_new = !err;
    if (err || is_complete(ex, as))
        return err;
    fd = step(ex, dir_fd, name);
    if (fd < 0)
        return fd;
    err = is_kind(fd, as);
    if (err > 0)
        err = complete(ex, fd, as);
    v9_budget_close(fd);
    return err;
}

/* ---- files that are opened ------------------------------------------------------------------- */

static int create_new(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                      int host, struct v9_created *created)
{
    struct v9_cred cred;
    int err = cred_of(ex, as, &cred);

    if (err)
        return err;
    created->io_flags = host;
    if (v9_evidence_made(dir_fd, name)) {
        created->io_fd = v9_export_take_made(ex, dir_fd, name, host);
        created->is_new = created->io_fd != -EEXIST; /* that is another's */
    } else {
        do
            created->io_fd = v9_cred_create(&cred, dir_fd, name, host, as->mode);
        while (try_as_self(&cred, created->io_fd));
        v9_evidence_outcome(created->io_fd);
        created->is_new = created->io_fd >= 0;
    }
    if (created->io_fd < 0)
        return created->io_fd;
    err = is_complete(ex, as) ? 0 : complete(ex, created->io_fd, as);
    if (err)
        return err;
    created->path_fd = v9_created_reach(ex, dir_fd, name, created->io_fd);
    return created->path_fd < 0 ? created->path_fd : 0;
}

/* By its descriptor, and only if it is regular. It keeps its content. */
static int open_existing(v9_export *ex, int dir_fd, const char *name, int host,
                         struct v9_created *created)
{
    uint32_t type;
    int err;

    created->path_fd = step(ex, dir_fd, name);
    if (created->path_fd < 0)
        return created->path_fd;
    err = v9_attr_type(ex, created->path_fd, -1, &type);
    if (!err)
        err = S_ISLNK(type) ? -ELOOP : S_ISDIR(type) ? -EISDIR : S_ISREG(type) ? 0 : -ENXIO;
    if (err)
        return err;
    created->io_flags = host;
    created->io_fd = v9_export_open(ex, created->path_fd, host);
    return created->io_fd < 0 ? created->io_fd : 0;
}

static int create_file(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                       struct v9_created *created)
{
    const int host = v9_sys_open_flags(as->flags);
    int err;

    for (int i = 0; i < RACES; i++) {
        err = ex->conf.model == V9_MODEL_HOST
                  ? create_new(ex, dir_fd, name, as, host & ~NOT_FOR_NEW, created)
                  : v9_create_mapped_file(ex, dir_fd, name, as, host & ~NOT_FOR_NEW, created);
        if (err != -EEXIST || as->flags & P9_EXCL)
            return err;
        v9_created_close(created);
        err = open_existing(ex, dir_fd, name, host & ~(O_NOATIME | O_TRUNC), created);
        if (err != -ENOENT)
            return err;
        v9_created_close(created);
    }
    return -EAGAIN;
}

/* Whether `name` is still what was created: somebody else may have put another file there. */
static bool is_created(int dir_fd, const char *name, const struct v9_created *created)
{
    const int fd = created->path_fd >= 0 ? created->path_fd : created->io_fd;

    return created->is_new && (fd < 0 || v9_export_is_entry(fd, dir_fd, name) > 0);
}

/* Removes it, before it is counted. */
static void take_back(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                      struct v9_created *created)
{
    if (is_created(dir_fd, name, created))
        v9_unlink_entry(ex, dir_fd, name, as->kind == V9_NEW_DIR);
    created->is_new = false;
}

static int create_any(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                      struct v9_created *created)
{
    int err;

    if (as->kind == V9_NEW_FILE)
        err = create_file(ex, dir_fd, name, as, created);
    else if (ex->conf.model == V9_MODEL_HOST)
        err = create_entry(ex, dir_fd, name, as, created);
    else
        err = v9_create_mapped_other(ex, dir_fd, name, as, created);
    if (err)
        take_back(ex, dir_fd, name, as, created);
    return err;
}

/* ---- within the quota ------------------------------------------------------------------------ */

/* An entry, for its account: a descriptor. */
static int look_for(int dir_fd, const char *name)
{
    return v9_sys_reach(dir_fd, name, 0);
}

static int open_counted(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                        int there, struct v9_created *created)
{
    struct v9_quota_change change = {.fds = {there, -1, -1}};
    int err = v9_quota_change_begin(ex->quota, &change);

    if (err)
        return err;
    err = create_any(ex, dir_fd, name, as, created);
    v9_quota_change_end(ex->quota, &change);
    return err;
}

/* Counts what was created. While the names are locked only a host process may have put another file
 * there, which counts as well. */
static int count_new(v9_export *ex, int dir_fd, const char *name)
{
    const struct v9_budget_charged before = v9_budget_insist();
    const int fd = look_for(dir_fd, name); /* what was created must be counted */
    int err;

    v9_budget_restore(before);
    if (fd < 0)
        return v9_sys_has_failed(fd) ? fd : 0;
    err = v9_quota_count_new(ex->quota, fd);
    v9_budget_close(fd);
    return err;
}

static int create_counted(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                          struct v9_created *created)
{
    const uint64_t blocks = as->kind == V9_NEW_DIR || as->kind == V9_NEW_LINK ? 2 : 1;
    struct v9_quota_change change = {
        .bytes = blocks * v9_quota_block(ex->quota), .inodes = 1, .fds = {dir_fd, -1, -1}};
    int err = v9_quota_change_begin(ex->quota, &change);

    if (err)
        return err;
    err = create_any(ex, dir_fd, name, as, created);
    if (!err) {
        err = count_new(ex, dir_fd, name);
        if (err)
            take_back(ex, dir_fd, name, as, created);
    }
    v9_quota_change_end(ex->quota, &change);
    return err;
}

static int create_within_quota(v9_export *ex, int dir_fd, const char *name, const struct v9_new *as,
                               struct v9_created *created)
{
    const int there = look_for(dir_fd, name);
    int err;

    if (there == -ENOENT)
        return create_counted(ex, dir_fd, name, as, created);
    if (there < 0)
        return there; /* nor could the new entry be opened to count it */
    err = open_counted(ex, dir_fd, name, as, there, created);
    v9_budget_close(there);
    return err;
}

int v9_create(v9_export *ex, int32_t dir_fd, const char *name, const struct v9_new *new,
              struct v9_created *created)
{
    struct v9_new as = *new;
    int err = v9_idmap_creator(&ex->ids[V9_UID], new->uid, ex->self.uid, &as.uid);

    *created = V9_CREATED_NONE;
    if (!err)
        err = v9_idmap_creator(&ex->ids[V9_GID], new->gid, ex->self.gid, &as.gid);
    if (err)
        return err;
    err = v9_export_check_name(ex, dir_fd, name, EACCES);
    if (err)
        return err;
    if (as.kind != V9_NEW_SPECIAL)
        as.mode &= PERMISSIONS;
    v9_export_names_begin(ex);
    err = ex->quota ? create_within_quota(ex, dir_fd, name, &as, created)
                    : create_any(ex, dir_fd, name, &as, created);
    v9_export_names_end(ex);
    if (err)
        v9_created_close(created);
    return err;
}

void v9_create_undo(v9_export *ex, int32_t dir_fd, const char *name, uint32_t kind,
                    const struct v9_created *created)
{
    if (is_created(dir_fd, name, created))
        v9_unlink(ex, dir_fd, name, kind == V9_NEW_DIR);
}
