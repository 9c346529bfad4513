#define _GNU_SOURCE
#include "mapped/sidecar.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/hidden_names.h"
#include "mapped/mapped.h"
#include "mapped/text.h"

enum { META_FMODE = 0600, META_DMODE = 0700 };

static int forget(int dir_fd, const char *name, int flags)
{
    return unlinkat(dir_fd, name, flags) < 0 && errno != ENOENT ? -errno : 0;
}

int v9_sidecar_dir(int32_t dir_fd)
{
    int fd = v9_sys_reach(dir_fd, V9_META_DIR_NAME, O_DIRECTORY);

    if (fd != -ENOENT)
        return fd;
    if (mkdirat(dir_fd, V9_META_DIR_NAME, META_DMODE) < 0 && errno != EEXIST)
        return -errno;
    return v9_sys_reach(dir_fd, V9_META_DIR_NAME, O_DIRECTORY);
}

static int look(int dir_fd, const char *name)
{
    struct stat st;
    return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* -EEXIST for a name in use; metadata that lie there for another file are removed. */
static int clear_name(v9_export *ex, int dir_fd, const char *name, int meta_dir)
{
    int err = look(dir_fd, name);

    if (err != -ENOENT)
        return err ? err : -EEXIST;
    err = look(meta_dir, name);
    if (err)
        return err == -ENOENT ? 0 : err;
    v9_mapped_changing(ex, true);
    err = forget(meta_dir, name, 0);
    v9_mapped_changing(ex, false);
    return err;
}

/* A new metadata file with its text: a descriptor. */
static int create_meta(int meta_dir, const char *name, const struct v9_mapped *mapped)
{
    int fd = v9_cred_create(&v9_cred_daemon, meta_dir, name, O_RDWR, META_FMODE), err;
    char text[V9_MAPPED_TEXT];
    const size_t size = v9_mapped_format(mapped, text);
    ssize_t put;

    if (fd < 0)
        return fd;
    put = pwrite(fd, text, size, 0);
    if (put == (ssize_t)size)
        return fd;
    err = put < 0 ? -errno : -ENOSPC;
    v9_budget_close(fd);
    forget(meta_dir, name, 0);
    return err;
}

/* Creates the metadata file of a file that has none: a descriptor. */
static int create_meta_of(v9_export *ex, int fd)
{
    const struct v9_mapped none = {0};
    char name[V9_NAME_SIZE];
    int parent, meta_dir, meta;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (v9_export_is_root(ex, &st))
        return create_meta(ex->conf.root_fd, V9_META_ROOT_NAME, &none);
    parent = v9_export_parent(ex, fd, name);
    if (parent < 0)
        return parent;
    meta_dir = v9_sidecar_dir(parent);
    meta = meta_dir < 0 ? meta_dir : create_meta(meta_dir, name, &none);
    if (meta_dir >= 0)
        v9_budget_close(meta_dir);
    v9_budget_close(parent);
    return meta;
}

int v9_sidecar_open(v9_export *ex, int32_t fd)
{
    int meta;

    v9_export_lock_names(ex);
    meta = v9_mapped_find(ex, fd);
    if (meta == -ENOENT)
        meta = create_meta_of(ex, fd);
    v9_export_unlock_names(ex);
    return meta;
}

int v9_sidecar_discard(int32_t dir_fd, const char *name)
{
    int err, meta_dir = v9_sys_reach(dir_fd, V9_META_DIR_NAME, O_DIRECTORY);

    if (meta_dir < 0)
        return meta_dir == -ENOENT ? 0 : meta_dir;
    err = forget(meta_dir, name, 0);
    v9_budget_close(meta_dir);
    return err;
}

/* The metadata directory in which a new name is free: a descriptor. */
static int open_place(v9_export *ex, int dir_fd, const char *name)
{
    int meta_dir = v9_sidecar_dir(dir_fd), err;

    if (meta_dir < 0)
        return meta_dir;
    err = clear_name(ex, dir_fd, name, meta_dir);
    if (!err)
        return meta_dir;
    v9_budget_close(meta_dir);
    return err;
}

int v9_sidecar_place(v9_export *ex, int dir_fd, const char *name, const struct v9_mapped *mapped,
                     int *meta_dir, int *meta_fd)
{
    *meta_dir = *meta_fd = -1;
    if (ex->conf.model != V9_MODEL_FILE)
        return 0;
    *meta_dir = open_place(ex, dir_fd, name);
    if (*meta_dir < 0)
        return *meta_dir;
    *meta_fd = create_meta(*meta_dir, name, mapped);
    if (*meta_fd >= 0)
        return 0;
    v9_budget_close(*meta_dir);
    return *meta_fd;
}

int v9_sidecar_share(v9_export *ex, int32_t dir_fd, const char *name, int32_t meta_fd)
{
    int meta_dir = open_place(ex, dir_fd, name), err;
    char number[16];

    if (meta_dir < 0)
        return meta_dir;
    snprintf(number, sizeof(number), "%d", meta_fd);
    err = linkat(ex->proc_fd, number, meta_dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
    if (!err)
        return meta_dir;
    v9_budget_close(meta_dir);
    return err;
}

void v9_sidecar_placed(int32_t meta_dir, const char *name, uint32_t failed)
{
    if (meta_dir < 0)
        return;
    if (failed)
        forget(meta_dir, name, 0);
    v9_budget_close(meta_dir);
}

/* The next entry but "." and "..": 1, or 0 at the end, or -errno. */
static int read_entry(DIR *all, const char **name)
{
    const struct dirent *entry;

    do {
        errno = 0;
        entry = readdir(all);
        if (!entry)
            return -errno;
    } while (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."));
    *name = entry->d_name;
    return 1;
}

static void close_dir(DIR *all)
{
    v9_budget_forget(dirfd(all));
    closedir(all);
}

/* Removes all files of a directory, and closes it. */
static int empty(DIR *all)
{
    const char *name;
    int err;

    while ((err = read_entry(all, &name)) > 0 && !(err = forget(dirfd(all), name, 0)))
        ;
    close_dir(all);
    return err;
}

/* Opens a directory for reading, and only that; NULL with errno. */
static DIR *open_dir(v9_export *ex, int dir_fd, const char *name)
{
    int at = v9_sys_reach(dir_fd, name, O_DIRECTORY);
    int fd = at < 0 ? at : v9_export_open(ex, at, O_RDONLY), err;
    DIR *all;

    if (at >= 0)
        v9_budget_close(at);
    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    all = fdopendir(fd);
    if (all)
        return all;
    err = errno;
    v9_budget_close(fd);
    errno = err;
    return NULL;
}

/* Whether a directory, which may have millions of entries, has no other than its metadata's: 1, 0,
 * or -errno. */
static int has_metadata_only(DIR *all)
{
    const char *name;
    int err, has = 0;

    while ((err = read_entry(all, &name)) > 0) {
        if (strcmp(name, V9_META_DIR_NAME))
            return 0;
        has = 1;
    }
    return err ? err : has;
}

int v9_sidecar_clear(v9_export *ex, int32_t dir_fd, const char *name)
{
    DIR *all = open_dir(ex, dir_fd, name), *kept;
    int err;

    if (!all) /* symlinks and files are left to the host's call, which refuses them */
        return v9_budget_lacks(-errno) ? -errno : 0;
    err = has_metadata_only(all);
    if (err > 0) {
        kept = open_dir(ex, dirfd(all), V9_META_DIR_NAME);
        err = kept ? empty(kept) : -errno;
        if (!err)
            err = forget(dirfd(all), V9_META_DIR_NAME, AT_REMOVEDIR);
    }
    close_dir(all);
    return err;
}

int v9_sidecar_remove(v9_export *ex, int dir_fd, const char *name, bool directory)
{
    int err = 0;

    v9_mapped_changing(ex, true);
    if (directory)
        err = v9_sidecar_clear(ex, dir_fd, name);
    if (!err && unlinkat(dir_fd, name, directory ? AT_REMOVEDIR : 0) < 0)
        err = -errno;
    if (!err)
        v9_sidecar_discard(dir_fd, name); /* what stays is metadata of nothing */
    v9_mapped_changing(ex, false);
    return err;
}
