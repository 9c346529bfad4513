/*
 * A host whose calls fail as a test needs it, and an export on it. The functions below replace
 * those of the C library.
 */
#ifndef FAULTY_HOST_H
#define FAULTY_HOST_H

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "check.h"
#include "fs/attributes.h"
#include "fs/created.h"

#define META ".virtfs_metadata"

/* ---- calls that fail ------------------------------------------------------------------------- */

static struct {
    bool no_tmpfile;             /* file systems that do not know O_TMPFILE */
    bool always_there;           /* exclusive creation fails with EEXIST */
    bool full;                   /* nothing can be written */
    bool no_paths;               /* no descriptors for names, as where there are too many already */
    bool no_links;               /* file systems on which a file has one name */
    void (*before_rename)(void); /* what somebody else does first, */
    void (*after_rename)(void);  /* and next */
    const char *bad;             /* an entry that comes last, and cannot be read */
    long left; /* calls that change something, until the process ends; -1: it does not */
} host = {.left = -1};

static inline void change(void)
{
    if (!host.left)
        _exit(7);
    if (host.left > 0)
        host.left--;
}

static inline int failed(int err)
{
    errno = err;
    return -1;
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list rest;
    mode_t mode;

    va_start(rest, flags);
    mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if ((flags & O_TMPFILE) == O_TMPFILE && host.no_tmpfile)
        return failed(EOPNOTSUPP);
    if (flags & O_PATH && host.no_paths)
        return failed(EMFILE);
    if (flags & O_EXCL && host.always_there)
        return failed(EEXIST);
    if (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE)
        change();
    return (int)syscall(SYS_openat, dir, path, flags, mode);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
    if (host.always_there)
        return failed(EEXIST);
    if (host.no_links)
        return failed(EPERM);
    change();
    return (int)syscall(SYS_linkat, from, old, to, new, flags);
}

int renameat(int from, const char *old, int to, const char *new)
{
    int result;

    if (host.before_rename)
        host.before_rename();
    change();
    result = (int)syscall(SYS_renameat2, from, old, to, new, 0);
    if (!result && host.after_rename)
        host.after_rename();
    return result;
}

int unlinkat(int dir, const char *path, int flags)
{
    change();
    return (int)syscall(SYS_unlinkat, dir, path, flags);
}

int mkdirat(int dir, const char *path, mode_t mode)
{
    change();
    return (int)syscall(SYS_mkdirat, dir, path, mode);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    change();
    return host.full ? failed(ENOSPC) : syscall(SYS_pwrite64, fd, data, size, offset);
}

int fsetxattr(int fd, const char *key, const void *value, size_t size, int flags)
{
    change();
    return host.full ? failed(ENOSPC) : (int)syscall(SYS_fsetxattr, fd, key, value, size, flags);
}

struct dirent *readdir(DIR *all)
{
    static __typeof__(readdir) *next;
    struct dirent *entry;

    if (!next)
        next = (__typeof__(next))dlsym(RTLD_NEXT, "readdir");
    entry = next(all);
    if (!host.bad || (entry && strcmp(entry->d_name, host.bad)))
        return entry;
    if (entry && (entry = next(all)))
        return entry;
    host.bad = NULL;
    errno = EIO;
    return NULL;
}

/* ---- an export ------------------------------------------------------------------------------- */

static v9_qidmap *qids;
static char root_path[] = "/var/tmp/v9-make-XXXXXX";
static int top; /* a new directory for each export */

static inline v9_export *export_of(uint32_t model)
{
    const struct v9_export_conf conf = {
        .root_fd = top, .model = model, .owners_matter = 1, .fmode = 0600, .dmode = 0700};
    int err;
    v9_export *ex = v9_export_new(&conf, qids, &err);

    CHECK(ex && !err);
    return ex;
}

SET_UP()
{
    umask(0);
    qids = v9_qidmap_new();
    CHECK(mkdtemp(root_path));
}

TEAR_DOWN()
{
    char command[64];

    v9_qidmap_free(qids);
    snprintf(command, sizeof(command), "rm -rf %s", root_path);
    CHECK(system(command) == 0);
}

/* A new directory for an export; `end` closes both. */
static inline void begin(void)
{
    static int number;
    char name[16];
    int root = open(root_path, O_PATH);

    snprintf(name, sizeof(name), "%d", number++);
    CHECK(mkdirat(root, name, 0755) == 0);
    top = openat(root, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(top >= 0);
    close(root);
}

static inline void end(v9_export *ex)
{
    host.no_tmpfile = host.always_there = host.full = host.no_paths = host.no_links = false;
    host.before_rename = host.after_rename = NULL;
    v9_export_free(ex);
    close(top);
}

/* Makes entry "n" of a kind: v9_create's result. */
static inline int make(v9_export *ex, uint32_t kind, uint32_t flags)
{
    const struct v9_new as = {
        .kind = kind,
        .mode = kind == V9_NEW_SPECIAL ? S_IFIFO | 0640 : 0640,
        .uid = 1000,
        .gid = 2000,
        .flags = flags,
        .target = "to",
    };
    struct v9_created made;
    int err = v9_create(ex, top, "n", &as, &made);

    CHECK(err || (kind == V9_NEW_FILE) == (made.path_fd >= 0 && made.io_fd >= 0));
    CHECK(!err || (made.path_fd < 0 && made.io_fd < 0 && made.meta_fd < 0));
    v9_created_close(&made);
    return err;
}

static inline bool is_there(const char *path)
{
    struct stat st;
    return fstatat(top, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static inline unsigned descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    unsigned count = 0;

    while (readdir(all))
        count++;
    closedir(all);
    return count;
}

#endif
