#define _GNU_SOURCE
#include "export/dir_marks.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/hash_table.h"
#include "base/host_stat.h"

enum {
    LEVELS = 256,                       /* marked above a directory */
    SETTLE = 8,                         /* reads of a path that changes all the time */
    BY_FID_ONLY = 0x200,                /* AT_HANDLE_FID, newer than the headers of some hosts */
    MARKS_MAX = 1 << 24,                /* entries at most: a power of two */
    FSID = sizeof(fsid_t),              /* bytes of an id: the file system, */
    HEAD = FSID + 2 * sizeof(uint32_t), /* and the handle's size and type, before it */
};
_Static_assert(V9_DIR_ID_MAX == HEAD + MAX_HANDLE_SZ, "struct fanotify_event_info_fid");

/* A directory's mark. Its number is its index + 1. */
struct mark {
    struct v9_link link; /* `next` is the next number in the free list */
    bool is_set;         /* or cannot be: no more to be done */
    uint32_t export;
    uint64_t st_dev, st_ino, mnt_id, btime; /* with export: the key */
};

struct note {
    struct note *next;
    struct v9_dir_note is; /* as much of it as there is */
};

struct v9_dir_marks {
    pthread_mutex_t lock; /* lock order: docs/architecture.md */
    int group, bell;
    uint64_t mask;
    struct v9_hash hash; /* of marks, by their keys */
    struct mark *marks;
    uint32_t used, free, max;
    bool full;
    struct note *first, **last; /* what v9_dir_marks_next returns */
};

/* ---- the group ------------------------------------------------------------------------------- */

/* A group that reports what entries were about, and renames as one (Linux 5.17), or else as two. */
static int open_group(uint64_t *mask)
{
    const unsigned flags =
        FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID | FAN_REPORT_DFID_NAME;
    int fd = fanotify_init(flags | FAN_REPORT_TARGET_FID, O_RDONLY | O_CLOEXEC);

    *mask = FAN_MODIFY | FAN_ATTRIB | FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD;
    *mask |= fd < 0 ? FAN_MOVED_FROM | FAN_MOVED_TO : FAN_RENAME;
    if (fd < 0 && errno == EINVAL)
        fd = fanotify_init(flags, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static bool allocate(struct v9_dir_marks *marks, uint32_t max)
{
    uint32_t buckets = 1, *heads;

    while (buckets < max)
        buckets *= 2;
    heads = calloc(buckets, sizeof(*heads));
    marks->marks = calloc(max, sizeof(*marks->marks));
    marks->max = max;
    marks->hash = v9_hash_of(heads, buckets, marks->marks, sizeof(*marks->marks), 1);
    return heads && marks->marks;
}

v9_dir_marks *v9_dir_marks_new(int32_t bell, uint32_t max, int32_t *err)
{
    v9_dir_marks *marks = max && max <= MARKS_MAX ? calloc(1, sizeof(*marks)) : NULL;

    *err = -ENOMEM;
    if (!marks)
        return NULL;
    marks->bell = bell;
    marks->last = &marks->first;
    pthread_mutex_init(&marks->lock, NULL);
    marks->group = -1;
    if (allocate(marks, max))
        *err = marks->group = open_group(&marks->mask);
    if (marks->group < 0) {
        v9_dir_marks_free(marks);
        return NULL;
    }
    *err = 0;
    return marks;
}

static void free_notes(struct v9_dir_marks *marks)
{
    struct note *note;

    while ((note = marks->first)) {
        marks->first = note->next;
        free(note);
    }
    marks->last = &marks->first;
}

void v9_dir_marks_free(v9_dir_marks *marks)
{
    if (marks->group >= 0)
        close(marks->group);
    free_notes(marks);
    free(marks->hash.heads);
    free(marks->marks);
    pthread_mutex_destroy(&marks->lock);
    free(marks);
}

int v9_dir_marks_group(const v9_dir_marks *marks)
{
    return marks->group;
}

void v9_export_set_dir_marks(v9_export *ex, v9_dir_marks *marks)
{
    ex->dir_marks = marks;
}

/* ---- notes ----------------------------------------------------------------------------------- */

/* Adds a copy, under the lock. Without memory for it something is lost. */
static void append(struct v9_dir_marks *marks, const struct v9_dir_note *is)
{
    struct note *note = malloc(offsetof(struct note, is.path) + is->path_size + 1);

    if (!note) {
        marks->full = true;
        eventfd_write(marks->bell, 1);
        return;
    }
    memcpy(&note->is, is, offsetof(struct v9_dir_note, path) + is->path_size);
    note->is.path[is->path_size] = 0;
    note->next = NULL;
    *marks->last = note;
    marks->last = &note->next;
}

int v9_dir_marks_next(v9_dir_marks *marks, struct v9_dir_note *out)
{
    struct note *note;

    pthread_mutex_lock(&marks->lock);
    note = marks->first;
    if (note) {
        marks->first = note->next;
        if (!note->next)
            marks->last = &marks->first;
    }
    pthread_mutex_unlock(&marks->lock);
    if (!note)
        return 0;
    memcpy(out, &note->is, offsetof(struct v9_dir_note, path) + note->is.path_size + 1);
    free(note);
    return 1;
}

/* Reads the path; whether it is another one than before. A directory outside of the export has
 * none, as the root has. */
static bool read_path(v9_export *ex, int32_t fd, struct v9_dir_note *note)
{
    char path[PATH_MAX];
    int size = v9_export_path(ex, fd, "", path);

    note->is_root = size == -EBUSY;
    size = size < 0 ? 0 : size;
    if ((uint32_t)size == note->path_size && !memcmp(path, note->path, (size_t)size))
        return false;
    memcpy(note->path, path, (size_t)size);
    note->path_size = (uint32_t)size;
    return true;
}

int v9_dir_id(int32_t fd, uint8_t id[V9_DIR_ID_MAX])
{
    union {
        struct file_handle head;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } handle = {.head.handle_bytes = MAX_HANDLE_SZ};
    struct statfs st;
    int mount, err;

    err = name_to_handle_at(fd, "", &handle.head, &mount, AT_EMPTY_PATH);
    if (err < 0 && errno == EOPNOTSUPP)
        err = name_to_handle_at(fd, "", &handle.head, &mount, AT_EMPTY_PATH | BY_FID_ONLY);
    if (err < 0 || fstatfs(fd, &st) < 0)
        return errno == EINVAL ? -EOPNOTSUPP : -errno;
    memcpy(id, &st.f_fsid, FSID);
    memcpy(id + FSID, &handle.head.handle_bytes, sizeof(uint32_t));
    memcpy(id + FSID + sizeof(uint32_t), &handle.head.handle_type, sizeof(int));
    memcpy(id + HEAD, handle.head.f_handle, handle.head.handle_bytes);
    return HEAD + (int)handle.head.handle_bytes;
}

/* ---- marks ----------------------------------------------------------------------------------- */

static uint32_t hash_of(uint64_t st_dev, uint64_t st_ino)
{
    const uint64_t hash = (st_ino ^ st_dev << 32) * 0x9E3779B97F4A7C15ull;

    return (uint32_t)(hash >> 32);
}

/* The number of a directory's mark; 0: it has none. The lock is held. */
static uint32_t find(const struct v9_dir_marks *marks, uint32_t export, const struct v9_attr *attr)
{
    const uint32_t hash = hash_of(attr->st_dev, attr->st_ino);
    uint32_t number = *v9_hash_head(&marks->hash, hash);

    for (; number; number = marks->marks[number - 1].link.next) {
        const struct mark *mark = &marks->marks[number - 1];
        if (mark->st_ino == attr->st_ino && mark->st_dev == attr->st_dev &&
            mark->mnt_id == attr->mnt_id && mark->btime == v9_attr_btime(attr) &&
            mark->export == export)
            break;
    }
    return number;
}

/* Reads where the directory is: its path, and the number of the directory above; whether that is
 * elsewhere than before. */
static bool read_place(struct v9_dir_marks *marks, v9_export *ex, int32_t fd,
                       struct v9_dir_note *note)
{
    const uint32_t above = note->above;
    struct v9_attr attr;
    const bool known = v9_host_stat(fd, "..", &attr) == 0;
    const bool moved = read_path(ex, fd, note);

    note->above = 0;
    if (!known || note->is_root)
        return moved;
    pthread_mutex_lock(&marks->lock);
    note->above = find(marks, note->export, &attr);
    pthread_mutex_unlock(&marks->lock);
    return moved || note->above != above;
}

/* Enters a directory that is not set yet; 0: there is no room. The lock is held. */
static uint32_t enter(struct v9_dir_marks *marks, uint32_t export, const struct v9_attr *attr)
{
    uint32_t number = marks->free;

    if (number)
        marks->free = marks->marks[number - 1].link.next;
    else if (marks->used < marks->max)
        number = ++marks->used;
    else
        return 0;
    marks->marks[number - 1] = (struct mark){
        .export = export,
        .st_dev = attr->st_dev,
        .st_ino = attr->st_ino,
        .mnt_id = attr->mnt_id,
        .btime = v9_attr_btime(attr),
    };
    v9_hash_enter(&marks->hash, number, hash_of(attr->st_dev, attr->st_ino));
    return number;
}

/* Finds a directory's mark, or enters it with its note; 0: there is no room. Once something was
 * refused, nothing is entered any more. */
static uint32_t obtain(struct v9_dir_marks *marks, struct v9_dir_note *note,
                       const struct v9_attr *attr)
{
    uint32_t number;

    pthread_mutex_lock(&marks->lock);
    number = find(marks, note->export, attr);
    if (!number && !marks->full) {
        number = enter(marks, note->export, attr);
        marks->full = !number;
        note->number = number;
        if (number && note->id_size)
            append(marks, note);
        if (!number)
            eventfd_write(marks->bell, 1);
    }
    pthread_mutex_unlock(&marks->lock);
    return number;
}

static int set(const struct v9_dir_marks *marks, int32_t fd)
{
    const int err =
        fanotify_mark(marks->group, FAN_MARK_ADD | FAN_MARK_ONLYDIR, marks->mask, fd, ".");

    return err < 0 ? -errno : 0;
}

/* Whether the directory still has the number of its note. The lock is held. */
static bool is_entered(const struct v9_dir_marks *marks, const struct v9_dir_note *note,
                       const struct v9_attr *attr)
{
    return find(marks, note->export, attr) == note->number;
}

/* A name may have changed before there was a mark: its directory's event came before the note. */
static void settle_place(struct v9_dir_marks *marks, v9_export *ex, int32_t fd,
                         const struct v9_attr *attr, struct v9_dir_note *note)
{
    for (int i = 0; i < SETTLE && read_place(marks, ex, fd, note); i++) {
        pthread_mutex_lock(&marks->lock);
        if (is_entered(marks, note, attr))
            append(marks, note);
        pthread_mutex_unlock(&marks->lock);
    }
}

/* Enters what has become of a mark. If the user may have no more, nothing else is tried. */
static void settle(struct v9_dir_marks *marks, struct v9_dir_note *note, const struct v9_attr *attr,
                   int err)
{
    pthread_mutex_lock(&marks->lock);
    if (is_entered(marks, note, attr)) {
        marks->marks[note->number - 1].is_set = true;
        note->error = -err;
        if (err && err != -ENOSPC)
            append(marks, note);
    }
    marks->full |= err == -ENOSPC;
    if (err)
        eventfd_write(marks->bell, 1);
    pthread_mutex_unlock(&marks->lock);
}

static bool is_set(struct v9_dir_marks *marks, uint32_t export, const struct v9_attr *attr)
{
    uint32_t number;
    bool set_or_full;

    pthread_mutex_lock(&marks->lock);
    number = find(marks, export, attr);
    set_or_full = number ? marks->marks[number - 1].is_set : marks->full;
    pthread_mutex_unlock(&marks->lock);
    return set_or_full;
}

static void add_one(v9_export *ex, int32_t fd, const struct v9_attr *attr)
{
    struct v9_dir_marks *marks = ex->dir_marks;
    struct v9_dir_note note;
    int err;

    note.export = ex->index;
    note.error = 0;
    note.path_size = note.above = 0;
    err = v9_dir_id(fd, note.id);
    note.id_size = err < 0 ? 0 : (uint32_t)err;
    err = err < 0 ? err : 0;
    read_place(marks, ex, fd, &note);
    note.number = obtain(marks, &note, attr);
    if (!note.number)
        return; /* there may be no more */
    err = err ? err : set(marks, fd);
    if (!err)
        settle_place(marks, ex, fd, attr, &note);
    settle(marks, &note, attr, err);
}

/* Those above come first. Mostly they are marked: a walk has passed them. But the host may have
 * moved the directory since, or it is not a walk that has come here. */
static void add(v9_export *ex, int32_t fd, const struct v9_attr *attr, int levels)
{
    const bool is_root = attr->st_dev == ex->root_dev && attr->st_ino == ex->root_ino;
    struct v9_attr above;
    v9_export *where = ex;
    int32_t above_fd;

    if (is_set(ex->dir_marks, ex->index, attr))
        return;
    if (!is_root && levels && !v9_host_stat(fd, "..", &above) &&
        !is_set(ex->dir_marks, ex->index, &above)) {
        above_fd = v9_export_step(&where, V9_NO_ID, fd, "..");
        if (above_fd >= 0 && where == ex && !v9_host_stat(above_fd, "", &above))
            add(ex, above_fd, &above, levels - 1);
        if (above_fd >= 0)
            v9_budget_close(above_fd);
    }
    add_one(ex, fd, attr);
}

void v9_dir_marks_add(v9_export *ex, int32_t fd, const struct v9_attr *attr)
{
    add(ex, fd, attr, LEVELS);
}

/* ---- what the reader does -------------------------------------------------------------------- */

void v9_dir_marks_drop(v9_dir_marks *marks, uint32_t number)
{
    pthread_mutex_lock(&marks->lock);
    if (number && number <= marks->used) {
        v9_hash_take_out(&marks->hash, number);
        marks->marks[number - 1].link.next = marks->free;
        marks->free = number;
    }
    pthread_mutex_unlock(&marks->lock);
}

int v9_dir_marks_clear(v9_dir_marks *marks)
{
    const int err = fanotify_mark(marks->group, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL) < 0 ? -errno : 0;

    pthread_mutex_lock(&marks->lock);
    v9_hash_clear(&marks->hash);
    memset(marks->marks, 0, marks->used * sizeof(*marks->marks));
    marks->used = marks->free = 0;
    marks->full = false;
    free_notes(marks);
    pthread_mutex_unlock(&marks->lock);
    return err;
}

void v9_dir_marks_view(v9_dir_marks *marks, uint32_t *count, uint8_t *full)
{
    pthread_mutex_lock(&marks->lock);
    *count = marks->hash.count;
    *full = marks->full;
    pthread_mutex_unlock(&marks->lock);
}

/* Whether an event concerns the reader: what this process has done does only if it changes the
 * tree of directories. */
static bool concerns(const struct fanotify_event_metadata *event, int pid)
{
    const uint64_t moves = FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO | FAN_RENAME;

    return event->pid != pid || event->mask & FAN_Q_OVERFLOW ||
           (event->mask & FAN_ONDIR && event->mask & moves);
}

int v9_dir_marks_read(v9_dir_marks *marks, uint8_t *buffer, uint32_t size)
{
    const ssize_t filled = read(marks->group, buffer, size);
    const int pid = getpid();
    uint32_t kept = 0, at = 0;

    if (filled < 0)
        return errno == EAGAIN ? 0 : -errno;
    while (at < filled) {
        struct fanotify_event_metadata event;
        memcpy(&event, buffer + at, sizeof(event));
        if (concerns(&event, pid)) {
            memmove(buffer + kept, buffer + at, event.event_len);
            kept += event.event_len;
        }
        at += event.event_len;
    }
    return (int)kept;
}
