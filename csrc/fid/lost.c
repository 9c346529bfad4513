#define _GNU_SOURCE
#include "fid/lost.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/commit.h"
#include "base/proc.h"

/* The death is that long ago at most, in ns, when it is recovered from. */
enum { DEATH_AGO = 1000000000 };

/* ---- before recovery ------------------------------------------------------------------------- */

static void evict_fid(struct v9_fid *fid)
{
    fid->flags &= ~(uint32_t)V9_FID_LOCKS;
    if (fid->io_fd >= 0)
        fid->io_fd = V9_IO_EVICTED;
}

static void evict_inode(struct v9_inode *inode)
{
    inode->meta_fd = -1;
    if (inode->path_fd < 0)
        return;
    inode->recipe = V9_RECIPE_DUE;
    V9_COMMIT();
    inode->path_fd = -1;
}

void v9_lost_forget_descriptors(struct v9_fids *fids)
{
    v9_fid_table_recover(fids); /* to find its parts */
    for (uint32_t i = 0; i < fids->homes; i++)
        evict_fid(&fids->entries[i]);
    for (uint32_t i = fids->unused; i < fids->max; i++)
        evict_fid(&fids->entries[i]);
    for (uint32_t i = 0; i < fids->inodes.used && i < fids->inodes.max; i++)
        evict_inode(&fids->inodes.entries[i]);
    v9_recipes_lose_descriptors(&fids->inodes.recipes);
}

/* ---- exports that are not served any more ------------------------------------------------------
 */

static bool is_foreign(const struct v9_inodes *inodes, uint32_t index,
                       const bool served[V9_EXPORTS_MAX])
{
    const struct v9_inode *inode;

    if (!index || index > inodes->used || index > inodes->max)
        return false;
    inode = v9_inode_at(inodes, index);
    return inode->export >= V9_EXPORTS_MAX || !served[inode->export];
}

/* Idempotent, and in this order, since the export says that it is due. */
static void lose_inode(struct v9_inode *inode)
{
    inode->meta_fd = -1;
    inode->recipe = V9_RECIPE_NONE;
    inode->shared = inode->btime_conclusive = false;
    V9_COMMIT();
    inode->path_fd = -1;
    V9_COMMIT();
    inode->export = 0;
}

/* A fid of such a file has no name, so nothing of the export's names is reached any more. */
static void lose_file(struct v9_fids *fids, struct v9_fid *fid, const bool served[V9_EXPORTS_MAX])
{
    if (!is_foreign(&fids->inodes, fid->inode, served))
        return;
    evict_fid(fid);
    fid->dentry = 0;
}

static bool is_any_foreign(const struct v9_fids *fids, const bool served[V9_EXPORTS_MAX])
{
    for (uint32_t export = 0; export < V9_EXPORTS_MAX; export ++)
        if (!served[export] && fids->dentries.roots[export])
            return true;
    for (uint32_t index = 1; index <= fids->inodes.used && index <= fids->inodes.max; index++)
        if (is_foreign(&fids->inodes, index, served))
            return true;
    return false;
}

bool v9_lost_forget_exports(struct v9_fids *fids, const bool served[V9_EXPORTS_MAX])
{
    if (!is_any_foreign(fids, served))
        return false;
    v9_fid_table_recover(fids); /* to find its parts */
    for (uint32_t i = 0; i < fids->homes; i++)
        lose_file(fids, &fids->entries[i], served);
    for (uint32_t i = fids->unused > fids->homes ? fids->unused : fids->homes; i < fids->max; i++)
        lose_file(fids, &fids->entries[i], served);
    V9_COMMIT();
    for (uint32_t index = 1; index <= fids->inodes.used && index <= fids->inodes.max; index++)
        if (is_foreign(&fids->inodes, index, served))
            lose_inode(v9_inode_at(&fids->inodes, index));
    for (uint32_t export = 0; export < V9_EXPORTS_MAX; export ++)
        if (!served[export])
            fids->dentries.roots[export] = 0;
    return true;
}

/* ---- paths that are hidden now ------------------------------------------------------------------
 */

/* The path of a descriptor below a directory, or NULL. */
static const char *path_below(int32_t fd, const char *root, char path[PATH_MAX])
{
    const size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    char link[V9_PROC_PATH];
    ssize_t size;

    v9_proc_path(fd, link);
    size = readlink(link, path, PATH_MAX - 1);
    if (size <= 0)
        return NULL;
    path[size] = 0;
    return strncmp(path, root, length) == 0 && path[length] == '/' ? &path[length + 1] : NULL;
}

static bool is_hidden(const struct v9_inode *inode, const char *root, const v9_hidden_paths *paths)
{
    char path[PATH_MAX];
    const char *below = inode->path_fd >= 0 ? path_below(inode->path_fd, root, path) : NULL;

    return below && v9_hidden_paths_hide(paths, below);
}

void v9_lost_forget_hidden(struct v9_fids *fids, uint32_t export, const char *root,
                           const v9_hidden_paths *paths)
{
    for (uint32_t index = 1; index <= fids->inodes.used && index <= fids->inodes.max; index++) {
        struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
        if (inode->export == export && is_hidden(inode, root, paths))
            inode->export = V9_EXPORTS_MAX; /* of none that is served */
    }
}

/* ---- recipes --------------------------------------------------------------------------------- */

/* Puts a dentry's text before what is there already, from `start` on; whether there is room. */
static bool put_before(char **at, const char *start, const char *end, const char *text, size_t size)
{
    const size_t slash = *at != end;

    if ((size_t)(*at - start) < size + slash)
        return false;
    if (slash)
        *--*at = '/';
    *at -= size;
    memcpy(*at, text, size);
    return true;
}

/* The path of a dentry below the root of its export; false where it is none any more. */
static bool write_path(const struct v9_dentries *dentries, uint32_t at, struct v9_recipe *recipe)
{
    char *const end = &recipe->path[PATH_MAX - 1];
    const struct v9_dentry *dentry = at ? v9_dentry_at(dentries, at) : NULL;
    char *first = end;

    *end = 0;
    for (; dentry && !dentry->fixed; dentry = at ? v9_dentry_at(dentries, at) : NULL) {
        if (!put_before(&first, recipe->path, end, v9_dentry_text(dentries, dentry), dentry->size))
            return false;
        at = dentry->parent;
    }
    if (!dentry || dentries->roots[dentry->export] != at)
        return false;
    if (first == end)
        put_before(&first, recipe->path, end, ".", 1);
    recipe->path_size = (uint32_t)(end - first);
    memmove(recipe->path, first, recipe->path_size + 1u);
    return true;
}

static bool is_root(const struct v9_dentries *dentries, uint32_t at)
{
    return at == dentries->roots[v9_dentry_at(dentries, at)->export];
}

/* Whether a dentry has led to the file of an inode last. An export's root has no inode. */
static bool leads_to(const struct v9_fids *fids, const struct v9_dentry *dentry, uint32_t index)
{
    const struct v9_inode *inode = v9_inode_at(&fids->inodes, index), *other;

    if (!dentry->inode || dentry->inode == index)
        return true;
    other = v9_inode_at(&fids->inodes, dentry->inode);
    return other->st_ino == inode->st_ino && other->st_dev == inode->st_dev &&
           other->btime == inode->btime;
}

/* An inode that may be reopened by a dentry's name gets its recipe. */
static void settle(struct v9_fids *fids, uint32_t index, uint32_t at)
{
    const struct v9_dentry *dentry = v9_dentry_at(&fids->dentries, at);
    struct v9_inode *inode = v9_inode_at(&fids->inodes, index);
    struct v9_recipe recipe;
    uint32_t stored;

    if (inode->recipe != V9_RECIPE_DUE || inode->path_fd >= 0 || inode->export != dentry->export ||
        !leads_to(fids, dentry, index) || !write_path(&fids->dentries, at, &recipe))
        return;
    recipe.handle_type = 0;
    recipe.handle_size = 0;
    recipe.btime_conclusive = v9_recipe_is_conclusive(inode->btime, DEATH_AGO);
    if (!recipe.btime_conclusive && !is_root(&fids->dentries, at))
        return;
    stored = v9_recipes_put(&fids->inodes.recipes, &recipe);
    if (!stored)
        return;
    inode->btime_conclusive = recipe.btime_conclusive;
    V9_COMMIT();
    inode->recipe = stored;
}

/* The files of a fid's name and of the names above it, and the fid's own. */
static void settle_names(struct v9_fids *fids, const struct v9_fid *fid)
{
    if (!fid->refs || !fid->dentry)
        return;
    if (fid->inode)
        settle(fids, fid->inode, fid->dentry);
    for (uint32_t at = fid->dentry; at; at = v9_dentry_at(&fids->dentries, at)->parent)
        if (v9_dentry_at(&fids->dentries, at)->inode)
            settle(fids, v9_dentry_at(&fids->dentries, at)->inode, at);
}

/* What is due still has no name, or no proof. */
static void settle_rest(struct v9_fids *fids)
{
    for (uint32_t i = 0; i < fids->inodes.used; i++) {
        struct v9_inode *inode = &fids->inodes.entries[i];
        if (!inode->refs || inode->path_fd >= 0 || inode->recipe != V9_RECIPE_DUE)
            continue;
        inode->btime_conclusive = false;
        V9_COMMIT();
        inode->recipe = V9_RECIPE_NONE;
    }
}

static bool is_any_due(const struct v9_fids *fids)
{
    for (uint32_t i = 0; i < fids->inodes.used; i++) {
        const struct v9_inode *inode = &fids->inodes.entries[i];
        if (inode->refs && inode->path_fd < 0 && inode->recipe == V9_RECIPE_DUE)
            return true;
    }
    return false;
}

void v9_lost_settle(struct v9_fids *fids)
{
    if (!is_any_due(fids))
        return;
    for (uint32_t i = 0; i < fids->homes; i++)
        settle_names(fids, &fids->entries[i]);
    for (uint32_t i = fids->unused > fids->homes ? fids->unused : fids->homes; i < fids->max; i++)
        settle_names(fids, &fids->entries[i]);
    settle_rest(fids);
}

/* ---- what cannot come back --------------------------------------------------------------------
 */

static bool is_lost(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return fid->refs && fid->inode && v9_inode_is_lost(v9_inode_at(&fids->inodes, fid->inode));
}

uint32_t v9_lost_count(const struct v9_fids *fids)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < fids->homes; i++)
        count += is_lost(fids, &fids->entries[i]);
    for (uint32_t i = fids->unused > fids->homes ? fids->unused : fids->homes; i < fids->max; i++)
        count += is_lost(fids, &fids->entries[i]);
    return count;
}
