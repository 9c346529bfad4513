/*
 * by_name: fids stand for names, until they are opened.
 *
 * Linux's client keeps a fid for each directory entry that a process of the guest has in use, and
 * asks for nothing by name as long as it has that: it clones the fid, walks on from it, asks for
 * its attributes. If fids were files, a guest whose process holds a file open, or stands in a
 * directory, would go on seeing what the host has long replaced. So a fid is looked at before it is
 * used. Each component of its name, from the export's root on, is asked for in the directory above
 * it, whose descriptor is held: one statx(2) each, which opens nothing and follows nothing. Where
 * the file is the one that the name led to before, that is all. Where it is another one, a step is
 * taken to it as of a walk, the name leads there from now on, and so does the fid.
 *
 * What was looked at is believed for V9_BELIEF, which is less than it takes to tell a guest that
 * something on the host has changed. So a directory from which many files are asked for is looked
 * at once for all of them, and a fid that was just walked to not at all. Where the attributes are
 * wanted, the look at the last component is the statx that is needed anyway.
 *
 * What the guest itself does to names is told to the dentries (fid/renames.c) and changes no fid: a
 * file that it unlinks stays what its fids stand for, one that it renames has another name. While
 * such a change goes on a name may be found missing that is just moving: that is looked at again.
 *
 * Open fids, and those of extended attributes on their way, stay what they are.
 */
#define _GNU_SOURCE
#include "p9/lookup.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/ctime.h"
#include "fid/enter.h"
#include "mapped/mapped.h"
#include "p9/handler.h"

enum {
    LEVELS = 64,         /* that are looked at without asking again which are to be */
    PATIENCE = 1000,     /* times, 1 ms each, that a change of names is waited for */
    AGAIN = -4096 - 500, /* no errno: other threads have changed something */
};

/* One look at a name. */
struct look {
    struct v9_device *dev;
    struct v9_request *r;
    struct v9_use *use; /* gets the attributes of all that is looked at, of `leaf` last */
    v9_export *ex;
    uint32_t leaf;
    uint64_t now;
    uint32_t moves;          /* moment of ex->moves */
    uint32_t above;          /* inode of the directory that is looked into, pinned; 0: the root */
    uint32_t lost;           /* that directory's dentry, whose inode is not to be had again; or 0 */
    int32_t fd;              /* its descriptor */
    char name[V9_NAME_SIZE]; /* what is looked for in it */
};

static struct v9_dentry *dentry_at(const struct look *look, uint32_t at)
{
    return v9_dentry_at(&look->dev->fids.dentries, at);
}

static bool is_believed(const struct v9_dentry *dentry, uint64_t now)
{
    return now - __atomic_load_n(&dentry->checked, __ATOMIC_RELAXED) < V9_BELIEF ||
           __atomic_load_n(&dentry->fixed, __ATOMIC_RELAXED);
}

/* Collects what is to be looked at, from `at` up; of many levels the upper ones. Splits names of
 * several components. The lock is held. */
static uint32_t collect(const struct look *look, uint32_t at, uint32_t levels[LEVELS])
{
    struct v9_dentries *dentries = &look->dev->fids.dentries;
    uint32_t count = 0;

    for (; !is_believed(dentry_at(look, at), look->now); at = dentry_at(look, at)->parent) {
        if (dentry_at(look, at)->compound)
            v9_dentry_split_all(dentries);
        levels[count++ % LEVELS] = at;
    }
    return count;
}

/* Holds the directory above a dentry, and notes its name. The lock is held, and may be released
 * meanwhile. */
static int hold_above(struct look *look, uint32_t at)
{
    const struct v9_dentry *dentry = dentry_at(look, at);
    const uint32_t above = dentry->parent;

    if (dentry->fixed || dentry->compound || dentry->size >= sizeof(look->name))
        return AGAIN;
    look->fd = v9_fids_acquire_parent(&look->dev->fids, at, look->name, &look->above);
    if (look->fd == -ESTALE && !dentry_at(look, above)->fixed) {
        look->lost = above;
        return AGAIN;
    }
    return look->fd < 0 ? look->fd : 0;
}

/* Notes the time of change of a file that was just looked at by name. */
static void settle(const struct look *look, struct v9_dentry *dentry)
{
    const struct v9_attr *attr = &look->use->attr;
    const bool sure = look->ex->ctime_is_reliable && attr->st_dev == look->ex->root_dev;

    dentry->settled = sure ? v9_ctime_settled(attr, look->use->moment) : 0;
    dentry->rebound = look->dev->fids.dentries.rebound;
}

/* What the name led to before is what it leads to. The lock is held. */
static bool is_unchanged(struct look *look, uint32_t at)
{
    const uint32_t inode = dentry_at(look, at)->inode;

    if (!inode || !v9_inode_is_file(&look->dev->fids.inodes, inode, &look->use->attr))
        return false;
    __atomic_store_n(&dentry_at(look, at)->checked, look->now, __ATOMIC_RELAXED);
    settle(look, dentry_at(look, at));
    return true;
}

/* Whether the guest changed names while this one was looked at. */
static bool is_moving(const struct look *look)
{
    return v9_seqcount_read_retry(&look->ex->moves, look->moves);
}

/* Has the name lead to a file that was stepped to. */
static int bind(struct look *look, uint32_t at, const struct v9_found *found)
{
    struct v9_fids *fids = &look->dev->fids;
    V9_DEFERRED(before);
    uint32_t inode;
    int err = v9_fids_acquire_found(fids, found, &inode);

    if (err)
        return err;
    pthread_mutex_lock(&fids->lock);
    if (is_moving(look) || dentry_at(look, at)->fixed) {
        v9_inodes_release(&fids->inodes, inode, &before);
        err = AGAIN;
    } else {
        v9_dentry_bind(&fids->dentries, at, inode, look->now, &before);
    }
    pthread_mutex_unlock(&fids->lock);
    v9_fids_finish(fids, &before);
    return err;
}

/* Steps to what has the name now. */
static int step(struct look *look, uint32_t at)
{
    const uint32_t moment = v9_mapped_read_begin(look->ex);
    struct v9_found found = {-1, -1, look->ex->index, &look->use->attr};
    v9_export *where = look->ex;
    int err;

    found.path_fd = v9_export_step(&where, V9_NO_ID, look->fd, look->name);
    if (found.path_fd < 0)
        return found.path_fd;
    err = where == look->ex ? 0 : -ESTALE; /* walks that cross have no such names */
    if (!err) {
        found.meta_fd = v9_mapped_stepped(where, look->fd, look->name, found.path_fd, moment);
        err = v9_p9_attr(where, look->r, found.path_fd, found.meta_fd, &look->use->attr);
    }
    if (!err)
        err = bind(look, at, &found);
    else
        v9_found_close(&found);
    return err;
}

/* What was looked for is not what it was: steps to it. */
static int look_again(struct look *look, uint32_t at, int err)
{
    if (!err || err == -ESTALE)
        err = step(look, at);
    if (look->lost)
        v9_fids_invalidate_name(&look->dev->fids, look->lost);
    if (look->above)
        v9_fids_release_inode(&look->dev->fids, look->above);
    return err < 0 && err > -V9_NO_DEVICE && is_moving(look) ? AGAIN : err;
}

/* Looks at one name; those above it are right. The lock is held, but released meanwhile. */
static int look_at(struct look *look, uint32_t at)
{
    struct v9_fids *fids = &look->dev->fids;
    V9_DEFERRED(none); /* the dentry has a reference too */
    int err;

    look->above = look->lost = 0;
    look->use->moment = look->ex->ctime_is_reliable ? v9_ctime_now() : 0;
    err = hold_above(look, at);
    pthread_mutex_unlock(&fids->lock);
    if (!err)
        err = v9_attr_look(look->ex, look->fd, look->name, &look->use->attr);
    pthread_mutex_lock(&fids->lock);
    if (at != look->leaf && is_moving(look))
        err = AGAIN; /* only the leaf is held: it may be gone */
    if (!err && is_unchanged(look, at) &&
        (!look->above || fids->inodes.entries[look->above - 1].refs > 1)) {
        if (look->above) {
            fids->inodes.entries[look->above - 1].pins--;
            v9_inodes_release(&fids->inodes, look->above, &none);
        }
        look->use->seen = at == look->leaf;
        return 0;
    }
    pthread_mutex_unlock(&fids->lock);
    err = look_again(look, at, err);
    pthread_mutex_lock(&fids->lock);
    return err;
}

/* Looks at all of a name that is not believed. The lock is held, but released meanwhile. */
static int look_at_levels(struct look *look)
{
    uint32_t levels[LEVELS], count;
    int err = 0;

    do {
        count = collect(look, look->leaf, levels);
        for (uint32_t n = count < LEVELS ? count : LEVELS; n && !err; n--) {
            err = look_at(look, levels[--count % LEVELS]);
            if (!err && n > 1 && is_moving(look))
                err = AGAIN; /* what was collected may be gone */
        }
    } while (!err && count);
    return err;
}

/* Looks at the name of a pinned fid: 0 when what it leads to is known. */
static int look_at_name(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid,
                        uint64_t now, struct v9_use *use)
{
    const struct timespec pause = {0, 1000000};
    struct look look;
    int err;

    look.dev = dev;
    look.r = r;
    look.use = use;
    look.ex = v9_inode_export(dev, v9_fids_inode(&dev->fids, fid));
    look.leaf = fid->dentry;
    look.now = now;
    for (int i = 0; i < PATIENCE; i++) {
        look.moves = v9_seqcount_read_begin(&look.ex->moves);
        pthread_mutex_lock(&dev->fids.lock);
        err = look_at_levels(&look);
        pthread_mutex_unlock(&dev->fids.lock);
        if (err != AGAIN)
            return err;
        nanosleep(&pause, NULL);
    }
    return -ESTALE; /* a host call hangs in the middle of a rename */
}

/* ---- fids --------------------------------------------------------------------------------------
 */

/* Exchanges a pin for one of what the number has become. */
static int pin_again(struct v9_device *dev, uint32_t number, struct v9_use *use)
{
    v9_fids_unpin(&dev->fids, use->fid);
    return v9_fids_pin(&dev->fids, number, &use->fid);
}

/* The ctime that a file has for as long as its name is its own, and nothing above it was found to
 * be another; 0 where that is to be asked. */
static uint64_t settled_ctime(struct v9_device *dev, const struct v9_use *use)
{
    const struct v9_dentries *dentries = &dev->fids.dentries;
    const struct v9_dentry *dentry = v9_dentry_at(dentries, use->fid->dentry);
    uint64_t settled = 0;

    pthread_mutex_lock(&dev->fids.lock);
    if (dentry->settled && dentry->rebound == dentries->rebound &&
        use->now - dentry->checked < V9_SETTLED_BELIEF && dentry->inode == use->fid->inode &&
        is_believed(v9_dentry_at(dentries, dentry->parent), use->now))
        settled = dentry->settled;
    pthread_mutex_unlock(&dev->fids.lock);
    return settled;
}

/*
 * Whether a file, whose attributes are wanted, shows by them that it has its name still. Whoever
 * renames or removes a file changes its ctime. So one look at the file itself does for both, as
 * long as its directory is looked at by name. What it does not show is that something was mounted
 * over the file: by name it is asked for once a millisecond.
 */
static bool has_kept_name(struct v9_device *dev, struct v9_use *use)
{
    v9_export *ex = v9_inode_export(dev, v9_fids_inode(&dev->fids, use->fid));
    const uint64_t settled = ex->ctime_is_reliable ? settled_ctime(dev, use) : 0;

    if (!settled)
        return false;
    use->moment = v9_ctime_now();
    use->seen = !v9_attr_look(ex, v9_fids_inode(&dev->fids, use->fid)->path_fd, "", &use->attr) &&
                use->attr.nlink && v9_ctime_settled(&use->attr, use->moment) == settled;
    return use->seen;
}

/* A fid that stands for a name comes to stand for what has it. It is pinned, and stays so unless
 * this fails. */
static int follow_name(struct v9_device *dev, struct v9_request *r, uint32_t number,
                       struct v9_use *use)
{
    const struct v9_dentry *dentry = v9_dentry_at(&dev->fids.dentries, use->fid->dentry);
    int err = 0;

    use->now = v9_dentry_now();
    if (!is_believed(dentry, use->now) && !(use->wanted && has_kept_name(dev, use)))
        err = look_at_name(dev, r, use->fid, use->now, use);
    if (!err && !__atomic_load_n(&dentry->fixed, __ATOMIC_RELAXED) &&
        __atomic_load_n(&dentry->inode, __ATOMIC_RELAXED) != use->fid->inode) {
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
    int err = v9_fids_pin(&dev->fids, number, &use->fid);

    use->seen = false;
    use->now = 0;
    if (err == -ESTALE) { /* evicted, and not found: something else may have its name */
        err = v9_fids_pin_evicted(&dev->fids, number, &use->fid);
        if (!err && !v9_fid_is_by_name(use->fid)) {
            v9_fids_unpin(&dev->fids, use->fid);
            err = -ESTALE;
        }
        if (!err) {
            v9_fids_invalidate_name(&dev->fids, use->fid->dentry);
            err = follow_name(dev, r, number, use);
        }
        if (!err)
            err = pin_again(dev, number, use);
    } else if (!err && v9_fid_is_by_name(use->fid)) {
        err = follow_name(dev, r, number, use);
    }
    if (err)
        return err;
    use->inode = v9_fids_inode(&dev->fids, use->fid);
    if (use->inode)
        return 0;
    v9_fids_unpin(&dev->fids, use->fid);
    return -EBADF;
}

int v9_p9_use(struct v9_device *dev, struct v9_request *r, uint32_t number, struct v9_use *use)
{
    use->wanted = false;
    return use_fid(dev, r, number, use);
}

/* What a request that uses a fid has not read of its file's attributes yet. */
static int complete(struct v9_device *dev, struct v9_request *r, struct v9_use *use)
{
    v9_export *ex = v9_inode_export(dev, use->inode);
    const int32_t fd = use->inode->path_fd, meta_fd = v9_inode_meta(ex, use->inode);
    struct v9_attr *attr = &use->attr;

    if (!use->seen)
        return v9_p9_attr(ex, r, fd, meta_fd, attr);
    return v9_p9_question(r, fd, attr, v9_attr_complete_held(ex, fd, meta_fd, use->moment, attr));
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

int v9_p9_passes_name_on(struct v9_device *dev, struct v9_request *r, const struct v9_fid *fid)
{
    struct v9_use use;
    uint64_t now;
    int err = 0;

    if (!fid->dentry)
        return 0;
    if (v9_fid_is_by_name(fid))
        return 1; /* it was looked at */
    now = v9_dentry_now();
    if (!is_believed(v9_dentry_at(&dev->fids.dentries, fid->dentry), now))
        err = look_at_name(dev, r, fid, now, &use);
    if (err == -V9_NO_DEVICE || err == -V9_NO_GROUP)
        return err;
    return !err && v9_fids_is_named(&dev->fids, fid);
}

/* ---- requests that Python answers --------------------------------------------------------------
 */

/* The fids of a request by whose names it works: how many. *own is one that stays the file which it
 * is, and loses or changes its name; else P9_NOFID. */
static uint32_t fids_by_name(const struct v9_request *r, uint32_t numbers[2], uint32_t *own)
{
    struct v9_in in = {r->data + P9_HEADER_SIZE, r->data + r->data_size, false};
    uint16_t size;

    *own = P9_NOFID;
    numbers[0] = v9_in_u32(&in);
    switch (r->type) {
    case P9_TSETATTR:
    case P9_TSTAT:
    case P9_TXATTRWALK:
    case P9_TXATTRCREATE:
    case P9_TCREATE:
        return in.bad ? 0 : 1;
    case P9_TWSTAT: { /* stat[n], whose name is behind 43 bytes of other fields */
        const uint8_t *name = in.at + 43;
        if (in.end - in.at < 45)
            return 0;
        if (!name[0] && !name[1])
            return 1;
        *own = numbers[0];
        return 0;
    }
    case P9_TRENAMEAT:
        v9_in_string(&in, &size);
        numbers[1] = v9_in_u32(&in);
        return in.bad ? 0 : 2;
    case P9_TLINK:
        numbers[1] = v9_in_u32(&in);
        return in.bad ? 0 : 2;
    case P9_TRENAME:
        *own = numbers[0];
        numbers[0] = v9_in_u32(&in);
        return in.bad ? 0 : 1;
    case P9_TREMOVE:
        *own = numbers[0];
        return 0;
    default:
        return 0;
    }
}

/* Looks at the name of a fid that stays the file which it is: whether it has that name still,
 * v9_names_own tells. */
static int look_only(struct v9_device *dev, struct v9_request *r, uint32_t number)
{
    struct v9_use use;
    uint64_t now = v9_dentry_now();
    int err = v9_fids_pin(&dev->fids, number, &use.fid);

    if (err)
        return 0; /* Python tells */
    if (use.fid->dentry && !is_believed(v9_dentry_at(&dev->fids.dentries, use.fid->dentry), now))
        err = look_at_name(dev, r, use.fid, now, &use);
    if (err) /* what it led to before, the guest would not reach by it */
        v9_fids_invalidate_name(&dev->fids, use.fid->dentry);
    v9_fids_unpin(&dev->fids, use.fid);
    return err == -V9_NO_DEVICE || err == -V9_NO_GROUP ? err : 0;
}

int v9_p9_prepare(struct v9_device *dev, struct v9_request *r)
{
    uint32_t numbers[2], own, count = fids_by_name(r, numbers, &own);
    struct v9_inode *inode;
    struct v9_fid *fid;
    int err;

    for (uint32_t i = 0; i < count; i++) {
        err = v9_p9_file(dev, r, numbers[i], &fid, &inode);
        if (!err)
            v9_fids_unpin(&dev->fids, fid);
        else if (err != -EBADF) /* Python tells what is wrong with it */
            return err;
    }
    return own == P9_NOFID ? 0 : look_only(dev, r, own);
}
