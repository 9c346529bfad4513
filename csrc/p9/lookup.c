/*
 * lookup: fids stand for names, until they are opened.
 *
 * Linux's client keeps a fid for each directory entry that a process of the guest uses, and walks
 * to the name no more while it has that fid: it clones the fid, walks on from it, asks for its
 * attributes. If such a fid stood for a file, the guest would keep seeing files that the host has
 * replaced, as long as a process has them open or works in their directory. So the name of a fid is
 * checked before the fid is used. Each component, from the export's root on, takes one statx(2) in
 * its parent directory, whose descriptor is acquired; this opens no file and follows no symlink. If
 * the component still names the same file, the check is done. If it names another one, a step of a
 * walk leads to that file, and the dentry and the fid stand for it from now on.
 *
 * The result of a check is trusted for V9_BELIEF, which is less time than it takes to notify a
 * guest of a change on the host. So a directory is checked once for many of its files, and a fid
 * that was just walked to is not checked at all. If a request needs attributes, the check of the
 * last component is the statx that it needs anyway.
 *
 * The guest's own changes of names are applied to the dentries (fid/renames.c) and change no fid:
 * after an unlink, fids still stand for the unlinked file; after a rename, they have the new name.
 * During such a change, a name may be missing because it is moving; the check is then repeated.
 *
 * Open fids, and fids of extended attributes that are being transferred, keep their file. Where the
 * client has asked for it (fid/forget.h), the fid of a file does so for Tgetattr, which finds
 * nothing then, and for Twalk, whose clone is to be opened: pages that are read by it are the same
 * file's.
 */
#define _GNU_SOURCE
#include "p9/lookup.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/ctime.h"
#include "base/evidence.h"
#include "base/refusal.h"
#include "base/sys.h"
#include "export/dir_marks.h"
#include "fid/enter.h"
#include "fid/forget.h"
#include "mapped/mapped.h"
#include "p9/handler.h"

enum {
    LEVELS = 64,         /* checked before the list of levels is collected again */
    PATIENCE = 1000,     /* waits of 1 ms for a change of names */
    AGAIN = -4096 - 500, /* no errno: another thread has changed something, repeat the check */
};

/* The check of one name. */
struct lookup {
    struct v9_device *dev;
    struct v9_request *r;
    struct v9_use *use; /* receives the attributes of each level, of `leaf` last */
    v9_export *ex;
    uint32_t leaf;
    uint64_t now;
    uint32_t moves;          /* seqcount of ex->moves */
    uint32_t rebound;        /* dentries.rebound before the parent was acquired */
    uint32_t above;          /* inode of the parent directory, pinned; 0: the root */
    int32_t fd;              /* the parent's descriptor */
    char name[V9_NAME_SIZE]; /* the name in it */
};

static struct v9_dentry *dentry_at(const struct lookup *lookup, uint32_t at)
{
    return v9_dentry_at(&lookup->dev->fids.dentries, at);
}

/* Whether a dentry has to be checked: the leaf also where its directory is not known, since a walk
 * of several names has only passed that. */
static bool is_due(const struct lookup *lookup, uint32_t at)
{
    const struct v9_dentry *dentry = dentry_at(lookup, at), *above;

    if (!v9_dentry_is_fresh(dentry, lookup->now))
        return true;
    if (at != lookup->leaf || dentry->fixed)
        return false;
    above = dentry_at(lookup, dentry->parent);
    return dentry->compound || (!above->fixed && !above->inode);
}

/* Collects the dentries to be checked, from `at` up; if there are more than LEVELS, the upper ones.
 * Splits names of several components. The lock is held. */
static uint32_t collect(const struct lookup *lookup, uint32_t at, uint32_t levels[LEVELS])
{
    struct v9_dentries *dentries = &lookup->dev->fids.dentries;
    uint32_t count = 0;

    for (; is_due(lookup, at); at = dentry_at(lookup, at)->parent) {
        if (dentry_at(lookup, at)->compound)
            v9_dentry_split_all(dentries);
        levels[count++ % LEVELS] = at;
    }
    return count;
}

/* Whether the guest changed names during the check. */
static bool names_changed(const struct lookup *lookup)
{
    return v9_seqcount_read_retry(&lookup->ex->moves, lookup->moves);
}

/* The parent's pinned file cannot be reopened: its dentry forgets it, for the name to be walked to
 * again, unless another thread has found another file by it meanwhile. The lock is held. */
static void forget_parent(const struct lookup *lookup, uint32_t above)
{
    V9_DEFERRED(none); /* the check has a reference too */

    if (dentry_at(lookup, above)->inode == lookup->above)
        v9_dentry_bind(&lookup->dev->fids.dentries, above, 0, 0, &none);
}

/* Acquires the parent directory of a dentry, and copies the dentry's name. The lock is held, and
 * may be released meanwhile. */
static int acquire_parent(struct lookup *lookup, uint32_t at)
{
    const struct v9_dentry *dentry = dentry_at(lookup, at);
    const uint32_t above = dentry->parent;

    if (dentry->fixed || dentry->compound || dentry->size >= sizeof(lookup->name))
        return AGAIN;
    lookup->fd = v9_fids_acquire_parent(&lookup->dev->fids, at, lookup->name, &lookup->above);
    if (lookup->fd != -ESTALE)
        return lookup->fd < 0 ? lookup->fd : 0;
    if (names_changed(lookup))
        return AGAIN; /* the parent's dentry, which only its children hold, may be gone */
    if (dentry_at(lookup, above)->fixed)
        return -ESTALE;
    forget_parent(lookup, above);
    return AGAIN;
}

/* Stores the ctime of a file that was just checked by name. */
static void note_ctime(const struct lookup *lookup, struct v9_dentry *dentry)
{
    const struct v9_attr *attr = &lookup->use->attr;
    const bool sure = lookup->ex->ctime_shows_renames && attr->st_dev == lookup->ex->root_dev &&
                      !lookup->ex->overrides;

    dentry->settled = sure ? v9_ctime_settled(attr, lookup->use->ctime_now) : 0;
    dentry->rebound = lookup->rebound;
}

/* Whether the name still leads to the same file. The lock is held. */
static bool is_unchanged(struct lookup *lookup, uint32_t at)
{
    const uint32_t inode = dentry_at(lookup, at)->inode;

    if (!inode || !v9_inode_is_file(&lookup->dev->fids.inodes, inode, &lookup->use->attr))
        return false;
    __atomic_store_n(&dentry_at(lookup, at)->checked, lookup->now, __ATOMIC_RELAXED);
    note_ctime(lookup, dentry_at(lookup, at));
    return true;
}

/* Binds the name to the file that a step has led to. */
static int bind(struct lookup *lookup, uint32_t at, const struct v9_found *found)
{
    struct v9_fids *fids = &lookup->dev->fids;
    V9_DEFERRED(before);
    uint32_t inode;
    int err = v9_fids_acquire_found(fids, found, &inode);

    if (err)
        return err;
    pthread_mutex_lock(&fids->lock);
    if (names_changed(lookup) || dentry_at(lookup, at)->fixed) {
        v9_inodes_release(&fids->inodes, inode, &before);
        err = AGAIN;
    } else {
        v9_dentry_bind(&fids->dentries, at, inode, lookup->now, &before);
    }
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &before);
    return err;
}

/* Takes a step to the file that has the name now, and binds the name to it. */
static int step(struct lookup *lookup, uint32_t at)
{
    const uint32_t seq = v9_mapped_read_begin(lookup->ex);
    struct v9_found found = {-1, -1, lookup->ex->index, &lookup->use->attr};
    v9_export *where = lookup->ex;
    int err;

    found.path_fd = v9_export_step(&where, V9_NO_ID, lookup->fd, lookup->name);
    if (found.path_fd < 0)
        return found.path_fd;
    err = where == lookup->ex ? 0 : -ESTALE; /* names do not cross into another export */
    if (!err) {
        found.meta_fd = v9_mapped_stepped(where, lookup->fd, lookup->name, found.path_fd, seq);
        err = v9_p9_attr(where, lookup->r, found.path_fd, found.meta_fd, &lookup->use->attr);
    }
    if (err) {
        v9_found_close(&found);
        return err;
    }
    v9_dir_marks_reached(where, found.path_fd, &lookup->use->attr);
    return bind(lookup, at, &found);
}

/* The name leads to another file, or the check has failed: takes a step if that may help. */
static int rebind(struct lookup *lookup, uint32_t at, int err)
{
    if (!err || (err == -ESTALE && lookup->fd >= 0))
        err = step(lookup, at);
    if (lookup->above)
        v9_fids_release_inode(&lookup->dev->fids, lookup->above);
    return err < 0 && err > -V9_NO_DEVICE && names_changed(lookup) ? AGAIN : err;
}

/* Checks one component; those above it are up to date. The lock is held, but released meanwhile. */
static int check_level(struct lookup *lookup, uint32_t at)
{
    struct v9_fids *fids = &lookup->dev->fids;
    V9_DEFERRED(none); /* the dentry has a reference too */
    int err;

    lookup->above = 0;
    lookup->use->ctime_now = lookup->ex->ctime_is_reliable ? v9_ctime_now() : 0;
    lookup->rebound = fids->dentries.rebound;
    err = acquire_parent(lookup, at);
    pthread_mutex_unlock(&fids->lock);
    if (!err)
        err = v9_attr_stat(lookup->ex, lookup->fd, lookup->name, &lookup->use->attr);
    pthread_mutex_lock(&fids->lock);
    if (at != lookup->leaf && names_changed(lookup))
        err = AGAIN; /* only the leaf is sure to exist still */
    if (!err && is_unchanged(lookup, at) &&
        (!lookup->above || fids->inodes.entries[lookup->above - 1].refs > 1)) {
        if (lookup->above) {
            fids->inodes.entries[lookup->above - 1].pins--;
            v9_inodes_release(&fids->inodes, lookup->above, &none);
        }
        lookup->use->seen = at == lookup->leaf;
        return 0;
    }
    pthread_mutex_unlock(&fids->lock);
    err = rebind(lookup, at, err);
    pthread_mutex_lock(&fids->lock);
    return err;
}

/* Checks all components that are due. The lock is held, but released meanwhile. */
static int check_levels(struct lookup *lookup)
{
    uint32_t levels[LEVELS], count;
    int err = 0;

    do {
        count = collect(lookup, lookup->leaf, levels);
        for (uint32_t n = count < LEVELS ? count : LEVELS; n && !err; n--) {
            err = check_level(lookup, levels[--count % LEVELS]);
            if (!err && n > 1 && names_changed(lookup))
                err = AGAIN; /* collected dentries may be gone */
        }
    } while (!err && count);
    return err;
}

/* Checks the name of a pinned fid; 0: its dentry is up to date. */
static int check_name(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid,
                      uint64_t now, struct v9_use *use)
{
    const struct timespec pause = {0, 1000000};
    struct lookup lookup;
    int err;

    lookup.dev = dev;
    lookup.r = r;
    lookup.use = use;
    lookup.ex = v9_inode_export(dev, v9_fids_inode(&dev->fids, fid));
    lookup.leaf = fid->dentry;
    lookup.now = now;
    for (int i = 0; i < PATIENCE; i++) {
        lookup.moves = v9_seqcount_read_begin(&lookup.ex->moves);
        pthread_mutex_lock(&dev->fids.lock);
        err = check_levels(&lookup);
        pthread_mutex_unlock(&dev->fids.lock);
        if (err != AGAIN)
            return err;
        nanosleep(&pause, NULL);
    }
    return -ESTALE; /* a system call of the host hangs during a rename */
}

/* ---- fids ------------------------------------------------------------------------------------ */

/* Unpins the fid, and pins the one that has its number now. */
static int pin_again(struct v9_device *dev, uint32_t number, struct v9_use *use)
{
    use->seen = false; /* attributes of what it stood for */
    v9_fids_unpin(&dev->fids, use->fid);
    return v9_fids_pin(&dev->fids, number, &use->fid);
}

/*
 * Whether a file's attributes prove that it still has its name, by the ctime that it had when the
 * name was checked. Renaming or removing a file changes its ctime. So while its directory is
 * checked by name, one stat of the file itself returns its attributes and checks its name. It does
 * not detect mounts over the file that come or go, so a check by name follows every
 * V9_SETTLED_BELIEF.
 */
static bool has_kept_name(struct v9_device *dev, struct v9_use *use, uint64_t settled)
{
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, use->fid);

    if (!settled || !use->wanted)
        return false;
    use->ctime_now = v9_ctime_now();
    use->seen = !v9_attr_stat(v9_inode_export(dev, inode), inode->path_fd, "", &use->attr) &&
                use->attr.nlink && v9_ctime_settled(&use->attr, use->ctime_now) == settled;
    return use->seen;
}

/* Whether a request finds a fid with the file that it has, though another one has its name. */
static bool keeps_file(struct v9_device *dev, const struct v9_request *r, const struct v9_fid *fid)
{
    if (!v9_fids_keeps_file(&dev->fids, fid))
        return false;
    return r->type == P9_TWALK || (r->type == P9_TGETATTR && v9_fids_is_reported(&dev->fids, fid));
}

/* Brings a pinned fid that stands for a name up to date; `settled` as of v9_fids_pin_settled. On
 * failure it is unpinned. */
static int follow_name(struct v9_device *dev, struct v9_request *r, uint32_t number,
                       uint64_t settled, struct v9_use *use)
{
    const struct v9_dentry *dentry = v9_dentry_at(&dev->fids.dentries, use->fid->dentry);
    int err = 0;

    if (!v9_dentry_is_fresh(dentry, use->now) && !has_kept_name(dev, use, settled))
        err = check_name(dev, r, use->fid, use->now, use);
    if (!err && !__atomic_load_n(&dentry->fixed, __ATOMIC_RELAXED) &&
        __atomic_load_n(&dentry->inode, __ATOMIC_RELAXED) != use->fid->inode) {
        if (keeps_file(dev, r, use->fid)) {
            use->seen = false; /* attributes of the other */
            if (r->type == P9_TWALK)
                return 0;
            v9_fids_unpin(&dev->fids, use->fid);
            return v9_refuse(ENOENT, V9_REFUSED_FORGOTTEN, 0);
        }
        err = v9_fids_move(&dev->fids, use->fid);
        if (err > 0)
            return pin_again(dev, number, use);
    }
    if (err)
        v9_fids_unpin(&dev->fids, use->fid);
    return err;
}

static int use_fid(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use)
{
    uint64_t settled;
    int err;

    use->seen = false;
    use->now = v9_dentry_now();
    err = v9_fids_pin_settled(&dev->fids, number, use->now, &use->fid, &settled);
    if (err == -ESTALE) { /* evicted and not found: another file may have its name */
        err = v9_fids_pin_evicted(&dev->fids, number, &use->fid);
        if (!err && !v9_fid_is_by_name(use->fid)) {
            v9_fids_unpin(&dev->fids, use->fid);
            err = -ESTALE;
        }
        if (!err) {
            v9_fids_invalidate_name(&dev->fids, use->fid->dentry);
            err = follow_name(dev, r, number, 0, use);
        }
        if (!err)
            err = pin_again(dev, number, use);
    } else if (!err && v9_fid_is_by_name(use->fid)) {
        err = follow_name(dev, r, number, settled, use);
    }
    if (err)
        return err;
    use->inode = v9_fids_inode(&dev->fids, use->fid);
    err = use->inode ? v9_p9_check_place(dev, use->fid, use->inode) : -EBADF;
    if (err)
        v9_fids_unpin(&dev->fids, use->fid);
    return err;
}

int v9_p9_use(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use)
{
    use->wanted = false;
    return use_fid(dev, r, number, use);
}

/* Reads the attributes of a pinned fid's file, or those that its check has not read. */
static int complete(struct v9_device *dev, struct v9_request *r, struct v9_use *use)
{
    v9_export *ex = v9_inode_export(dev, use->inode);
    const int32_t fd = use->inode->path_fd, meta_fd = v9_inode_meta(ex, use->inode);
    struct v9_attr *attr = &use->attr;

    if (!use->seen)
        return v9_p9_attr(ex, r, fd, meta_fd, attr);
    return v9_p9_question(r, fd, attr,
                          v9_attr_complete_held(ex, fd, meta_fd, use->ctime_now, attr));
}

int v9_p9_use_attr(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use)
{
    int err;

    use->wanted = true;
    err = use_fid(dev, r, number, use);
    if (err)
        return err;
    err = complete(dev, r, use);
    if (err)
        v9_fids_unpin(&dev->fids, use->fid);
    return err;
}

int v9_p9_file(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_fid **fid,
               struct v9_inode **inode)
{
    struct v9_use use;
    int err = v9_p9_use(dev, r, number, &use);

    *fid = use.fid;
    *inode = use.inode;
    return err;
}

/* Whether a check has not found out if the name still stands for the file. ESTALE says that: what
 * is above it, or the file, is not where it was. */
static bool is_unknown(int err)
{
    return err != -ESTALE && v9_sys_has_failed(err);
}

int v9_p9_has_name(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid)
{
    struct v9_use use;
    uint64_t now;
    int err = 0;

    if (!fid->dentry)
        return 0;
    if (v9_fid_is_by_name(fid))
        return 1; /* it was checked */
    now = v9_dentry_now();
    if (!v9_dentry_is_fresh(v9_dentry_at(&dev->fids.dentries, fid->dentry), now))
        err = check_name(dev, r, fid, now, &use);
    if (err == -V9_NO_DEVICE || err == -V9_NO_GROUP || is_unknown(err))
        return err;
    return !err && v9_fids_is_named(&dev->fids, fid);
}

int v9_p9_own_file(struct v9_device *dev, struct v9_request *r, uint32_t number,
                   struct v9_fid **fid)
{
    struct v9_use use;
    int err = v9_fids_pin(&dev->fids, number, fid);

    if (err || !(*fid)->dentry || v9_evidence_loss_is_noted())
        return err; /* after a death it may have lost its name, by this request */
    /* A fresh name too: its directory has to be known. */
    err = check_name(dev, r, *fid, v9_dentry_now(), &use);
    if (!err)
        return 0;
    if (!is_unknown(err))
        v9_fids_invalidate_name(&dev->fids, (*fid)->dentry);
    if (err != -V9_NO_DEVICE && err != -V9_NO_GROUP && !is_unknown(err))
        return 0; /* the guest could not reach the file by it any more */
    v9_fids_unpin(&dev->fids, *fid);
    return err;
}

/* ---- requests that Python answers ------------------------------------------------------------ */

/* The fid whose file a request uses by name, or `own`: whose own name it changes. */
static uint32_t fid_by_name(const struct v9_request *r, bool *own)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    const uint32_t number = v9_in_u32(&in);

    *own = r->type == P9_TREMOVE;
    switch (r->type) {
    case P9_TSTAT:
    case P9_TCREATE:
    case P9_TREMOVE:
        return in.bad ? P9_NOFID : number;
    case P9_TWSTAT: /* stat[n]: its name follows 43 bytes of other fields */
        if (in.end - in.at < 45)
            return P9_NOFID;
        *own = in.at[43] || in.at[44];
        return number;
    default:
        return P9_NOFID;
    }
}

int v9_p9_prepare(struct v9_device *dev, struct v9_request *r)
{
    struct v9_inode *inode;
    struct v9_fid *fid;
    bool own;
    const uint32_t number = fid_by_name(r, &own);
    int err;

    if (number == P9_NOFID)
        return 0;
    err = own ? v9_p9_own_file(dev, r, number, &fid) : v9_p9_file(dev, r, number, &fid, &inode);
    if (!err)
        v9_fids_unpin(&dev->fids, fid);
    if (err == -EBADF || (own && err != -V9_NO_DEVICE && err != -V9_NO_GROUP))
        return 0; /* Python reports it; a Tremove frees the fid first */
    return err;
}
