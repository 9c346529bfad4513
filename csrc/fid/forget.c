#define _GNU_SOURCE
#include "fid/forget.h"

#include "fid/fid.h"

/* Whether two fids are of one file, or of one name. */
static bool are_related(const struct v9_fid *one, const struct v9_fid *other)
{
    return one->inode == other->inode || (one->dentry && one->dentry == other->dentry);
}

static void forget(struct v9_fid *fid)
{
    fid->forgotten = fid->walked_fids && fid->io_fd == -1 && !fid->flags;
}

/* Whether no other fid is related to it: the references are its own, and the name's. */
static bool is_alone(struct v9_fids *fids, const struct v9_fid *fid)
{
    const uint32_t refs = v9_fids_inode(fids, fid)->refs;
    const struct v9_dentry *dentry;

    if (!fid->dentry)
        return refs == 1;
    dentry = v9_dentry_at(&fids->dentries, fid->dentry);
    return dentry->refs == 1 && refs == 1u + (dentry->inode == fid->inode);
}

static void forget_among(struct v9_fids *fids, const struct v9_fid *like, uint32_t from,
                         uint32_t to)
{
    for (uint32_t index = from; index < to; index++) {
        struct v9_fid *fid = &fids->entries[index];
        if (fid->entered && are_related(fid, like))
            forget(fid);
    }
}

void v9_fids_forget(struct v9_fids *fids, const struct v9_fid *fid)
{
    pthread_mutex_lock(&fids->lock);
    if (is_alone(fids, fid)) {
        forget(&fids->entries[v9_fid_index(fids, fid) - 1]);
    } else {
        forget_among(fids, fid, 0, fids->homes);
        forget_among(fids, fid, fids->unused, fids->max);
    }
    pthread_mutex_unlock(&fids->lock);
}

bool v9_fids_take_forgotten(struct v9_fids *fids, uint32_t number)
{
    uint32_t index;
    bool forgotten = false;

    pthread_mutex_lock(&fids->lock);
    index = v9_fid_table_find(fids, number);
    if (index) {
        forgotten = fids->entries[index - 1].forgotten;
        fids->entries[index - 1].forgotten = false;
    }
    pthread_mutex_unlock(&fids->lock);
    return forgotten;
}
