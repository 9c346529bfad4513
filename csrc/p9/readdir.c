/*
 * readdir: Treaddir, and entries for Python, which lists directories in 9P2000.u (v9_fid_read_dir).
 *
 * An entry's qid must be the one that a walk to it returns. If the entry cannot lie on another
 * device than its directory (export/mounts.h), its qid follows from the directory's own record and
 * takes no system call; else its attributes are read. If mounts change during a listing, it is made
 * again with all attributes.
 *
 * The directory of notices is no entry on the host. If it is listed, it comes last, at a position
 * of its own; whatever has its name on the host is left out, since no step leads there.
 *
 * Each getdents64 asks for no more entries than fit into the reply, so that none is read twice:
 * seeking in a directory is slow on some file systems.
 */
#define _GNU_SOURCE
#include "p9/handler.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/sys.h"
#include "export/hidden_names.h"
#include "export/mounts.h"
#include "export/notices.h"
#include "mapped/mapped.h"
#include "p9/api.h"
#include "p9/lookup.h"
#include "p9/walk.h"
#include "request/reply.h"

struct v9_dirent { /* getdents64(2) */
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

/* A directory's entries on their way into a reply. */
struct listing {
    v9_export *ex;
    const struct v9_fid *fid;
    const struct v9_inode *inode;
    struct v9_view *view;      /* entries to stat (export/mounts.h); NULL: all, or none */
    struct v9_qid_group group; /* of the directory's own device, as last used */
    const v9_export *notices;  /* the directory of notices, if it is here; NULL */
    int32_t meta_dir;          /* with its files' metadata (mapped/mapped.h); -1: none */
    uint8_t *start, *at, *end;
    uint64_t offset; /* d_off of the last entry that was packed or left out */
    bool full;
};

enum {
    ENTRY_SIZE = P9_QID_SIZE + 8 + 1 + 2, /* qid offset[8] type[1] name[s] */
    /* A struct linux_dirent64 with a name of n bytes takes 20 + n, rounded up to a multiple of 8:
     * at least 6/7 of its size in the reply, 24 + n. */
    DIRENT_SHARE = 6,
    ENTRY_SHARE = 7,
    DIRENT_USUAL = 280, /* the largest record of a name of 255 bytes */
    DIRENT_MAX = 1024,  /* the largest of a name of 255 characters */
    ASK_MAX = 2,        /* questions about mounts, if they change before the answer arrives */
};
/* Behind the directory of notices, which comes last. No file system has it: ext4 ends at INT64_MAX,
 * and others count from 0. */
static const uint64_t BEHIND_NOTICES = INT64_MAX - 1;

/* ---- one entry ------------------------------------------------------------------------------- */

static bool is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Whether an entry's attributes have to be read for its qid. */
static bool must_stat(const struct listing *list, const struct v9_dirent *entry, size_t length)
{
    const struct v9_view *view = list->view;

    if (!list->ex->conf.stat_entries)
        return false;
    return !view || entry->d_type == DT_UNKNOWN || is_dots(entry->d_name) ||
           view->look == V9_LOOK_ALL || (view->look == V9_LOOK_DIRS && entry->d_type == DT_DIR) ||
           (view->count && v9_view_names(view, entry->d_name, length));
}

/* Derives the qid.path from the directory's own record; false if that is not possible. */
static bool path_from_dirent(struct listing *list, const struct v9_dirent *entry, size_t length,
                             uint64_t *path)
{
    const struct v9_inode *inode = list->inode;
    uint32_t device;

    if (must_stat(list, entry, length))
        return false;
    if (!list->ex->conf.stat_entries) {
        *path = entry->d_ino;
        return true;
    }
    if (v9_qid_group_fits(&list->group, entry->d_ino)) {
        *path = v9_qid_group_path(&list->group, entry->d_ino);
        return true;
    }
    return v9_qidmap_near(list->ex->qidmap, inode->st_dev, inode->mnt_id, entry->d_ino, &device,
                          path, &list->group) == 0;
}

/*
 * Finds the qid and the type of an entry. The type of a regular file under a mapped model comes
 * from its metadata. -ENOENT: the entry is left out.
 */
static int read_entry(struct listing *list, struct v9_request *r, const struct v9_dirent *entry,
                      size_t length, struct v9_qid *qid, uint8_t *type)
{
    const bool there = v9_export_joins(list->ex, entry->d_name) || !strcmp(entry->d_name, "..");
    const struct v9_inode *inode = list->inode;
    struct v9_attr attr;
    int err, mode;

    *type = entry->d_type;
    *qid = (struct v9_qid){0};
    if (there || !path_from_dirent(list, entry, length, &qid->path)) {
        err = there ? v9_p9_attr_by_step(list->ex, r, list->fid, inode, entry->d_name, &attr)
                    : v9_p9_attr_of(list->ex, r, list->fid->io_fd, entry->d_name, &attr);
        if (err)
            return err;
        *qid = attr.qid;
        *type = IFTODT(attr.mode);
        return 0;
    }
    if (list->ex->conf.model != V9_MODEL_HOST && *type == DT_REG) {
        mode = v9_mapped_type(list->ex, list->fid->io_fd, list->meta_dir, entry->d_name);
        if (mode < 0)
            return mode;
        *type = IFTODT((mode_t)mode);
    }
    qid->type = *type == DT_DIR ? 0x80 : *type == DT_LNK ? 0x02 : 0;
    return 0;
}

/* Whether a listing has to end with this error: where nothing is left, it can be made later. */
static bool ends_listing(int err)
{
    return err == -V9_NO_DEVICE || err == -V9_NO_GROUP || err == -ENOMEM || v9_budget_lacks(err);
}

/* The qid of an entry whose attributes are not to be had: it has the inode number in the directory.
 * With multidevs=forbid (ENODEV) its type is known. */
static struct v9_qid qid_of_dirent(const struct listing *list, const struct v9_dirent *entry,
                                   int err, uint8_t *type)
{
    const bool is_mapped = list->ex->conf.model != V9_MODEL_HOST && entry->d_type == DT_REG;

    *type = is_mapped && err != -ENODEV ? DT_UNKNOWN : entry->d_type;
    return (struct v9_qid){.type = entry->d_type == DT_DIR ? 0x80 : 0, .path = entry->d_ino};
}

/* Writes an entry at `at`, or leaves it out, and sets `offset`; or sets `full`. */
static int pack_entry(struct listing *list, struct v9_request *r, const struct v9_dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    struct v9_qid qid;
    uint8_t type;
    int err;

    if ((size_t)(list->end - list->at) < ENTRY_SIZE + length) {
        list->full = true;
        return 0;
    }
    err = read_entry(list, r, entry, length, &qid, &type);
    if (ends_listing(err))
        return err;
    list->offset = (uint64_t)entry->d_off;
    if (err == -ENODEV || v9_sys_has_failed(err))
        qid = qid_of_dirent(list, entry, err, &type);
    else if (err)
        return 0; /* it vanished, or its attributes may not be read: left out */
    list->at = v9_put_qid(list->at, &qid);
    list->at = v9_put(v9_put(list->at, (uint64_t)entry->d_off, 8), type, 1);
    list->at = v9_put(list->at, length, 2);
    memcpy(list->at, entry->d_name, length);
    list->at += length;
    return 0;
}

/* ---- a directory ----------------------------------------------------------------------------- */

/* The directory of notices, if this is the directory that it is joined to. */
static v9_export *notices_in(const struct listing *list)
{
    v9_export *joined = list->ex->below;

    while (joined && !v9_notices_are(joined))
        joined = joined->aside;
    return joined ? v9_export_joined(list->ex, list->inode->path_fd, joined->name) : NULL;
}

/* Whether an entry is left out. */
static int is_left_out(const struct listing *list, const char *name)
{
    if (list->notices && !strcmp(name, list->notices->name))
        return true;
    return v9_export_hides(list->ex, list->inode->path_fd, name);
}

static int pack_all(struct listing *list, struct v9_request *r, const uint8_t *dents, long size)
{
    for (long at = 0; at < size && !list->full;) {
        const struct v9_dirent *entry = (const void *)(dents + at);
        int err = is_left_out(list, entry->d_name);
        if (err > 0)
            list->offset = (uint64_t)entry->d_off;
        else if (!err)
            err = pack_entry(list, r, entry);
        if (err < 0)
            return err;
        at += entry->d_reclen;
    }
    return 0;
}

static int pack_dents(struct listing *list, struct v9_request *r, const uint8_t *dents, long size)
{
    int err;

    /* Opened after these names were read: metadata are created before names. */
    list->meta_dir = v9_mapped_dir(list->ex, list->fid->io_fd);
    if (v9_sys_has_failed(list->meta_dir))
        return list->meta_dir;
    err = pack_all(list, r, dents, size);
    if (list->meta_dir >= 0)
        v9_budget_close(list->meta_dir);
    return err;
}

/* After the last entry. */
static int pack_notices(struct listing *list, struct v9_request *r)
{
    union {
        struct v9_dirent entry;
        char room[offsetof(struct v9_dirent, d_name) + V9_NAME_SIZE];
    } made = {.entry = {.d_off = (int64_t)BEHIND_NOTICES, .d_type = DT_DIR}};

    if (!list->notices || !list->notices->listed)
        return 0;
    strcpy(made.entry.d_name, list->notices->name);
    return pack_entry(list, r, &made.entry);
}

/* How many bytes of entries to read at once; 0: the reply is nearly full. */
static size_t read_size(const struct listing *list, size_t most)
{
    const size_t room = (size_t)(list->end - list->at) / ENTRY_SHARE * DIRENT_SHARE;

    if (list->at == list->start && room < DIRENT_MAX)
        return DIRENT_MAX; /* at least one entry must be returned; the others are read again */
    if (room < DIRENT_USUAL)
        return 0;
    return room < most ? room : most;
}

/* Makes getdents64 continue after the entry at `offset`. The directory's mutex is held, so that
 * seeking and reading are one step. For offset 0 it always seeks: rewinddir(3) must show new
 * entries. */
static int seek(int fd, struct v9_fid_dir *dir, uint64_t offset)
{
    if ((offset == 0 || dir->offset != offset) && lseek(fd, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    dir->offset = UINT64_MAX;
    return 0;
}

/* Fills the listing with the entries after `offset`. -EINVAL if not even one fits. */
static int list_from(struct listing *list, struct v9_request *r, struct v9_fid_dir *dir,
                     uint64_t offset, struct v9_scratch *scratch)
{
    const int fd = list->fid->io_fd;
    size_t most;
    long size;
    int err = seek(fd, dir, offset);

    if (err)
        return err;
    list->offset = offset;
    while (!list->full && (most = read_size(list, sizeof(scratch->dents)))) {
        size = syscall(SYS_getdents64, fd, scratch->dents, most);
        if (size < 0 && errno == EINVAL && list->at > list->start)
            break; /* the next one does not fit */
        if (size < 0)
            return -errno;
        err = size ? pack_dents(list, r, scratch->dents, size) : pack_notices(list, r);
        if (err)
            return err;
        if (!size)
            break;
    }
    if (!list->full)
        dir->offset = list->offset;
    return list->full && list->at == list->start ? -EINVAL
                                                 : 0; /* as getdents64 with too small a buffer */
}

/* ---- Treaddir -------------------------------------------------------------------------------- */

/* Finds out which entries take a stat. -V9_NO_MOUNT: Python has to decide. */
static int view_mounts(struct listing *list, struct v9_request *r)
{
    const v9_export *ex = list->ex;
    uint64_t generation;

    if (!ex->mounts || ex->overrides || !list->inode->mnt_id)
        return 0;
    list->view = v9_mounts_view(ex->mounts, list->inode->mnt_id, &generation);
    if (list->view || r->asked >= ASK_MAX)
        return 0;
    r->question.a = list->inode->mnt_id;
    r->question.b = generation;
    r->question.fd = v9_sys_dup(list->inode->path_fd);
    if (r->question.fd < 0)
        return 0; /* not fatal: all entries take a stat */
    r->asked++;
    return -V9_NO_MOUNT;
}

static int fill(struct listing *list, struct v9_request *r, struct v9_fid_dir *dir, uint64_t offset,
                struct v9_scratch *scratch)
{
    struct v9_view *view;
    int err;

    if (offset == BEHIND_NOTICES)
        return 0;
    err = view_mounts(list, r);
    if (err)
        return err;
    list->notices = notices_in(list);
    view = list->view;
    err = list_from(list, r, dir, offset, scratch);
    if (!view)
        return err;
    if (!err && list->at > list->start && !v9_mounts_hold(list->ex->mounts, view)) {
        list->view = NULL;
        list->at = list->start;
        list->full = false;
        err = list_from(list, r, dir, offset, scratch);
    }
    v9_view_leave(view);
    return err;
}

int v9_p9_readdir(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                  struct v9_scratch *scratch)
{
    uint32_t number = v9_in_u32(in), count, size;
    uint64_t offset = v9_in_u64(in);
    uint8_t *const entries = scratch->reply + P9_IO_SIZE;
    struct listing list = {.start = entries, .at = entries};
    struct v9_inode *inode;
    struct v9_fid *fid;
    int err;

    count = v9_in_u32(in);
    if (!v9_in_is_done(in))
        return -EINVAL;
    if (count > dev->msize - P9_IO_SIZE)
        count = dev->msize - P9_IO_SIZE;
    if (count > r->chain.writable_size - P9_IO_SIZE)
        count = (uint32_t)(r->chain.writable_size - P9_IO_SIZE);
    list.end = entries + count;
    err = v9_p9_file(dev, r, number, &fid, &inode);
    if (err)
        return err;
    list.ex = v9_inode_export(dev, inode);
    list.fid = fid;
    list.inode = inode;
    err = v9_fid_io(fid) < 0 ? -EBADF : !S_ISDIR(inode->mode) ? -ENOTDIR : 0;
    if (!err) {
        struct v9_fid_dir *dir = v9_fids_dir(&dev->fids, fid);
        pthread_mutex_lock(&dir->lock);
        err = fill(&list, r, dir, offset, scratch);
        pthread_mutex_unlock(&dir->lock);
    }
    v9_fids_unpin(&dev->fids, fid);
    if (err)
        return err;
    size = P9_IO_SIZE + (uint32_t)(list.at - entries);
    v9_put_header(scratch->reply, size, P9_TREADDIR + 1, r->tag);
    v9_put(scratch->reply + P9_HEADER_SIZE, size - P9_IO_SIZE, 4);
    return v9_request_reply(r, scratch->reply, size);
}

/* ---- for Python ------------------------------------------------------------------------------ */

static uint64_t last_offset(const uint8_t *dents, int size)
{
    const struct v9_dirent *entry = NULL;

    for (int at = 0; at < size; at += entry->d_reclen)
        entry = (const void *)(dents + at);
    return (uint64_t)entry->d_off;
}

int v9_fid_read_dir(v9_device *dev, uint64_t handle, uint64_t offset, uint8_t *out, uint32_t size)
{
    const struct v9_fid *fid = v9_fids_of(&dev->fids, handle);
    const struct v9_inode *inode = v9_fids_inode(&dev->fids, fid);
    struct v9_fid_dir *dir = v9_fids_dir(&dev->fids, fid);
    int got;

    if (v9_fid_io(fid) < 0)
        return -EBADF;
    if (!S_ISDIR(inode->mode))
        return -ENOTDIR;
    got = v9_export_hides_directory(v9_inode_export(dev, inode), inode->path_fd);
    if (got)
        return got;
    pthread_mutex_lock(&dir->lock);
    got = seek(fid->io_fd, dir, offset);
    if (!got) {
        got = (int)syscall(SYS_getdents64, fid->io_fd, out, size);
        if (got < 0)
            got = -errno;
    }
    if (got > 0)
        dir->offset = last_offset(out, got);
    pthread_mutex_unlock(&dir->lock);
    return got;
}
