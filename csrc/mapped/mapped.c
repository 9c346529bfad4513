#define _GNU_SOURCE
#include "mapped/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/host_stat.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/hidden_names.h"
#include "mapped/text.h"
#include "mapped/xattr.h"

enum {
    TEXT_READ = 1024, /* bytes of a metadata file that are looked at; QEMU writes less than 100 */
    PERMISSIONS = 07777,
    TRIES = 64,         /* retries of a lookup that a change of names broke */
    LOCK_TRIES = 10000, /* then, to keep names from changing: a second and more */
    PAUSE_NS = 100000,  /* between tries */
};

/* ---- mapped-file's files --------------------------------------------------------------------- */

/* Opens a metadata file. Only a regular one counts. */
static int open_meta(v9_export *ex, int dir_fd, const char *path)
{
    int at = v9_sys_resolve(dir_fd, path, 0, RESOLVE_BENEATH);
    struct stat st;
    int fd;

    if (at < 0)
        return at;
    fd = fstat(at, &st) < 0     ? -errno
         : !S_ISREG(st.st_mode) ? -ENOENT
                                : v9_export_open(ex, at, O_RDONLY);
    v9_budget_close(at);
    return fd;
}

static int open_meta_of(v9_export *ex, int dir_fd, const char *name)
{
    char path[sizeof(V9_META_DIR_NAME) + V9_NAME_SIZE];

    if ((size_t)snprintf(path, sizeof(path), V9_META_DIR_NAME "/%s", name) >= sizeof(path))
        return -ENAMETOOLONG;
    return open_meta(ex, dir_fd, path);
}

static int find_once(v9_export *ex, int fd)
{
    char name[V9_NAME_SIZE];
    struct stat st;
    int dir, meta;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (v9_export_is_root(ex, &st))
        return open_meta(ex, ex->conf.root_fd, V9_META_ROOT_NAME);
    dir = v9_export_parent(ex, fd, name);
    if (dir < 0)
        return dir == -EBUSY ? -ENOENT : dir; /* it was moved out of the export */
    meta = open_meta_of(ex, dir, name);
    v9_budget_close(dir);
    return meta;
}

/* ---- changes of names ------------------------------------------------------------------------ */

void v9_mapped_changing(v9_export *ex, bool begin)
{
    v9_seqcount_change(&ex->names, begin);
}

uint32_t v9_mapped_read_begin(const v9_export *ex)
{
    return v9_seqcount_read_begin(&ex->names);
}

bool v9_mapped_read_retry(const v9_export *ex, uint32_t seq)
{
    return v9_seqcount_read_retry(&ex->names, seq);
}

/* As find_once, while no name changes; waits for that, but not for ever: a host call may hang. */
static int find_locked(v9_export *ex, int32_t fd)
{
    const struct timespec pause = {0, PAUSE_NS};
    int meta;

    for (int i = 0; i < LOCK_TRIES; i++) {
        if (!pthread_mutex_trylock(&ex->names_lock)) {
            meta = find_once(ex, fd);
            pthread_mutex_unlock(&ex->names_lock);
            return meta;
        }
        nanosleep(&pause, NULL);
    }
    return -ENOENT; /* the host's attributes, until the next lookup */
}

int v9_mapped_find(v9_export *ex, int32_t fd)
{
    const struct timespec pause = {0, PAUSE_NS};

    if (ex->conf.model != V9_MODEL_FILE)
        return -ENOENT;
    for (int i = 0; i < TRIES; i++) {
        const uint32_t seq = v9_mapped_read_begin(ex);
        const int meta = find_once(ex, fd);
        if (!v9_mapped_read_retry(ex, seq))
            return meta;
        if (meta >= 0)
            v9_budget_close(meta);
        nanosleep(&pause, NULL);
    }
    return find_locked(ex, fd); /* names change all the time */
}

int32_t v9_mapped_stepped(v9_export *ex, int32_t dir_fd, const char *name, int32_t fd, uint32_t seq)
{
    int meta;

    if (ex->conf.model != V9_MODEL_FILE)
        return -1;
    if (strcmp(name, "..") && strcmp(name, ".")) {
        meta = open_meta_of(ex, dir_fd, name);
        if (!v9_mapped_read_retry(ex, seq))
            return meta < 0 ? -1 : meta;
        if (meta >= 0)
            v9_budget_close(meta);
    }
    meta = v9_mapped_find(ex, fd);
    return meta < 0 ? -1 : meta;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Reads a text that may be rewritten meanwhile. */
static int read_meta(const v9_export *ex, int meta_fd, struct v9_mapped *out)
{
    char text[TEXT_READ];
    uint32_t seq;
    ssize_t size = 0;

    for (int i = 0; i < TRIES; i++) {
        seq = v9_seqcount_read_begin(&ex->texts);
        size = pread(meta_fd, text, sizeof(text), 0);
        if (size < 0)
            return -errno;
        if (!v9_seqcount_read_retry(&ex->texts, seq))
            break;
        sched_yield();
    }
    v9_mapped_parse(text, (size_t)size, out);
    return 0;
}

int v9_mapped_read(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd, uint32_t wanted,
                   struct v9_mapped *out)
{
    int own = -1, err;

    *out = (struct v9_mapped){0};
    if (ex->conf.model == V9_MODEL_XATTR)
        return v9_mapped_read_xattrs(fd, name, wanted, out);
    if (ex->conf.model != V9_MODEL_FILE)
        return 0;
    if (meta_fd < 0)
        meta_fd = own = *name ? open_meta_of(ex, fd, name) : v9_mapped_find(ex, fd);
    if (meta_fd < 0)
        return v9_sys_has_failed(meta_fd) ? meta_fd : 0;
    err = read_meta(ex, meta_fd, out);
    if (own >= 0)
        v9_budget_close(own);
    return err;
}

static bool is_device(uint32_t mode)
{
    return S_ISCHR(mode) || S_ISBLK(mode);
}

/* What a file that has type `host` on the host is in the guest. */
static uint32_t effective_type(uint32_t host, const struct v9_mapped *mapped)
{
    const uint32_t type = mapped->mode & S_IFMT;

    if ((host & S_IFMT) != S_IFREG || !(mapped->has & V9_HAS_MODE))
        return host & S_IFMT;
    return S_ISLNK(type) || is_device(type) || S_ISFIFO(type) || S_ISSOCK(type) ? type : S_IFREG;
}

void v9_mapped_apply(const struct v9_mapped *mapped, struct v9_attr *attr)
{
    const uint32_t type = effective_type(attr->mode, mapped);

    if (is_device(type) && S_ISREG(attr->mode))
        attr->rdev = v9_host_rdev(major(mapped->rdev), minor(mapped->rdev));
    if (mapped->has & V9_HAS_MODE)
        attr->mode = type | (mapped->mode & PERMISSIONS);
    if (mapped->has & V9_HAS_UID)
        attr->uid = mapped->uid;
    if (mapped->has & V9_HAS_GID)
        attr->gid = mapped->gid;
}

int32_t v9_mapped_dir(v9_export *ex, int32_t dir_fd)
{
    if (ex->conf.model != V9_MODEL_FILE)
        return -1;
    return v9_sys_resolve(dir_fd, V9_META_DIR_NAME, O_DIRECTORY, RESOLVE_BENEATH);
}

int v9_mapped_type(v9_export *ex, int32_t dir_fd, int32_t meta_dir, const char *name)
{
    struct v9_mapped mapped = {0};
    int meta, err = 0;

    if (ex->conf.model == V9_MODEL_XATTR)
        err = v9_mapped_read_xattrs(dir_fd, name, V9_HAS_MODE, &mapped);
    if (ex->conf.model == V9_MODEL_FILE && meta_dir >= 0) {
        meta = open_meta(ex, meta_dir, name);
        if (v9_sys_has_failed(meta))
            return meta;
        if (meta >= 0) {
            err = read_meta(ex, meta, &mapped);
            v9_budget_close(meta);
        }
    }
    return err ? err : (int)effective_type(S_IFREG, &mapped);
}

int v9_mapped_readlink(v9_export *ex, int32_t fd, char *target, size_t size)
{
    ssize_t length;
    struct stat st;
    int file;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode)) {
        length = readlinkat(fd, "", target, size);
        return length < 0 ? -errno : (int)length;
    }
    if (ex->conf.model == V9_MODEL_HOST)
        return -EINVAL;
    file = v9_export_open(ex, fd, O_RDONLY);
    if (file < 0)
        return file;
    length = pread(file, target, size, 0);
    if (length < 0)
        length = -errno;
    v9_budget_close(file);
    return length == (ssize_t)size ? -ENAMETOOLONG : (int)length;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void merge(struct v9_mapped *into, const struct v9_mapped *change)
{
    into->has |= change->has;
    if (change->has & V9_HAS_UID)
        into->uid = change->uid;
    if (change->has & V9_HAS_GID)
        into->gid = change->gid;
    if (change->has & V9_HAS_MODE)
        into->mode = change->mode;
    if (change->has & V9_HAS_RDEV)
        into->rdev = change->rdev;
}

/* Replaces a text in one write, padded with blank lines to the old length, so that there is never a
 * mixture; then cuts the blank lines off. */
static int write_text(int fd, const char *text, size_t size)
{
    char padded[TEXT_READ];
    size_t length;
    struct stat st;
    ssize_t put;
    bool is_cut;

    if (fstat(fd, &st) < 0)
        return -errno;
    length = st.st_size > TEXT_READ ? TEXT_READ : (size_t)st.st_size;
    if (length < size)
        length = size;
    memset(padded, '\n', length);
    memcpy(padded, text, size);
    put = pwrite(fd, padded, length, 0);
    if (put != (ssize_t)length)
        return put < 0 ? -errno : -ENOSPC;
    is_cut = (size_t)st.st_size <= size || ftruncate(fd, (off_t)size) == 0;
    (void)is_cut; /* blank lines that stay mean nothing */
    return 0;
}

static int write_meta(v9_export *ex, int meta_fd, const struct v9_mapped *old,
                      const struct v9_mapped *change)
{
    struct v9_mapped whole = *old;
    char text[V9_MAPPED_TEXT];
    size_t size;
    int fd = v9_export_open(ex, meta_fd, O_RDWR), err;

    if (fd < 0)
        return fd;
    merge(&whole, change);
    size = v9_mapped_format(&whole, text);
    v9_seqcount_change(&ex->texts, true);
    err = write_text(fd, text, size);
    v9_seqcount_change(&ex->texts, false);
    __atomic_store_n(&ex->texts_are_synced, false, __ATOMIC_SEQ_CST);
    v9_budget_close(fd);
    return err;
}

uint32_t v9_mapped_set_ids(uint32_t mode)
{
    return S_ISDIR(mode) ? 0 : mode & (S_ISUID | (mode & S_IXGRP ? S_ISGID : 0));
}

/* Completes a change of the metadata `old` of a file that has mode `host` on the host. */
static void settle(uint32_t host, const struct v9_mapped *old, struct v9_mapped *change)
{
    const uint32_t mode =
        effective_type(host, old) | ((old->has & V9_HAS_MODE ? old->mode : host) & PERMISSIONS);

    if (change->has & V9_NO_SET_IDS && v9_mapped_set_ids(mode)) {
        change->has |= V9_HAS_MODE;
        change->mode = mode & PERMISSIONS & ~v9_mapped_set_ids(mode);
    }
    change->has &= V9_HAS_ALL;
    if (change->has & V9_HAS_MODE && !(change->mode & S_IFMT))
        change->mode |= effective_type(host, old);
}

/* All of them, or none. Only changes without a type know the old ones: others are of new files. */
static int write_xattrs(int fd, const struct v9_mapped *old, const struct v9_mapped *change)
{
    const int err = v9_mapped_write_xattrs(fd, change);

    if (err)
        v9_mapped_restore_xattrs(fd, change, old);
    return err;
}

int v9_mapped_write(v9_export *ex, int32_t fd, int32_t meta_fd, const struct v9_mapped *change)
{
    struct v9_mapped old = {0}, new = *change;
    struct stat st;
    int err = 0;

    if (ex->conf.model == V9_MODEL_HOST || (ex->conf.model == V9_MODEL_FILE && meta_fd < 0))
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    pthread_mutex_lock(&ex->metadata_lock);
    if (ex->conf.model == V9_MODEL_FILE || !(new.mode &S_IFMT))
        err = v9_mapped_read(ex, fd, "", meta_fd, V9_HAS_ALL, &old);
    if (!err) { /* else what is kept would be lost */
        settle(st.st_mode, &old, &new);
        err = ex->conf.model == V9_MODEL_XATTR ? write_xattrs(fd, &old, &new)
                                               : write_meta(ex, meta_fd, &old, &new);
    }
    pthread_mutex_unlock(&ex->metadata_lock);
    return err;
}
