/*
 * fast_list: Treaddir, and what reads a directory for Tread in 9P2000.u.
 *
 * An entry has to be told with the qid that a walk to it tells. Where an entry cannot lie on
 * another device than its directory (mounts.h tells which can), its qid follows from what the
 * directory says, and costs no system call; else its attributes are read. A listing whose mounts
 * have changed before it was done is made once more, with all attributes.
 *
 * The kernel is asked for no more entries than the reply holds, so that none has to be thrown away
 * and read again: seeking in a directory is slow on some file systems.
 */
#define _GNU_SOURCE
#include "serve.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model.h"
#include "mounts.h"

enum {
    ENTRY_SIZE = P9_QID_SIZE + 8 + 1 + 2, /* qid offset[8] type[1] name[s] */
    /* A struct linux_dirent64 with a name of n bytes takes 20 + n, rounded up to a multiple of 8:
     * at least 6/7 of what the entry takes in the reply, 24 + n. */
    DIRENT_SHARE = 6,
    ENTRY_SHARE = 7,
    DIRENT_USUAL = 280, /* the largest: of a name of 255 bytes, */
    DIRENT_MAX = 1024,  /* or of 255 characters */
    ASK_MAX = 2,        /* questions about mounts, where the answers are outrun by changes */
};

/* ---- one entry ---------------------------------------------------------------------------------
 */

static bool is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* Whether an entry's attributes have to be read for its qid. */
static bool must_look(const struct v9_listing *list, const struct v9_dirent *entry, size_t length)
{
    const struct v9_view *view = list->view;

    if (!list->ex->conf.stat_entries)
        return false;
    return !view || entry->d_type == DT_UNKNOWN || is_dots(entry->d_name) ||
           view->look == V9_LOOK_ALL || (view->look == V9_LOOK_DIRS && entry->d_type == DT_DIR) ||
           (view->count && v9_view_names(view, entry->d_name, length));
}

/* The qid.path that follows from what the directory says, if it does. */
static bool follows(struct v9_listing *list, const struct v9_dirent *entry, size_t length,
                    uint64_t *path)
{
    const struct v9_node *node = list->node;
    uint32_t device;

    if (must_look(list, entry, length))
        return false;
    if (!list->ex->conf.stat_entries) {
        *path = entry->d_ino;
        return true;
    }
    if (v9_qid_group_fits(&list->group, entry->d_ino)) {
        *path = v9_qid_group_path(&list->group, entry->d_ino);
        return true;
    }
    return v9_qidmap_near(list->ex->qidmap, node->st_dev, node->mnt_id, entry->d_ino, &device, path,
                          &list->group) == 0;
}

/*
 * The qid and the type of an entry: what a mapped model makes something else has to be looked at
 * for its type in any case. -ENOENT: leave out.
 */
static int look_at(struct v9_listing *list, struct v9_request *r, const struct v9_dirent *entry,
                   size_t length, struct v9_qid *qid, uint8_t *type)
{
    const bool there = list->ex->below || !strcmp(entry->d_name, "..");
    struct v9_attr attr;
    int err, mode;

    *type = entry->d_type;
    *qid = (struct v9_qid){0};
    if (there || !follows(list, entry, length, &qid->path)) {
        err = there ? v9_fast_look_there(list, r, entry->d_name, &attr)
                    : v9_fast_attr_of(list->ex, r, list->fid->io_fd, entry->d_name, &attr);
        if (err)
            return err;
        *qid = attr.qid;
        *type = IFTODT(attr.mode);
        return 0;
    }
    if (list->ex->conf.model != V9_MODEL_HOST && *type == DT_REG) {
        mode = v9_model_type(list->ex, list->fid->io_fd, list->meta_dir, entry->d_name);
        if (mode < 0)
            return mode;
        *type = IFTODT((mode_t)mode);
    }
    qid->type = *type == DT_DIR ? 0x80 : *type == DT_LNK ? 0x02 : 0;
    return 0;
}

static int pack_entry(struct v9_listing *list, struct v9_request *r, const struct v9_dirent *entry)
{
    const size_t length = strlen(entry->d_name);
    struct v9_qid qid;
    uint8_t type;
    int err;

    if ((size_t)(list->end - list->at) < ENTRY_SIZE + length) {
        list->full = true;
        return 0;
    }
    err = look_at(list, r, entry, length, &qid, &type);
    if (err == -V9_NO_DEVICE || err == -V9_NO_GROUP || v9_budget_lacks(err))
        return err;
    list->offset = (uint64_t)entry->d_off;
    if (err == -ENODEV) /* multidevs=forbid: visible, by the number that the directory tells */
        qid = (struct v9_qid){.type = entry->d_type == DT_DIR ? 0x80 : 0, .path = entry->d_ino};
    else if (err)
        return 0; /* it vanished, or cannot be looked at: left out */
    list->at = v9_put_qid(list->at, &qid);
    list->at = v9_put(v9_put(list->at, (uint64_t)entry->d_off, 8), type, 1);
    list->at = v9_put(list->at, length, 2);
    memcpy(list->at, entry->d_name, length);
    list->at += length;
    return 0;
}

/* ---- a directory -------------------------------------------------------------------------------
 */

static int pack_all(struct v9_listing *list, struct v9_request *r, const uint8_t *dents, long size)
{
    for (long at = 0; at < size && !list->full;) {
        const struct v9_dirent *entry = (const void *)(dents + at);
        int err = 0;
        if (v9_export_hides(list->ex, list->node->path_fd, entry->d_name))
            list->offset = (uint64_t)entry->d_off;
        else
            err = list->pack(list, r, entry);
        if (err)
            return err;
        at += entry->d_reclen;
    }
    return 0;
}

static int pack_dents(struct v9_listing *list, struct v9_request *r, const uint8_t *dents,
                      long size)
{
    int err;

    /* Only now, after these names were read: metadata are there before names are. */
    list->meta_dir = v9_model_dir(list->ex, list->fid->io_fd);
    if (v9_budget_lacks(list->meta_dir))
        return list->meta_dir;
    err = pack_all(list, r, dents, size);
    if (list->meta_dir >= 0)
        v9_budget_close(list->meta_dir);
    return err;
}

/* How many bytes of directory to read at once: 0 where the reply is as good as full. */
static size_t read_size(const struct v9_listing *list, size_t most)
{
    const size_t room = (size_t)(list->end - list->at) / ENTRY_SHARE * DIRENT_SHARE;

    if (list->at == list->start && room < DIRENT_MAX)
        return DIRENT_MAX; /* an entry that fits must not be missed; others are read again */
    if (room < DIRENT_USUAL)
        return 0;
    return room < most ? room : most;
}

/* The directory's mutex makes seek and read one. */
int v9_fast_list(struct v9_listing *list, struct v9_request *r, struct v9_fid_dir *dir,
                 uint64_t offset, struct v9_scratch *scratch)
{
    const int fd = list->fid->io_fd;
    size_t most;
    long size;
    int err;

    /* Offset 0 is always sought: rewinddir(3) wants to see new entries. */
    if ((offset == 0 || dir->offset != offset) && lseek(fd, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    list->offset = offset;
    dir->offset = UINT64_MAX;
    while (!list->full && (most = read_size(list, sizeof(scratch->dents)))) {
        size = syscall(SYS_getdents64, fd, scratch->dents, most);
        if (size < 0 && errno == EINVAL && list->at > list->start)
            break; /* the next one does not fit */
        if (size < 0)
            return -errno;
        if (size == 0)
            break;
        err = pack_dents(list, r, scratch->dents, size);
        if (err)
            return err;
    }
    if (!list->full)
        dir->offset = list->offset;
    return list->full && list->at == list->start ? -EINVAL
                                                 : 0; /* as getdents64 with too small a buffer */
}

/* ---- Treaddir ----------------------------------------------------------------------------------
 */

/* Finds out which entries must be looked at. -V9_NO_MOUNT: up to Python. */
static int view_mounts(struct v9_listing *list, struct v9_request *r)
{
    const v9_export *ex = list->ex;
    uint64_t generation;

    if (!ex->mounts || ex->below || ex->disguises || !list->node->mnt_id)
        return 0;
    list->view = v9_mounts_view(ex->mounts, list->node->mnt_id, &generation);
    if (list->view || r->asked >= ASK_MAX)
        return 0;
    r->question.a = list->node->mnt_id;
    r->question.b = generation;
    r->question.fd = v9_budget_dup(list->node->path_fd);
    if (r->question.fd < 0)
        return 0; /* there is another way: all entries are looked at */
    r->asked++;
    return -V9_NO_MOUNT;
}

static int fill(struct v9_listing *list, struct v9_request *r, struct v9_fid_dir *dir,
                uint64_t offset, struct v9_scratch *scratch)
{
    struct v9_view *view;
    int err = view_mounts(list, r);

    if (err)
        return err;
    view = list->view;
    err = v9_fast_list(list, r, dir, offset, scratch);
    if (!view)
        return err;
    if (!err && list->at > list->start && !v9_mounts_hold(list->ex->mounts, view)) {
        list->view = NULL;
        list->at = list->start;
        list->full = false;
        err = v9_fast_list(list, r, dir, offset, scratch);
    }
    v9_view_leave(view);
    return err;
}

int v9_fast_readdir(struct v9_device *dev, struct v9_request *r, struct v9_in *in,
                    struct v9_scratch *scratch)
{
    uint32_t number = v9_in_u32(in), count, size;
    uint64_t offset = v9_in_u64(in);
    uint8_t *const entries = scratch->reply + P9_IO_SIZE;
    struct v9_listing list = {.pack = pack_entry, .start = entries, .at = entries};
    struct v9_node *node;
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
    err = v9_fast_file(dev, r, number, &fid, &node);
    if (err)
        return err;
    list.ex = v9_node_export(dev, node);
    list.fid = fid;
    list.node = node;
    err = v9_fid_io(fid) < 0 ? -EBADF : !S_ISDIR(node->mode) ? -ENOTDIR : 0;
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
