/*
 * walk: Twalk and Treadlink; and the attributes of entries that take a step to reach, for listings
 * (p9/readdir.c).
 */
#define _GNU_SOURCE
#include "p9/walk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ctime.h"
#include "base/refusal.h"
#include "base/sightings.h"
#include "base/sys.h"
#include "export/dir_marks.h"
#include "export/hidden_names.h"
#include "export/notices.h"
#include "fid/enter.h"
#include "fid/forget.h"
#include "mapped/mapped.h"
#include "p9/handler.h"
#include "p9/lookup.h"
#include "request/reply.h"

struct walk {
    uint32_t fid, newfid;
    uint16_t count;
    struct {
        int error; /* why no file can have this name; 0: one can */
        char bytes[P9_NAME_MAX + 1];
    } names[P9_WALK_MAX];
};

/* Decodes a Twalk, and copies its names to be NUL-terminated. A name that no file can have ends the
 * walk only when the walk reaches it. */
static int decode_walk(struct v9_in *in, struct walk *walk)
{
    walk->fid = v9_in_u32(in);
    walk->newfid = v9_in_u32(in);
    walk->count = v9_in_u16(in);
    if (in->bad || walk->count > P9_WALK_MAX)
        return -EINVAL;
    for (uint16_t i = 0; i < walk->count; i++) {
        uint16_t size;
        const char *name = v9_in_string(in, &size);
        int err;
        if (in->bad)
            return -EINVAL;
        err = v9_name_check(name, size);
        walk->names[i].error = err == -EINVAL ? -ENOENT : err < 0 ? err : 0;
        if (err < 0)
            size = 0;
        memcpy(walk->names[i].bytes, name, size);
        walk->names[i].bytes[size] = 0;
    }
    return v9_in_is_done(in) ? 0 : -EINVAL;
}

/* The names from a walk's fid, or from an export's root, to the walk's current place. */
struct trail {
    int32_t root; /* index of an export; -1: from the fid */
    uint32_t ups, count;
    uint16_t names[P9_WALK_MAX]; /* indices into the walk's names */
};

/* A file on a walk's path. An inode has its descriptors, or the walk itself has. */
struct place {
    v9_export *ex;
    uint32_t uid; /* who walks */
    int32_t fd, meta_fd;
    uint32_t inode; /* index + 1, pinned; 0: none */
    uint64_t path;  /* of its qid */
};

static void release_place(struct v9_fids *fids, const struct place *place)
{
    if (place->inode) {
        v9_fids_release_inode(fids, place->inode);
        return;
    }
    v9_budget_close(place->fd);
    if (place->meta_fd >= 0)
        v9_budget_close(place->meta_fd);
}

/* Takes one step, and reads the attributes of the new place, *next. `at` is not changed. */
static int step(struct v9_request *r, const struct place *at, const char *name, struct place *next,
                struct v9_attr *attr)
{
    uint32_t seq = v9_mapped_read_begin(at->ex);
    int err;

    *next = (struct place){at->ex, at->uid, -1, -1, 0, 0};
    next->fd = v9_export_step(&next->ex, at->uid, at->fd, name);
    if (next->fd < 0)
        return next->fd;
    next->meta_fd =
        v9_mapped_stepped(next->ex, at->fd, next->ex == at->ex ? name : "..", next->fd, seq);
    err = v9_p9_attr(next->ex, r, next->fd, next->meta_fd, attr);
    if (err)
        release_place(NULL, next);
    else
        v9_dir_marks_reached(next->ex, next->fd, attr);
    return err;
}

/* Whether a step may lead to a cached inode, and should cache the one that it creates. */
static bool may_be_cached(const struct v9_fids *fids, const struct place *at, const char *name)
{
    return !at->ex->overrides && strcmp(name, "..") && !v9_export_joins(at->ex, name) &&
           v9_inodes_worth_lookup(&fids->inodes, at->ex->index, at->path, name);
}

/* Takes a step to a file that has an inode already, found by a stat: 0, -ENOENT, or -EAGAIN if the
 * file has to be opened. */
static int step_to_cached(struct v9_fids *fids, const struct place *at, const char *name,
                          struct place *next, struct v9_attr *attr)
{
    const int64_t now = v9_ctime_now();
    int err = v9_export_hides(at->ex, at->fd, name);
    bool is_same;

    if (err)
        return err < 0 ? err : v9_refuse(ENOENT, V9_REFUSED_HIDDEN, 0);
    err = v9_host_stat(at->fd, name, attr);
    if (err)
        return err == -ENOENT ? err : -EAGAIN; /* opening it reports what has failed */
    *next =
        (struct place){at->ex, at->uid, -1, -1, v9_fids_lookup_inode(fids, at->ex->index, attr), 0};
    if (!next->inode)
        return -EAGAIN;
    next->fd = fids->inodes.entries[next->inode - 1].path_fd;
    is_same = !v9_attr_complete(at->ex, next->fd, now, attr) &&
              !((attr->mode ^ fids->inodes.entries[next->inode - 1].mode) & S_IFMT);
    if (is_same) {
        v9_dir_marks_reached(at->ex, next->fd, attr);
        return 0;
    }
    /* Python has to be asked about it, or it is denied, or its metadata have another type. */
    v9_fids_release_inode(fids, next->inode);
    return -EAGAIN;
}

static int walk_step(struct v9_fids *fids, struct v9_request *r, const struct place *at,
                     const char *name, struct place *next, struct v9_attr *attr)
{
    const bool cached = may_be_cached(fids, at, name);
    int err = cached ? step_to_cached(fids, at, name, next, attr) : -EAGAIN;
    struct v9_found found;

    if (err != -EAGAIN)
        return err;
    err = step(r, at, name, next, attr);
    if (err || !cached)
        return err;
    found = (struct v9_found){next->fd, next->meta_fd, next->ex->index, attr};
    next->inode = v9_fids_acquire_inode(fids, &found);
    if (next->inode)
        next->fd = fids->inodes.entries[next->inode - 1].path_fd;
    return 0;
}

/* Adds the walk's name number `index` to the trail; a `root` other than -1 is an export that the
 * step has entered. */
static void extend_trail(struct trail *trail, const struct walk *walk, uint16_t index, int32_t root)
{
    const char *name = walk->names[index].bytes;

    if (root >= 0)
        *trail = (struct trail){.root = root};
    else if (!strcmp(name, ".."))
        *(trail->count ? &trail->count : &trail->ups) += trail->count ? UINT32_MAX : 1;
    else if (strcmp(name, "."))
        trail->names[trail->count++] = index;
}

/* Turns a trail into a route; `text` has room for its names. */
static struct v9_route route_of(const struct trail *trail, const struct walk *walk, char *text)
{
    struct v9_route route = {.root = trail->root, .ups = trail->ups, .text = text};

    if (trail->count == 1) {
        route.text = walk->names[trail->names[0]].bytes;
        route.size = (uint32_t)strlen(route.text);
        return route;
    }
    for (uint32_t i = 0; i < trail->count; i++) {
        const char *name = walk->names[trail->names[i]].bytes;
        const size_t size = strlen(name);
        if (i)
            text[route.size++] = '/';
        memcpy(text + route.size, name, size);
        route.size += (uint32_t)size;
    }
    return route;
}

/*
 * Walks component by component from *at, which the caller releases. Returns the number of steps
 * taken, and in *err the error of the next one. If all were taken, *end is a new place and *attr
 * has its attributes.
 */
static uint16_t walk_names(struct v9_fids *fids, struct v9_request *r, const struct walk *walk,
                           const struct place *at, struct v9_qid *qids, struct v9_attr *attr,
                           struct place *end, struct trail *trail, int *err)
{
    const uint64_t now = v9_ticks_now();
    struct place here = *at, next;
    uint16_t done = 0;

    *err = 0;
    while (done < walk->count) {
        *err = walk->names[done].error;
        if (!*err) {
            *err = walk_step(fids, r, &here, walk->names[done].bytes, &next, attr);
            if (*err == -ENOENT)
                v9_sightings_absent(here.fd, walk->names[done].bytes, now);
        }
        if (*err && *err != -ENOENT && *err > -V9_NO_DEVICE)
            v9_refusal_of_walk(-*err, done, here.fd, v9_export_asks_nobody(here.ex));
        if (done)
            release_place(fids, &here);
        if (*err)
            break;
        extend_trail(trail, walk, done, next.ex != here.ex ? (int32_t)next.ex->index : -1);
        here = next;
        here.path = attr->qid.path;
        qids[done++] = attr->qid;
    }
    *end = here;
    return done;
}

/* Makes newfid stand for the end of a walk. */
static int enter_newfid(struct v9_device *dev, const struct v9_fid_new *as, const struct place *end,
                        const struct v9_attr *attr, struct v9_fid *instead)
{
    const struct v9_found found = {end->fd, end->meta_fd, end->ex->index, attr};
    int err;

    if (end->inode)
        err = v9_fids_enter_inode(&dev->fids, as, end->inode, attr->qid.version, instead);
    else
        err = v9_fids_enter(&dev->fids, as, &found, instead);
    if (err)
        release_place(&dev->fids, end);
    return err;
}

/* Writes the reply, with the qids of the steps that were taken. */
static int promise_walk(struct v9_request *r, const struct v9_qid *qids, uint16_t done)
{
    const uint32_t size = P9_HEADER_SIZE + 2 + done * (uint32_t)P9_QID_SIZE;
    uint8_t reply[P9_HEADER_SIZE + 2 + P9_WALK_MAX * P9_QID_SIZE], *at;

    at = v9_put(v9_put_header(reply, size, P9_TWALK + 1, r->tag), done, 2);
    for (uint16_t i = 0; i < done; i++)
        at = v9_put_qid(at, &qids[i]);
    return v9_request_promise(r, reply, size);
}

/* A walk of no names: another fid of the same file. Returns the size of the reply. */
static int clone_fid(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid,
                     uint32_t newfid, int named)
{
    const bool by_name = named && !v9_fids_keeps_file(&dev->fids, fid);
    const int size = promise_walk(r, NULL, 0);
    const int err = v9_fids_clone(&dev->fids, fid, newfid, by_name);

    return err ? err : size;
}

/* Returns the size of the reply. */
static int walk_fid(struct v9_device *dev, struct v9_request *r, const struct walk *walk,
                    const struct v9_use *use)
{
    struct v9_qid qids[P9_WALK_MAX];
    char text[P9_WALK_MAX * (P9_NAME_MAX + 1)];
    struct v9_fid *const fid = use->fid;
    const struct v9_inode *inode = use->inode;
    struct v9_fid_new as = {walk->newfid, fid->uid, V9_FID_WALKED, -1, 0, NULL, NULL};
    const struct place start = {
        v9_inode_export(dev, inode), fid->uid, inode->path_fd, -1, 0, inode->qid.path};
    struct v9_fid *const instead = walk->newfid == walk->fid ? fid : NULL;
    struct trail trail = {.root = -1};
    struct v9_route route;
    struct v9_attr attr;
    struct place end;
    int err, named, size;
    uint16_t done;

    if (walk->count == 0 && walk->newfid == walk->fid)
        return promise_walk(r, NULL, 0);
    named = v9_p9_has_name(dev, r, fid);
    if (named < 0)
        return named;
    if (walk->count == 0)
        return clone_fid(dev, r, fid, walk->newfid, named);
    if (walk->newfid == walk->fid && (v9_fid_io(fid) >= 0 || v9_fid_flags(fid)))
        return -EBADF; /* an open fid keeps its file, for its locks and more */
    done = walk_names(&dev->fids, r, walk, &start, qids, &attr, &end, &trail, &err);
    if (err == -V9_NO_DEVICE || err == -V9_NO_GROUP)
        return err;
    /* A partial walk is no error, and creates no newfid. To Linux's client it means that there is
     * no such file, which is not known where the host has failed. */
    if (err)
        return done && !v9_sys_has_failed(err) ? promise_walk(r, qids, done) : err;
    route = route_of(&trail, walk, text);
    route.from = named ? fid->dentry : 0;
    route.now = use->now;
    as.route = &route;
    size = promise_walk(r, qids, done);
    err = enter_newfid(dev, &as, &end, &attr, instead);
    return err ? err : size;
}

int v9_p9_walk(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
               struct v9_scratch *scratch)
{
    struct v9_use use;
    struct walk walk;
    int result = decode_walk(in, &walk);

    if (!result)
        result = v9_p9_use(dev, r, walk.fid, &use);
    if (result)
        return result;
    result = walk_fid(dev, r, &walk, &use);
    v9_fids_unpin(&dev->fids, use.fid);
    return result;
}

int v9_p9_readlink(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                   struct v9_scratch *scratch)
{
    char reply[P9_HEADER_SIZE + 2 + PATH_MAX];
    uint32_t number = v9_in_u32(in), size;
    struct v9_inode *inode;
    struct v9_fid *fid;
    int length, err = v9_in_is_done(in) ? v9_p9_file(dev, r, number, &fid, &inode) : -EINVAL;

    if (err)
        return err;
    if (!S_ISLNK(inode->mode)) {
        v9_fids_unpin(&dev->fids, fid);
        return -EINVAL;
    }
    length = v9_mapped_readlink(v9_inode_export(dev, inode), inode->path_fd,
                                reply + P9_HEADER_SIZE + 2, PATH_MAX);
    v9_fids_unpin(&dev->fids, fid);
    if (length < 0)
        return length;
    size = P9_HEADER_SIZE + 2 + (uint32_t)length;
    v9_put(v9_put_header((uint8_t *)reply, size, P9_TREADLINK + 1, r->tag), (uint64_t)length, 2);
    return v9_request_reply(r, reply, size);
}

/* ".." of the guest's root is the root itself: the guest may not see what is above. A user whom a
 * joined export does not admit sees the attributes of the directory that the export covers. */
int v9_p9_attr_by_step(v9_export *ex, struct v9_request *r, const struct v9_fid *fid,
                       const struct v9_inode *inode, const char *name, struct v9_attr *attr)
{
    const struct place here = {ex, fid->uid, inode->path_fd, -1, 0, 0};
    struct place there;
    int err = step(r, &here, name, &there, attr);

    if (!strcmp(name, "..") && (err == -ESTALE || err == -ENOENT || err == -EPERM))
        return v9_p9_attr(ex, r, inode->path_fd, __atomic_load_n(&inode->meta_fd, __ATOMIC_ACQUIRE),
                          attr);
    if (err == -EPERM && ex->below)
        return v9_p9_attr_of(ex, r, fid->io_fd, name, attr);
    if (!err)
        release_place(NULL, &there);
    return err;
}
