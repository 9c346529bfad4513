#define _GNU_SOURCE
#include "fid/fid_names.h"

#include <errno.h>
#include <string.h>

#include "fid/restore.h"
#include "quota/quota.h"

void v9_fids_finish(struct v9_fids *fids, struct v9_deferred *deferred)
{
    v9_deferred_finish(deferred);
    while (deferred->dentry) {
        V9_DEFERRED(more);
        pthread_mutex_lock(&fids->lock);
        deferred->dentry = v9_dentry_drop(&fids->dentries, deferred->dentry, &more);
        pthread_mutex_unlock(&fids->lock);
        v9_deferred_finish(&more);
    }
}

bool v9_fids_is_named(struct v9_fids *fids, const struct v9_fid *fid)
{
    bool is;

    pthread_mutex_lock(&fids->lock);
    is = fid->dentry && v9_dentry_is(&fids->dentries, fid->dentry, fid->inode);
    pthread_mutex_unlock(&fids->lock);
    return is;
}

uint32_t v9_fids_path(struct v9_fids *fids, const struct v9_fid *fid, char path[V9_FID_PATH],
                      uint8_t *known, uint8_t *cut)
{
    const struct v9_dentry *dentry;
    uint32_t begin = V9_FID_PATH, at;

    *known = *cut = false;
    pthread_mutex_lock(&fids->lock);
    for (at = fid->dentry; at && !*cut; at = dentry->parent) {
        dentry = v9_dentry_at(&fids->dentries, at);
        *known = dentry->fixed && !dentry->parent && !dentry->gone;
        if (dentry->fixed)
            break; /* a root, or no name any more */
        *cut = dentry->size + 1u > begin;
        if (*cut)
            break;
        begin -= dentry->size + 1u;
        path[begin] = '/';
        memcpy(path + begin + 1, v9_dentry_text(&fids->dentries, dentry), dentry->size);
    }
    pthread_mutex_unlock(&fids->lock);
    *known |= *cut;
    memmove(path, path + begin, V9_FID_PATH - begin);
    return V9_FID_PATH - begin;
}

void v9_fids_invalidate_name(struct v9_fids *fids, uint32_t dentry)
{
    V9_DEFERRED(deferred);

    pthread_mutex_lock(&fids->lock);
    v9_dentry_bind(&fids->dentries, dentry, 0, 0, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(&deferred);
}

void v9_found_close(const struct v9_found *found)
{
    v9_budget_close(found->path_fd);
    if (found->meta_fd >= 0)
        v9_budget_close(found->meta_fd);
}

int v9_fids_acquire_found(struct v9_fids *fids, const struct v9_found *found, uint32_t *inode)
{
    v9_quota *quota = fids->inodes.quotas[found->export];
    const int held = quota ? v9_quota_acquire(quota, found->path_fd) : 0;
    uint32_t account = held > 0 ? (uint32_t)held : 0;
    V9_DEFERRED(deferred);

    pthread_mutex_lock(&fids->lock);
    *inode = v9_inodes_acquire(&fids->inodes, found, &account, &deferred);
    pthread_mutex_unlock(&fids->lock);
    if (account)
        v9_quota_release(quota, account);
    v9_deferred_finish(&deferred);
    if (!*inode)
        v9_found_close(found);
    return *inode ? 0 : held < 0 ? held : -EMFILE;
}

void v9_fids_release_inode(struct v9_fids *fids, uint32_t inode)
{
    V9_DEFERRED(deferred);

    pthread_mutex_lock(&fids->lock);
    v9_inode_at(&fids->inodes, inode)->pins--;
    v9_inodes_release(&fids->inodes, inode, &deferred);
    pthread_mutex_unlock(&fids->lock);
    v9_deferred_finish(&deferred);
}

/* ---- the guest changes names ----------------------------------------------------------------- */

/* The dentry of a directory's fid, if that stands for what has its name; 0. */
static uint32_t directory_of(struct v9_fids *fids, const struct v9_fid *fid)
{
    return fid->dentry && v9_dentry_is(&fids->dentries, fid->dentry, fid->inode) ? fid->dentry : 0;
}

/* Of an entry of a fid's directory, or of a fid itself (*name ""): the directory's dentry, and the
 * entry's name; 0. The name is good until the dentry changes. */
static uint32_t find_entry(struct v9_fids *fids, const struct v9_fid *fid, const char **name)
{
    uint32_t at = directory_of(fids, fid);

    v9_dentry_split_all(&fids->dentries);
    if (!at || **name)
        return at;
    *name = v9_dentry_text(&fids->dentries, v9_dentry_at(&fids->dentries, at));
    return v9_dentry_at(&fids->dentries, at)->fixed ? 0 : v9_dentry_at(&fids->dentries, at)->parent;
}

void v9_fids_name_removed(struct v9_fids *fids, const struct v9_fid *fid, const char *name)
{
    char text[V9_NAME_SIZE];
    uint32_t above;

    pthread_mutex_lock(&fids->lock);
    above = find_entry(fids, fid, &name);
    if (above) {
        strcpy(text, name);
        v9_dentry_lose(&fids->dentries, above, text, true);
    }
    pthread_mutex_unlock(&fids->lock);
}

int32_t v9_fids_acquire_parent(struct v9_fids *fids, uint32_t at, char name[V9_NAME_SIZE],
                               uint32_t *inode)
{
    const struct v9_dentry *dentry = v9_dentry_at(&fids->dentries, at);
    const struct v9_dentry *above = v9_dentry_at(&fids->dentries, dentry->parent);
    struct v9_inode *held;
    int err;

    *inode = 0;
    memcpy(name, v9_dentry_text(&fids->dentries, dentry), dentry->size + 1u);
    if (!above->parent)
        return fids->exports[dentry->export]->conf.root_fd;
    if (above->gone || !above->inode)
        return -ENOENT;
    *inode = above->inode;
    held = v9_inode_at(&fids->inodes, *inode);
    held->refs++;
    held->pins++;
    err = held->path_fd < 0 ? v9_restore_inode(fids, *inode) : 0;
    return err ? err : held->path_fd;
}

int32_t v9_fids_own_name(struct v9_fids *fids, const struct v9_fid *fid, char name[V9_NAME_SIZE],
                         uint32_t *inode)
{
    const struct v9_dentry *dentry;
    int32_t fd = -ENODATA;

    *inode = 0;
    pthread_mutex_lock(&fids->lock);
    v9_dentry_split_all(&fids->dentries);
    dentry = fid->dentry ? v9_dentry_at(&fids->dentries, fid->dentry) : NULL;
    if (dentry && (dentry->gone || !v9_dentry_is(&fids->dentries, fid->dentry, fid->inode)))
        fd = -ENOENT;
    else if (dentry && !dentry->fixed)
        fd = v9_fids_acquire_parent(fids, fid->dentry, name, inode);
    pthread_mutex_unlock(&fids->lock);
    return fd;
}

void v9_fids_name_renamed(struct v9_fids *fids, const struct v9_fid *fid, const char *old,
                          const struct v9_fid *into, const char *new, bool again)
{
    char text[V9_NAME_SIZE];
    uint32_t from, to;
    V9_DEFERRED(deferred);

    pthread_mutex_lock(&fids->lock);
    from = find_entry(fids, fid, &old);
    to = into ? directory_of(fids, into) : from;
    if (from) {
        strcpy(text, old);
        /* Maybe only the name that leaves it holds it. */
        v9_dentry_at(&fids->dentries, from)->refs++;
        deferred.dentry = from;
    }
    if (from && to)
        v9_dentry_move(&fids->dentries, from, text, to, new, again);
    else if (from)
        v9_dentry_lose(&fids->dentries, from, text, false);
    else if (to)
        v9_dentry_lose(&fids->dentries, to, new, true);
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &deferred);
}
