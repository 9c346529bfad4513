#define _GNU_SOURCE
#include "fid/renames.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/budget.h"
#include "base/evidence.h"
#include "base/host_stat.h"
#include "base/sightings.h"
#include "base/sys.h"
#include "export/containment.h"
#include "fid/fid_names.h"
#include "fid/restore.h"
#include "fs/names.h"

/* What a change of names may concern, besides the host. */
enum {
    FILES = 1, /* that are cached, or will be */
    DIRECTORIES = 2,
    EVICTED = 4,
};

/* ---- before and after a change --------------------------------------------------------------- */

/* Begins a change; which of `kinds` may be cached, and whether anything of the table is evicted. */
static uint32_t begin(struct v9_fids *fids, uint32_t export, uint32_t kinds)
{
    const struct v9_inodes *inodes = &fids->inodes;
    uint32_t concerns = 0;

    v9_seqcount_change(&fids->exports[export]->moves, true);
    pthread_mutex_lock(&fids->lock);
    if (inodes->recipes.count)
        concerns |= EVICTED;
    if (inodes->cacheable[0])
        concerns |= FILES;
    if (inodes->cacheable[1])
        concerns |= DIRECTORIES;
    pthread_mutex_unlock(&fids->lock);
    return concerns & (kinds | EVICTED);
}

static void end(struct v9_fids *fids, uint32_t export)
{
    v9_seqcount_change(&fids->exports[export]->moves, false);
}

/* Before an entry, or the file `fd` itself (""), loses a name: restores the file, and caches it no
 * more. Whether it is a directory; -errno where the host has failed, and the name must stay. */
static int before_loss(struct v9_fids *fids, int fd, const char *name)
{
    const uint64_t at = v9_ticks_now();
    struct v9_identity is;
    uint64_t nlink;
    uint32_t mode;
    int err;

    err = v9_host_identify(fd, name, &is, &mode, &nlink);
    if (err)
        return v9_sys_has_failed(err) ? err : 0;
    v9_evidence_seen(fd, name, &(struct v9_sighting){at, is.st_dev, is.st_ino});
    pthread_mutex_lock(&fids->lock);
    err = v9_restore_before_loss(fids, is.st_dev, is.st_ino);
    pthread_mutex_unlock(&fids->lock);
    return err ? err : S_ISDIR(mode);
}

/* ---- the journal of renames ------------------------------------------------------------------ */

/* Applies the full journal to all recipes, and empties it. The lock is held. */
static void apply_journal(struct v9_fids *fids)
{
    struct v9_recipe_store *store = &fids->inodes.recipes;

    for (uint32_t i = 0; i < fids->inodes.used; i++) {
        struct v9_inode *inode = &fids->inodes.entries[i];
        if (inode->refs && inode->path_fd < 0)
            v9_recipes_renew(store, &inode->recipe, inode->export);
    }
    v9_recipes_clear_journal(store);
}

/* A directory has been renamed; paths are below the export's root. */
static void record(struct v9_fids *fids, uint32_t export, const char *old, const char *new)
{
    struct v9_recipe_store *store = &fids->inodes.recipes;

    pthread_mutex_lock(&fids->lock);
    if (store->count) {
        if (v9_recipes_journal_is_full(store))
            apply_journal(fids);
        v9_recipes_renamed(store, export, old, new);
    }
    pthread_mutex_unlock(&fids->lock);
}

/* ---- names of fids --------------------------------------------------------------------------- */

int v9_renames_name_of(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE])
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    uint32_t parent;
    int32_t fd = v9_fids_own_name(fids, fid, name, &parent);
    int is_entry;

    if (fd == -ENODATA)
        return v9_export_parent(fids->exports[inode->export], inode->path_fd, name);
    if (fd >= 0) {
        /* After a death the file may have lost the name already, by this request. */
        is_entry = v9_evidence_loss_is_noted() ? 1 : v9_export_is_entry(inode->path_fd, fd, name);
        fd = is_entry < 0 ? is_entry : is_entry ? v9_sys_dup(fd) : -ENOENT;
    }
    if (parent)
        v9_fids_release_inode(fids, parent);
    return fd;
}

/* ---- renaming -------------------------------------------------------------------------------- */

struct rename {
    struct v9_fids *fids;
    v9_export *ex;
    uint32_t export, concerns;
    int32_t old_dir, new_dir;
    const char *old, *new;
};

/* A rename of a directory for those whose recipes are below it. */
struct paths {
    bool known;
    char old[PATH_MAX], new[PATH_MAX];
};

/* Restores the renamed file, and finds out its paths if it is a directory. */
static int prepare(const struct rename *it, struct paths *paths)
{
    const int is_directory = before_loss(it->fids, it->old_dir, it->old);
    int from = 0, to = 0;

    if (is_directory > 0)
        from = v9_export_path(it->ex, it->old_dir, it->old, paths->old);
    if (from > 0)
        to = v9_export_path(it->ex, it->new_dir, it->new, paths->new);
    paths->known = from > 0 && to > 0;
    if (is_directory < 0)
        return is_directory;
    return v9_sys_has_failed(from) ? from : v9_sys_has_failed(to) ? to : 0;
}

/*
 * Whether a rename that succeeded has moved the file: rename(2) does nothing where both names are
 * of one file, which then still are. If the old name is there, but leads to another file, somebody
 * else has made that since, and fids must not follow the old name to it.
 *
 * The names are compared as they are now: before the call that costs more, others may change them
 * until it is made, and after a death this request itself has made it already. In doubt the file
 * has moved: fids then stand for what has the name that the guest gave it.
 */
static bool has_moved(const struct rename *it)
{
    return v9_host_are_one_file(it->old_dir, it->old, it->new_dir, it->new) <= 0;
}

/* Renames over a file that may be there; *moved: its name has changed. */
static int replace(const struct rename *it, bool *moved)
{
    int err = it->concerns ? before_loss(it->fids, it->new_dir, it->new) : 0;

    if (err >= 0)
        err = v9_rename(it->ex, it->old_dir, it->old, it->new_dir, it->new);
    *moved = !err && has_moved(it);
    return err;
}

/* Where something is evicted, renames are one at a time, to be recorded in their order. */
static int rename_and_record(const struct rename *it, bool *moved)
{
    struct paths paths;
    int err;

    v9_export_lock_names(it->ex);
    err = prepare(it, &paths);
    if (!err)
        err = replace(it, moved);
    if (!err && paths.known)
        record(it->fids, it->export, paths.old, paths.new);
    v9_export_unlock_names(it->ex);
    return err;
}

static int rename_any(const struct rename *it, bool *moved)
{
    if (it->concerns & EVICTED)
        return rename_and_record(it, moved);
    *moved = !v9_rename_to_free(it->ex, it->old_dir, it->old, it->new_dir, it->new);
    return *moved ? 0 : replace(it, moved);
}

int v9_renames_entry(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                     const struct v9_fid *into, const char *new)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    struct rename it = {
        .fids = fids,
        .ex = fids->exports[inode->export],
        .export = inode->export,
        .concerns = begin(fids, inode->export, FILES | DIRECTORIES),
        .old_dir = inode->path_fd,
        .old = old,
        .new = new,
    };
    const bool again = v9_evidence_loss_is_noted();
    char own[V9_NAME_SIZE];
    bool moved = false;
    int err;

    if (!*old) {
        it.old_dir = v9_renames_name_of(fids, fid, own);
        it.old = own;
    }
    it.new_dir = into ? v9_fids_inode(fids, into)->path_fd : it.old_dir;
    err = it.old_dir < 0 ? it.old_dir : rename_any(&it, &moved);
    if (moved)
        v9_fids_name_renamed(fids, fid, old, into, new, again);
    end(fids, it.export);
    if (!*old && it.old_dir >= 0)
        v9_budget_close(it.old_dir);
    return err;
}

/* ---- unlinking ------------------------------------------------------------------------------- */

static int unlink_entry(struct v9_fids *fids, uint32_t export, int32_t dir_fd, const char *name,
                        bool directory, bool prepared)
{
    int err = prepared ? before_loss(fids, dir_fd, name) : 0;

    return err < 0 ? err : v9_unlink(fids->exports[export], dir_fd, name, directory);
}

int v9_renames_unlink(struct v9_fids *fids, const struct v9_fid *fid, const char *name,
                      bool directory)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    const bool prepared = !!begin(fids, inode->export, directory ? DIRECTORIES : FILES);
    int err = unlink_entry(fids, inode->export, inode->path_fd, name, directory, prepared);

    if (!err)
        v9_fids_name_removed(fids, fid, name);
    end(fids, inode->export);
    return err;
}

int v9_renames_remove(struct v9_fids *fids, const struct v9_fid *fid)
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    const bool directory = S_ISDIR(inode->mode);
    const bool prepared = !!begin(fids, inode->export, directory ? DIRECTORIES : FILES);
    char name[V9_NAME_SIZE];
    const int32_t parent = v9_renames_name_of(fids, fid, name);
    int err =
        parent < 0 ? parent : unlink_entry(fids, inode->export, parent, name, directory, prepared);

    if (parent == -ENOENT && v9_evidence_loss_is_noted())
        err = 0; /* a process that died has removed it, and the name as well */
    if (!err)
        v9_fids_name_removed(fids, fid, "");
    if (parent >= 0)
        v9_budget_close(parent);
    end(fids, inode->export);
    return err;
}
