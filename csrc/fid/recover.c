#define _GNU_SOURCE
#include "fid/recover.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "fid/fid.h"
#include "fid/lost.h"

struct recovery {
    struct v9_fids *fids;
    struct v9_arena_marks marks, values; /* of the two arenas */
};

/* Calls a function for each entry that was ever used. */
static void each_entry(struct recovery *self, void (*visit)(struct recovery *, struct v9_fid *))
{
    struct v9_fids *fids = self->fids;

    for (uint32_t index = 0; index < fids->homes; index++)
        visit(self, &fids->entries[index]);
    for (uint32_t index = fids->unused > fids->homes ? fids->unused : fids->homes;
         index < fids->max; index++)
        visit(self, &fids->entries[index]);
}

/* Of two that have a number for a moment, the young one keeps it. */
static void settle_number(struct v9_fids *fids)
{
    const bool known = fids->young <= fids->max && fids->old <= fids->max;

    if (known && fids->young && fids->old && fids->entries[fids->young - 1].entered)
        fids->entries[fids->old - 1].entered = false;
    fids->young = 0;
}

static bool has_file(struct recovery *self, const struct v9_fid *fid)
{
    if (fid->flags & V9_FID_XATTR &&
        !v9_xattr_value_recover(&self->fids->values, &self->values, fid->value))
        return false;
    if (fid->flags & V9_FID_XATTR && !fid->inode)
        return true;
    return v9_inode_recover(&self->fids->inodes, &self->marks, fid->inode);
}

/* Whether the descriptor is of the fid's file. */
static bool has_descriptor(const struct v9_fids *fids, const struct v9_fid *fid)
{
    struct stat st;

    if (fid->io_fd == -1)
        return true;
    if (!fid->inode || fid->inode > fids->inodes.used || fid->flags & V9_FID_XATTR)
        return false;
    return fid->io_fd == V9_IO_EVICTED ||
           (fstat(fid->io_fd, &st) == 0 &&
            st.st_ino == v9_inode_at(&fids->inodes, fid->inode)->st_ino);
}

/* A position in a directory is not believed: the process may have read on before it died. */
static void reopen_directory(struct v9_fids *fids, struct v9_fid *fid)
{
    struct v9_fid_dir *dir = v9_fids_dir(fids, fid);

    if (!S_ISDIR(v9_inode_at(&fids->inodes, fid->inode)->mode))
        return;
    pthread_mutex_init(&dir->lock, NULL);
    dir->offset = UINT64_MAX;
}

/* Whether its number leads to it alone. */
static bool is_found(const struct v9_fids *fids, const struct v9_fid *fid)
{
    return fid->stray ? !v9_fid_table_find(fids, fid->number)
                      : fid->number == v9_fid_index(fids, fid) - 1;
}

static void recover_fid(struct recovery *self, struct v9_fid *fid)
{
    struct v9_fids *fids = self->fids;

    if (!fid->entered || !is_found(fids, fid) || !has_descriptor(fids, fid) ||
        !has_file(self, fid)) {
        v9_fid_table_set_free(fids, fid);
        return;
    }
    fid->refs = 1;
    fid->flags &= ~(uint32_t)V9_FID_ENDING;
    fid->io_restoring = fid->listed = false;
    fids->live++;
    if (!v9_dentry_recover(&fids->dentries, &self->marks, fid->dentry, v9_fid_index(fids, fid)))
        fid->dentry = 0;
    if (fid->io_fd != -1) {
        v9_inode_at(&fids->inodes, fid->inode)->open_fids++;
        reopen_directory(fids, fid);
    }
    if (fid->io_fd >= 0)
        v9_list_append(&fids->open_io, v9_fid_index(fids, fid));
    if (fid->inode)
        v9_inode_at(&fids->inodes, fid->inode)->walked_fids += fid->walked_fids;
    v9_fid_table_publish(fids, fid);
}

static void recover(struct recovery *self)
{
    struct v9_fids *fids = self->fids;

    pthread_mutex_init(&fids->lock, NULL);
    pthread_cond_init(&fids->restored, NULL);
    memset(fids->inodes.quotas, 0, sizeof(fids->inodes.quotas)); /* they went with their process */
    v9_fid_table_recover(fids);
    v9_xattr_values_recover(&fids->values);
    v9_recipes_recover(&fids->inodes.recipes, &self->marks);
    v9_inodes_recover_begin(&fids->inodes);
    v9_dentries_recover(&fids->dentries, &self->marks);
    settle_number(fids);
    each_entry(self, recover_fid);
    v9_inodes_recover_end(&fids->inodes);
    v9_recipes_recover_end(&fids->inodes.recipes);
    v9_arena_keep(&fids->inodes.recipes.arena, &self->marks);
    v9_arena_keep(&fids->values.arena, &self->values);
    v9_lost_settle(fids);
}

int v9_fids_recover(struct v9_fids *fids)
{
    struct recovery self = {.fids = fids};
    const bool possible = v9_arena_marks_init(&self.marks, &fids->inodes.recipes.arena) &&
                          v9_arena_marks_init(&self.values, &fids->values.arena);

    if (possible)
        recover(&self);
    v9_arena_marks_free(&self.marks);
    v9_arena_marks_free(&self.values);
    return possible ? 0 : -ENOMEM;
}

static void adopt(void *context, int32_t fd)
{
    const struct v9_fids *fids = context;

    v9_budget_adopt(fd, fids->inodes.account);
}

int v9_fids_resume(struct v9_fids *fids, v9_export *const *exports,
                   const struct v9_shrinker_ops *ops)
{
    const int err = v9_fids_serve(fids, exports, ops);

    if (!err)
        v9_fids_list_descriptors(fids, adopt, fids);
    return err;
}

void v9_fids_list_descriptors(const struct v9_fids *fids, void (*owns)(void *context, int32_t fd),
                              void *context)
{
    const struct v9_inodes *inodes = &fids->inodes;
    uint32_t index;

    for (index = inodes->open.first; index; index = v9_inode_at(inodes, index)->lru.after) {
        owns(context, v9_inode_at(inodes, index)->path_fd);
        if (v9_inode_at(inodes, index)->meta_fd >= 0)
            owns(context, v9_inode_at(inodes, index)->meta_fd);
    }
    for (index = fids->open_io.first; index; index = fids->entries[index - 1].io_lru.after)
        owns(context, fids->entries[index - 1].io_fd);
    for (int i = 0; i < V9_ANCHORS_MAX; i++)
        if (inodes->recipes.anchors[i].users && inodes->recipes.anchors[i].fd >= 0)
            owns(context, inodes->recipes.anchors[i].fd);
}
