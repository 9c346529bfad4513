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
    fid->forgotten = fid->reported && fid->walked_fids && fid->io_fd == -1 && !fid->flags;
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
    if (fid->inode)
        v9_fids_inode(fids, fid)->keeps_version = false;
    if (is_alone(fids, fid)) {
        forget(&fids->entries[v9_fid_index(fids, fid) - 1]);
    } else {
        forget_among(fids, fid, 0, fids->homes);
        forget_among(fids, fid, fids->unused, fids->max);
    }
    pthread_mutex_unlock(&fids->lock);
}

void v9_fids_renew(struct v9_fids *fids)
{
    pthread_mutex_lock(&fids->lock);
    __atomic_store_n(&fids->renews, true, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&fids->lock);
}

bool v9_fids_is_reported(struct v9_fids *fids, const struct v9_fid *fid)
{
    bool reported;

    pthread_mutex_lock(&fids->lock);
    reported = fid->reported;
    pthread_mutex_unlock(&fids->lock);
    return reported;
}

bool v9_fids_report(struct v9_fids *fids, struct v9_fid *fid, struct v9_qid *qid)
{
    struct v9_inode *inode = v9_fids_inode(fids, fid);
    bool may_report;

    pthread_mutex_lock(&fids->lock);
    may_report = !fid->forgotten && !(fid->moved && fids->renews && v9_fid_is_by_name(fid));
    if (fid->forgotten)
        inode->keeps_version = false; /* the walk that follows renews it */
    fid->forgotten = false;
    if (may_report) {
        fid->reported = true;
        v9_inode_renew_version(inode, qid->version);
        inode->keeps_version = S_ISREG(inode->mode);
        *qid = v9_inode_qid(inode);
    }
    pthread_mutex_unlock(&fids->lock);
    return may_report;
}
