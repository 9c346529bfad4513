#define _GNU_SOURCE
#include "export/containment.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/evidence.h"
#include "base/proc.h"
#include "base/refusal.h"
#include "base/shrinker.h"
#include "base/sys.h"
#include "export/hidden_names.h"
#include "export/notices.h"

enum {
    RACES = 8,   /* how often a path is read again that has changed before it was followed */
    CLIMBS = 64, /* eight levels each */
};
/* A path that is too long has more levels than that below a root whose own path is not. */
#define EIGHT_UP "../../../../../../../.."
_Static_assert(PATH_MAX / 2 >= 8 * (NAME_MAX + 1), "EIGHT_UP");

/* ---- opening --------------------------------------------------------------------------------- */

int v9_export_reopen(v9_export *ex, int32_t fd)
{
    char number[V9_PROC_NUMBER];
    int opened;

    v9_proc_number(fd, number);
    V9_OPEN(opened, openat(ex->proc_fd, number, O_PATH | O_CLOEXEC));
    return opened;
}

int v9_export_open(v9_export *ex, int32_t fd, int32_t flags)
{
    return v9_sys_open_file(ex->proc_fd, fd, false, flags);
}

int v9_export_open_known(v9_export *ex, int32_t fd, bool known, int32_t flags)
{
    return v9_sys_open_file(ex->proc_fd, fd, known, flags);
}

int v9_export_take_made(v9_export *ex, int dir_fd, const char *name, int flags)
{
    int path_fd, fd = v9_evidence_take_made();
    struct stat st;

    if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == (flags & O_ACCMODE))
        return fd;
    if (fd >= 0)
        v9_budget_close(fd);
    path_fd = v9_sys_reach(dir_fd, name, 0);
    if (path_fd < 0)
        return path_fd;
    fd = -EEXIST; /* a host process has put something else there */
    if (fstat(path_fd, &st) == 0 && S_ISREG(st.st_mode))
        fd = v9_export_open(ex, path_fd, flags);
    v9_budget_close(path_fd);
    return fd;
}

/* ---- from below ------------------------------------------------------------------------------ */

static bool is_gone(int err)
{
    return err == -ENOENT || err == -ENOTDIR || err == -ELOOP || err == -EXDEV || err == -EBUSY;
}

/* Whether `name` in directory fd, or fd itself, is this file: 1, 0, or -errno if that is not known.
 */
static int is_file(const struct stat *st, int fd, const char *name)
{
    struct stat there;

    if (fstatat(fd, name, &there, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        return v9_sys_has_failed(-errno) ? -errno : 0;
    return there.st_dev == st->st_dev && there.st_ino == st->st_ino;
}

/* Whether a directory is where its path says, below the root: 0, -ESTALE, or why that is not
 * known. */
static int prove_path(v9_export *ex, int fd)
{
    char path[PATH_MAX], before[PATH_MAX] = "";
    struct stat st;
    int at, found;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (v9_export_is_root(ex, &st))
        return 0;
    for (int i = 0; i < RACES; i++) {
        at = v9_export_path(ex, fd, "", path);
        if (at >= 0)
            at = v9_sys_resolve(ex->conf.root_fd, path, O_DIRECTORY, RESOLVE_BENEATH);
        if (at < 0 && !is_gone(at))
            return at;
        found = at >= 0 ? is_file(&st, at, "") : 0;
        if (at >= 0)
            v9_budget_close(at);
        if (found)
            return found < 0 ? found : 0;
        if (!strcmp(path, before)) /* nobody has moved it meanwhile */
            break;
        memcpy(before, path, sizeof(before));
    }
    return v9_refuse(ESTALE, V9_REFUSED_MOVED, 0);
}

/* The same of a directory, or of one that it is below. */
static int prove_inside(v9_export *ex, int fd)
{
    char root[PATH_MAX];
    int err = prove_path(ex, fd), at = -1, up;

    if (err != -ENAMETOOLONG || v9_sys_path(ex->proc_fd, ex->conf.root_fd, root) > PATH_MAX / 2)
        return err;
    for (int i = 0; i < CLIMBS && err == -ENAMETOOLONG; i++) {
        up = v9_sys_reach(i ? at : fd, EIGHT_UP, O_DIRECTORY);
        if (at >= 0)
            v9_budget_close(at);
        if (up < 0)
            return up;
        at = up;
        err = prove_path(ex, at);
    }
    v9_budget_close(at);
    return err;
}

int v9_export_is_entry(int32_t fd, int32_t dir, const char *name)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : is_file(&st, dir, name);
}

int v9_export_parent(v9_export *ex, int32_t fd, char name[V9_NAME_SIZE])
{
    char path[PATH_MAX], *slash;
    struct stat st;
    int dir, found, size = v9_export_path(ex, fd, "", path);

    if (size < 0)
        return size == -ENOENT ? -EBUSY : size;
    if (fstat(fd, &st) < 0)
        return -errno;
    slash = strrchr(path, '/');
    if (slash)
        *slash = 0;
    if (strlen(slash ? slash + 1 : path) >= V9_NAME_SIZE)
        return -ENAMETOOLONG;
    strcpy(name, slash ? slash + 1 : path);
    dir = v9_sys_resolve(ex->conf.root_fd, slash ? path : ".", O_DIRECTORY, RESOLVE_BENEATH);
    if (dir < 0)
        return dir;
    found = is_file(&st, dir, name);
    if (found > 0)
        found = v9_export_hides_directory(ex, dir);
    else if (!found)
        found = -ENOENT;
    if (!found)
        return dir;
    v9_budget_close(dir);
    return found;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static int hold_root(const struct v9_export *ex)
{
    return v9_sys_dup(ex->conf.root_fd);
}

/* A user's step to the root of another export, which has to admit him. */
static int enter(v9_export **where, uint32_t uid, v9_export *other)
{
    const int err = v9_export_admits(other, uid);

    if (err)
        return v9_refuse(-err, V9_REFUSED_USER, uid);
    *where = other;
    return hold_root(other);
}

static int step_up(v9_export **where, uint32_t uid, int fd)
{
    v9_export *ex = *where;
    struct stat st;
    int up, err;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISDIR(st.st_mode))
        return -ENOTDIR;
    if (v9_export_is_root(ex, &st))
        return ex->above ? enter(where, uid, ex->above) : hold_root(ex);
    /* The proof is of the directory reached: the one below it may be moved at any time. */
    up = v9_sys_reach(fd, "..", O_DIRECTORY);
    if (up < 0)
        return up;
    err = prove_inside(ex, up);
    if (!err)
        err = v9_export_hides_directory(ex, up);
    if (err) {
        v9_budget_close(up);
        return err;
    }
    return up;
}

int v9_export_step(v9_export **where, uint32_t uid, int32_t fd, const char *name)
{
    v9_export *joined;
    int err;

    if (!strcmp(name, ".."))
        return step_up(where, uid, fd);
    joined = v9_export_joined(*where, fd, name);
    if (joined)
        return enter(where, uid, joined);
    err = v9_export_hides(*where, fd, name);
    if (err)
        return err < 0 ? err : v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0);
    return v9_sys_resolve(fd, name, 0, RESOLVE_BENEATH);
}

/* Each component is checked before it is resolved: no error says what is hidden. */
static int descend_by_steps(v9_export *ex, const char *path)
{
    int at = hold_root(ex), next;

    for (size_t size; *path && at >= 0; path += size + (path[size] == '/'), at = next) {
        char name[V9_NAME_SIZE];
        v9_export *where = ex;
        size = strcspn(path, "/");
        if (size < sizeof(name)) {
            memcpy(name, path, size);
            name[size] = 0;
            next = v9_export_step(&where, V9_NO_ID, at, name);
        } else {
            next = -ENAMETOOLONG;
        }
        v9_budget_close(at);
        if (next >= 0 && where != ex) {
            v9_budget_close(next);
            next = -EXDEV;
        }
    }
    return at;
}

int v9_export_descend(v9_export *ex, const char *path)
{
    /* Where there is something above, ".." must not end at this root. */
    const uint64_t scope = ex->above ? RESOLVE_BENEATH : RESOLVE_IN_ROOT;

    if (ex->hidden)
        return descend_by_steps(ex, path);
    if (v9_export_hides_path(ex, path))
        return v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0);
    return v9_sys_resolve(ex->conf.root_fd, path, O_DIRECTORY, scope);
}
