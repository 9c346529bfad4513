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
#include "base/evidence.h"
#include "base/host_stat.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/hidden_names.h"
#include "mapped/text.h"

enum { META_FMODE = 0600, META_DMODE = 0700 };

static int forget(int dir_fd, const char *name, int flags)
{
    return unlinkat(dir_fd, name, flags) < 0 && errno != ENOENT ? -errno : 0;
}

/* Opens, or creates, the directory with the metadata of a directory's files. */
static int metadata_dir(int dir_fd)
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

/* Removes the metadata that lie there for another file. */
static int clear_metadata(v9_export *ex, const char *name, int meta_dir)
{
    int err = look(meta_dir, name);
    if (err)
        return err == -ENOENT ? 0 : err;
    v9_mapped_changing(ex, true);
    err = forget(meta_dir, name, 0);
    v9_mapped_changing(ex, false);
    return err;
}

/* -EEXIST for a name in use. Metadata that lie there for another file are removed. */
static int clear_name(v9_export *ex, int dir_fd, const char *name, int meta_dir)
{
    int err;

    if (v9_evidence_made(dir_fd, name))
        return 0; /* the name was made, and before it its metadata */
    err = look(dir_fd, name);
    if (err == -ENOENT)
        err = clear_metadata(ex, name, meta_dir);
    else if (!err)
        err = -EEXIST;
    return v9_evidence_outcome(err);
}

/* A new metadata file with its text: a descriptor. */
static int create_meta(v9_export *ex, int meta_dir, const char *name,
                       const struct v9_mapped *mapped)
{
    char text[V9_MAPPED_TEXT];
    const size_t size = v9_mapped_format(mapped, text);
    ssize_t put;
    int fd, err;

    if (v9_evidence_made(meta_dir, name))
        fd = v9_export_take_made(ex, meta_dir, name, O_RDWR);
    else
        fd = v9_evidence_outcome(
            v9_cred_create(&v9_cred_daemon, meta_dir, name, O_RDWR, META_FMODE));
    if (fd < 0)
        return fd;
    put = pwrite(fd, text, size, 0);
    __atomic_store_n(&ex->texts_are_synced, false, __ATOMIC_SEQ_CST);
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
        return create_meta(ex, ex->conf.root_fd, V9_META_ROOT_NAME, &none);
    parent = v9_export_parent(ex, fd, name);
    if (parent < 0)
        return parent;
    meta_dir = metadata_dir(parent);
    meta = meta_dir < 0 ? meta_dir : create_meta(ex, meta_dir, name, &none);
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

/* The metadata directory in which a new name is free: a descriptor. */
static int open_place(v9_export *ex, int dir_fd, const char *name)
{
    int meta_dir = metadata_dir(dir_fd), err;

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
    *meta_fd = create_meta(ex, *meta_dir, name, mapped);
    if (*meta_fd >= 0)
        return 0;
    v9_budget_close(*meta_dir);
    return *meta_fd;
}

int v9_sidecar_share(v9_export *ex, int fd, int meta_fd, int dir_fd, const char *name,
                     int *meta_dir)
{
    int meta = meta_fd, err;

    *meta_dir = -1;
    if (ex->conf.model != V9_MODEL_FILE)
        return 0;
    if (meta < 0)
        meta = v9_sidecar_open(ex, fd);
    if (meta < 0)
        return meta;
    *meta_dir = open_place(ex, dir_fd, name);
    err = *meta_dir < 0 ? *meta_dir : 0;
    if (!err && !v9_evidence_made(*meta_dir, name))
        err = v9_evidence_outcome(v9_sys_link(ex->proc_fd, meta, *meta_dir, name));
    if (err && *meta_dir >= 0)
        v9_budget_close(*meta_dir);
    if (meta != meta_fd)
        v9_budget_close(meta);
    return err;
}

void v9_sidecar_placed(int meta_dir, const char *name, bool failed)
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

/* Removes the metadata directory of directory `name` that holds nothing else, for it to count as
 * empty. What is no directory is left alone. */
static int clear(v9_export *ex, int dir_fd, const char *name)
{
    DIR *all = open_dir(ex, dir_fd, name), *kept;
    int err;

    if (!all) /* symlinks and files are left to the host's call, which refuses them */
        return v9_sys_has_failed(-errno) ? -errno : 0;
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

static int remove_host(int dir_fd, const char *name, bool directory)
{
    if (v9_evidence_removed(dir_fd, name))
        return 0;
    return v9_evidence_outcome(unlinkat(dir_fd, name, directory ? AT_REMOVEDIR : 0) < 0 ? -errno
                                                                                        : 0);
}

int v9_sidecar_remove(v9_export *ex, int dir_fd, const char *name, bool directory)
{
    /* Opened before the name is lost, which would leave the metadata behind. */
    const int meta_dir = v9_sys_reach(dir_fd, V9_META_DIR_NAME, O_DIRECTORY);
    int err;

    if (v9_sys_has_failed(meta_dir))
        return meta_dir;
    v9_mapped_changing(ex, true);
    err = remove_host(dir_fd, name, directory);
    if (err == -ENOTEMPTY || err == -EEXIST) {
        err = clear(ex, dir_fd, name);
        if (!err)
            err = remove_host(dir_fd, name, directory);
    }
    if (!err && meta_dir >= 0)
        forget(meta_dir, name, 0); /* what stays is metadata of nothing */
    v9_mapped_changing(ex, false);
    if (meta_dir >= 0)
        v9_budget_close(meta_dir);
    return err;
}

/* ---- renaming -------------------------------------------------------------------------------- */

/* A rename, while it goes on. */
struct rename {
    int old_dir, new_dir;
    const char *old, *new;
    int from, to;   /* metadata directories; from is -1 where there is none */
    bool set_aside; /* metadata of `new` have the name SPARE meanwhile */
    bool moved;     /* the metadata have lost their old name already */
    bool again;     /* a process that died had begun it, */
    bool done;      /* and has renamed the file */
};

/* A name that no metadata file has, since the guest may not use it. */
#define SPARE V9_META_DIR_NAME

static int move(int old_dir, const char *old, int new_dir, const char *new)
{
    return renameat(old_dir, old, new_dir, new) < 0 ? -errno : 0;
}

/* Whether link(2) fails because a file cannot have one more name. */
static bool has_no_links(int err)
{
    return err == -EPERM || err == -EOPNOTSUPP || err == -EMLINK;
}

/* Gives the metadata of the renamed file, if any, one more name. Without hard links they get the
 * new name instead of the old one. */
static int share_or_move(struct rename *it)
{
    int err;

    if (it->from < 0)
        return 0;
    err = linkat(it->from, it->old, it->to, it->new, 0) < 0 ? -errno : 0;
    if (has_no_links(err)) {
        err = move(it->from, it->old, it->to, it->new);
        it->moved = !err;
    }
    return err == -ENOENT ? 0 : err;
}

static void undo(const struct rename *it)
{
    if (it->moved)
        move(it->to, it->new, it->from, it->old);
    else
        forget(it->to, it->new, 0);
    if (it->set_aside)
        move(it->to, SPARE, it->to, it->new);
}

/* A process that died had begun: what it had done to the metadata is undone, to begin anew. */
static void go_back(struct rename *it)
{
    it->set_aside = !look(it->to, SPARE);
    it->moved = it->from >= 0 && look(it->from, it->old) && !look(it->to, it->new);
    if (it->set_aside || (it->moved && look(it->new_dir, it->new)))
        undo(it);
    it->set_aside = it->moved = false;
}

/* Whether the metadata of a renamed file still have its old name, too, and no right to it: nothing
 * has the name now, or another file, which somebody has made since, maybe with its own metadata. */
static bool have_old_name(const struct rename *it)
{
    const int is_new = v9_host_are_one_file(it->old_dir, it->old, it->new_dir, it->new);

    return is_new < 0 || (!is_new && v9_host_are_one_file(it->from, it->old, it->to, it->new) > 0);
}

/* The names of a renamed file have changed: its metadata lose the old name. */
static void finish(const struct rename *it)
{
    forget(it->to, SPARE, 0); /* what stays is metadata of nothing */
    if (it->from >= 0 && have_old_name(it))
        forget(it->from, it->old, 0);
}

static int rename_all(struct rename *it)
{
    int err;

    if (it->again)
        go_back(it);
    err = move(it->to, it->new, it->to, SPARE);
    if (err && err != -ENOENT)
        return err;
    it->set_aside = !err;
    err = share_or_move(it);
    if (!err)
        err = move(it->old_dir, it->old, it->new_dir, it->new);
    if (err)
        undo(it);
    else
        finish(it);
    return err;
}

/* Renames with both metadata directories open. */
static int rename_with_metadata(struct rename *it)
{
    int err;

    it->to = metadata_dir(it->new_dir);
    if (it->to < 0)
        return it->to;
    it->from = v9_sys_reach(it->old_dir, V9_META_DIR_NAME, O_DIRECTORY);
    err = it->from < 0 && it->from != -ENOENT ? it->from : 0;
    if (!err && it->done)
        finish(it);
    else if (!err)
        err = rename_all(it);
    if (it->from >= 0)
        v9_budget_close(it->from);
    v9_budget_close(it->to);
    return err;
}

/* Completes a rename that a process that died has made, but for the metadata. */
static int complete(v9_export *ex, struct rename *it)
{
    int err;

    v9_mapped_changing(ex, true);
    err = rename_with_metadata(it);
    v9_mapped_changing(ex, false);
    return err;
}

/* One that was not made yet. */
static int rename_now(v9_export *ex, struct rename *it)
{
    struct stat from, to;
    bool replaces;
    int err = 0;

    if (fstatat(it->old_dir, it->old, &from, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    replaces = fstatat(it->new_dir, it->new, &to, AT_SYMLINK_NOFOLLOW) == 0;
    if (!replaces && errno != ENOENT)
        return -errno;
    if (replaces && from.st_dev == to.st_dev && from.st_ino == to.st_ino)
        return move(it->old_dir, it->old, it->new_dir, it->new); /* does nothing (rename(2)) */
    v9_mapped_changing(ex, true);
    if (replaces && S_ISDIR(from.st_mode) && S_ISDIR(to.st_mode))
        err = clear(ex, it->new_dir, it->new);
    if (!err)
        err = rename_with_metadata(it);
    v9_mapped_changing(ex, false);
    return err;
}

int v9_sidecar_rename(v9_export *ex, int old_dir, const char *old, int new_dir, const char *new)
{
    struct rename it = {.old_dir = old_dir, .new_dir = new_dir, .old = old, .new = new};

    it.again = v9_evidence_loss_is_noted();
    it.done = v9_evidence_moved(old_dir, old, new_dir, new);
    return it.done ? complete(ex, &it) : v9_evidence_outcome(rename_now(ex, &it));
}
