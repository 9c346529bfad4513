/*
 * fast_unix: Tstat, and Tread of a directory: attributes as 9P2000.u tells them.
 *
 * A stat structure is size[2] type[2] dev[4] qid[13] mode[4] atime[4] mtime[4] length[8] name[s]
 * uid[s] gid[s] muid[s] extension[s] n_uid[4] n_gid[4] n_muid[4] (stat(5) of Plan 9, and the notes
 * on 9P2000.u). The extension tells a symlink's target and a device's numbers; of files and
 * directories it tells the number of names, as "HARDLINKCOUNT n", which Linux's client reads and no
 * field holds. Ids are told as numbers, and as strings in decimal: the host's names for them would
 * mean nothing to a guest.
 *
 * An open directory reads as a row of such structures, never a part of one. A client goes on at the
 * offset where the last read ended, or begins again at 0. For another offset (seekdir(3), and a
 * rewinddir(3) that Linux's client does half) entries are counted off from the start.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model.h"

enum {
    DMDIR = 0x80000000u,
    DMSYMLINK = 0x02000000,
    DMDEVICE = 0x00800000,
    DMNAMEDPIPE = 0x00200000,
    DMSOCKET = 0x00100000,
    DMSETUID = 0x00080000,
    DMSETGID = 0x00040000,
    DMSETVTX = 0x00010000,
};

enum {
    STAT_FIXED = 2 + 2 + 4 + P9_QID_SIZE + 4 + 4 + 4 + 8 + 5 * 2 + 3 * 4, /* with empty strings */
    ID_MAX = 10,                                                          /* digits */
    STAT_MAX = STAT_FIXED + P9_NAME_MAX + 2 * ID_MAX + PATH_MAX,
};

struct text {
    uint32_t size;
    char bytes[PATH_MAX];
};

static uint32_t unix_mode(uint32_t mode)
{
    uint32_t bits = mode & 0777;

    bits |= mode & S_ISUID ? DMSETUID : 0;
    bits |= mode & S_ISGID ? DMSETGID : 0;
    bits |= mode & S_ISVTX ? DMSETVTX : 0;
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return bits | DMDIR;
    case S_IFLNK:
        return bits | DMSYMLINK;
    case S_IFCHR:
    case S_IFBLK:
        return bits | DMDEVICE;
    case S_IFIFO:
        return bits | DMNAMEDPIPE;
    case S_IFSOCK:
        return bits | DMSOCKET;
    default:
        return bits;
    }
}

static int device_text(const struct v9_attr *attr, char *out)
{
    const uint64_t rdev = attr->rdev; /* as attr.c encodes it */

    return snprintf(out, PATH_MAX, "%c %u %u", S_ISCHR(attr->mode) ? 'c' : 'b',
                    (unsigned)(rdev >> 8 & 0xfff),
                    (unsigned)((rdev & 0xff) | (rdev >> 12 & 0xfff00)));
}

/* `fd` is what the attributes were read from; it is looked at for a symlink only. */
static int extension(v9_export *ex, int fd, const struct v9_attr *attr, struct text *out)
{
    int size = 0;

    if (S_ISLNK(attr->mode)) {
        size = v9_model_readlink(ex, fd, out->bytes, PATH_MAX);
    } else if (S_ISCHR(attr->mode) || S_ISBLK(attr->mode)) {
        size = device_text(attr, out->bytes);
    } else if (S_ISREG(attr->mode) || S_ISDIR(attr->mode)) {
        size = snprintf(out->bytes, sizeof(out->bytes), "HARDLINKCOUNT %llu",
                        (unsigned long long)attr->nlink);
    }
    out->size = size < 0 ? 0 : (uint32_t)size;
    return size < 0 ? size : 0;
}

static uint8_t *put_text(uint8_t *at, const char *bytes, size_t size)
{
    at = v9_put(at, size, 2);
    memcpy(at, bytes, size);
    return at + size;
}

static size_t stat_size(const struct v9_attr *attr, size_t name_size, const struct text *extension,
                        char uid[ID_MAX + 1], char gid[ID_MAX + 1])
{
    return STAT_FIXED + name_size + extension->size +
           (size_t)snprintf(uid, ID_MAX + 1, "%u", attr->uid) +
           (size_t)snprintf(gid, ID_MAX + 1, "%u", attr->gid);
}

/* Writes a stat structure, or returns NULL where there is no room for it; *size tells its size. */
static uint8_t *put_stat(uint8_t *at, const uint8_t *end, const struct v9_attr *attr,
                         const char *name, size_t name_size, const struct text *extension,
                         size_t *size)
{
    char uid[ID_MAX + 1], gid[ID_MAX + 1];

    *size = stat_size(attr, name_size, extension, uid, gid);
    if (*size > (size_t)(end - at))
        return NULL;
    at = v9_put(at, *size - 2, 2);
    at = v9_put(v9_put(at, 0, 2), 0, 4); /* type, dev: a Plan 9 kernel's own */
    at = v9_put(v9_put_qid(at, &attr->qid), unix_mode(attr->mode), 4);
    at = v9_put(v9_put(at, attr->atime_sec, 4), attr->mtime_sec, 4);
    at = v9_put(at, attr->size, 8);
    at = put_text(at, name, name_size);
    at = put_text(put_text(at, uid, strlen(uid)), gid, strlen(gid));
    at = put_text(at, "", 0); /* muid, n_muid: the host does not know who changed it last */
    at = put_text(at, extension->bytes, extension->size);
    return v9_put(v9_put(v9_put(at, attr->uid, 4), attr->gid, 4), UINT32_MAX, 4);
}

/* ---- Tstat -------------------------------------------------------------------------------------
 */

static bool is_top(const v9_export *ex, const struct v9_attr *attr)
{
    return attr->st_dev == ex->root_dev && attr->st_ino == ex->root_ino;
}

/* The last component of the name by which a file was reached, in `room`; "" where the host cannot
 * tell (of paths that are too long for it). Of an export's root it is the name under which that is
 * joined to another's, else "/". */
static const char *node_name(const v9_export *ex, const struct v9_node *node,
                             const struct v9_attr *attr, struct text *room)
{
    static const char gone[] = " (deleted)";
    const ssize_t gone_size = sizeof(gone) - 1;
    const char *slash;
    char number[16];
    ssize_t size;

    if (is_top(ex, attr))
        return *ex->name ? ex->name : "/";
    snprintf(number, sizeof(number), "%d", node->path_fd);
    size = readlinkat(ex->proc_fd, number, room->bytes, sizeof(room->bytes) - 1);
    if (size < 0)
        return "";
    if (!attr->nlink && size > gone_size &&
        !memcmp(room->bytes + size - gone_size, gone, (size_t)gone_size))
        size -= gone_size;
    room->bytes[size] = 0;
    slash = strrchr(room->bytes, '/');
    return slash ? slash + 1 : room->bytes;
}

/* Rstat's stat[n]: a structure that counts its bytes, in a field that counts them too. */
static int reply_stat(struct v9_device *dev, struct v9_request *r, struct v9_use *use)
{
    const struct v9_node *node = use->node;
    v9_export *ex = v9_node_export(dev, node);
    uint8_t reply[P9_HEADER_SIZE + 2 + STAT_MAX], *stat = reply + P9_HEADER_SIZE + 2;
    struct text path, extra;
    const struct v9_attr *attr = &use->attr;
    const char *name;
    size_t size;
    int err = v9_fast_used_attr(dev, r, use);

    if (!err)
        err = extension(ex, node->path_fd, attr, &extra);
    if (err)
        return err;
    name = node_name(ex, node, attr, &path);
    put_stat(stat, reply + sizeof(reply), attr, name, strnlen(name, P9_NAME_MAX), &extra, &size);
    v9_put_header(reply, P9_HEADER_SIZE + 2 + (uint32_t)size, P9_TSTAT + 1, r->tag);
    v9_put(reply + P9_HEADER_SIZE, size, 2);
    return v9_request_reply(r, reply, P9_HEADER_SIZE + 2 + (uint32_t)size);
}

int v9_fast_stat(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                 struct v9_scratch *scratch)
{
    uint32_t number = v9_in_u32(in);
    struct v9_use use;
    int err = v9_in_is_done(in) ? v9_fast_use(dev, r, number, &use) : -EINVAL;

    if (err)
        return err;
    err = reply_stat(dev, r, &use);
    v9_fids_unpin(&dev->fids, use.fid);
    return err;
}

/* ---- Tread of a directory ----------------------------------------------------------------------
 */

/* A symlink's attributes and its target, both of what the name stands for now. */
static int look_at_link(const struct v9_listing *list, struct v9_request *r, const char *name,
                        struct v9_attr *attr, struct text *extra)
{
    int fd = v9_sys_reach(list->fid->io_fd, name, 0), err;

    if (fd < 0)
        return fd;
    err = v9_fast_attr(list->ex, r, fd, -1, attr);
    if (!err)
        err = extension(list->ex, fd, attr, extra);
    v9_budget_close(fd);
    return err;
}

static int look_at(const struct v9_listing *list, struct v9_request *r,
                   const struct v9_dirent *entry, struct v9_attr *attr, struct text *extra)
{
    const bool there = list->ex->below || !strcmp(entry->d_name, "..");
    int err = there ? v9_fast_look_there(list, r, entry->d_name, attr)
                    : v9_fast_attr_of(list->ex, r, list->fid->io_fd, entry->d_name, attr);

    if (!err && !there && S_ISLNK(attr->mode))
        return look_at_link(list, r, entry->d_name, attr, extra);
    if (err && err != -ENODEV)
        return err;
    if (err) /* multidevs=forbid: visible, by the number that the directory tells */
        attr->qid.path = entry->d_ino;
    extra->size = 0; /* of a symlink whose target is not the guest's to see */
    return S_ISLNK(attr->mode) ? 0 : extension(list->ex, -1, attr, extra);
}

/* Whether an entry lies before the offset where the client wants to begin. */
static bool counted_off(struct v9_listing *list, size_t size)
{
    const bool before = list->skip > 0;

    list->skip -= size < list->skip ? size : list->skip;
    return before;
}

static int pack_stat(struct v9_listing *list, struct v9_request *r, const struct v9_dirent *entry)
{
    const size_t name_size = strlen(entry->d_name);
    char uid[ID_MAX + 1], gid[ID_MAX + 1];
    struct v9_attr attr;
    struct text extra;
    uint8_t *next;
    size_t size;
    int err = look_at(list, r, entry, &attr, &extra);

    if (err == -V9_NO_DEVICE || err == -V9_NO_GROUP || v9_budget_lacks(err))
        return err;
    if (err || counted_off(list, stat_size(&attr, name_size, &extra, uid, gid))) {
        list->offset = (uint64_t)entry->d_off; /* it vanished, or cannot be looked at: left out */
        return 0;
    }
    next = put_stat(list->at, list->end, &attr, entry->d_name, name_size, &extra, &size);
    if (!next && list->at == list->start) {
        extra.size = 0; /* a target that no reply of this size holds must not end the listing */
        next = put_stat(list->at, list->end, &attr, entry->d_name, name_size, &extra, &size);
    }
    list->full = !next;
    if (next) {
        list->at = next;
        list->offset = (uint64_t)entry->d_off;
    }
    return 0;
}

/* Lists from `offset`, in bytes, on. The directory's mutex is held. */
static int read_stats(struct v9_listing *list, struct v9_request *r, struct v9_fid_dir *dir,
                      uint64_t offset, struct v9_scratch *scratch)
{
    const bool goes_on = offset && offset == dir->read;
    int err;

    list->skip = goes_on ? 0 : offset;
    err = v9_fast_list(list, r, dir, goes_on ? dir->next : 0, scratch);
    if (err)
        return err;
    dir->read = offset + (uint64_t)(list->at - list->start);
    dir->next = list->offset;
    return 0;
}

int v9_fast_read_stats(struct v9_device *dev, struct v9_request *r, struct v9_fid *fid,
                       const struct v9_node *node, uint64_t offset, uint32_t count,
                       struct v9_scratch *scratch)
{
    struct v9_fid_dir *const dir = v9_fids_dir(&dev->fids, fid);
    uint8_t *const stats = scratch->reply + P9_IO_SIZE;
    struct v9_listing list = {
        .pack = pack_stat,
        .ex = v9_node_export(dev, node),
        .fid = fid,
        .node = node,
        .start = stats,
        .at = stats,
    };
    uint32_t size;
    int err;

    if (count > r->chain.writable_size - P9_IO_SIZE)
        count = (uint32_t)(r->chain.writable_size - P9_IO_SIZE);
    list.end = stats + count;
    pthread_mutex_lock(&dir->lock);
    err = read_stats(&list, r, dir, offset, scratch);
    pthread_mutex_unlock(&dir->lock);
    if (err)
        return err;
    size = P9_IO_SIZE + (uint32_t)(list.at - stats);
    v9_put_header(scratch->reply, size, P9_TREAD + 1, r->tag);
    v9_put(scratch->reply + P9_HEADER_SIZE, size - P9_IO_SIZE, 4);
    return v9_request_reply(r, scratch->reply, size);
}
