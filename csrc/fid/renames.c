#define _GNU_SOURCE
#include "fid/renames.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "export/containment.h"
#include "fid/restore.h"

int v9_renames_begin(struct v9_fids *fids, uint32_t export, uint32_t kinds)
{
    const struct v9_inodes *inodes = &fids->inodes;
    int concerned;

    v9_seqcount_change(&fids->exports[export]->moves, true);
    pthread_mutex_lock(&fids->lock);
    concerned = inodes->recipes.count > 0 || (kinds & V9_NAMES_FILE && inodes->cacheable[0]) ||
                (kinds & V9_NAMES_DIRECTORY && inodes->cacheable[1]);
    pthread_mutex_unlock(&fids->lock);
    return concerned;
}

void v9_renames_end(struct v9_fids *fids, uint32_t export)
{
    v9_seqcount_change(&fids->exports[export]->moves, false);
}

int v9_renames_before_loss(struct v9_fids *fids, uint32_t export, int32_t fd, const char *name)
{
    struct v9_identity is;
    uint64_t nlink;
    uint32_t mode;
    int err;

    if (fd < 0)
        fd = fids->exports[export]->conf.root_fd;
    if (v9_host_identify(fd, name, &is, &mode, &nlink))
        return 0;
    pthread_mutex_lock(&fids->lock);
    err = v9_restore_before_loss(fids, is.st_dev, is.st_ino);
    pthread_mutex_unlock(&fids->lock);
    return err ? err : S_ISDIR(mode);
}

/* Applies the full journal to all recipes, and empties it. The lock is held. */
static void apply_journal(struct v9_fids *fids)
{
    struct v9_recipe_store *store = &fids->inodes.recipes;

    for (uint32_t i = 0; i < fids->inodes.used; i++) {
        struct v9_inode *inode = &fids->inodes.entries[i];
        if (inode->refs && inode->path_fd < 0)
            inode->recipe = v9_recipes_renew(store, inode->recipe, inode->export);
    }
    v9_recipes_clear_journal(store);
}

void v9_renames_directory(struct v9_fids *fids, uint32_t export, const char *old, const char *new)
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

int v9_renames_name_of(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE])
{
    const struct v9_inode *inode = v9_fids_inode(fids, fid);
    uint32_t parent;
    int32_t fd = v9_fids_own_name(fids, fid, name, &parent);

    if (fd == -ENODATA)
        return v9_export_parent(fids->exports[inode->export], inode->path_fd, name);
    if (fd >= 0)
        fd = v9_export_is_entry(inode->path_fd, fd, name) ? v9_sys_dup(fd) : -ENOENT;
    if (parent)
        v9_fids_release_inode(fids, parent);
    return fd;
}

/* Whether the file has its old name still, since rename(2) does nothing where both are of one. */
static bool is_there(struct v9_fids *fids, const struct v9_fid *fid, const char *name)
{
    char own[V9_NAME_SIZE];
    struct v9_attr attr;
    uint32_t parent = 0;
    int32_t fd =
        *name ? v9_fids_inode(fids, fid)->path_fd : v9_fids_own_name(fids, fid, own, &parent);
    bool is = fd >= 0 && !v9_host_stat(fd, *name ? name : own, &attr);

    if (parent)
        v9_fids_release_inode(fids, parent);
    return is;
}

void v9_renames_entry(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                      const struct v9_fid *into, const char *new)
{
    if (!is_there(fids, fid, old))
        v9_fids_name_renamed(fids, fid, old, into, new);
}
