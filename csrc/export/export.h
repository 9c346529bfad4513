/*
 * export: one exported directory with everything that its requests need to know.
 *
 * Belongs here: the object, what is set once before it is served, and the lock of its names. For
 * the state of rooms above there are pointers that they set.
 */
#ifndef V9_EXPORT_EXPORT_H
#define V9_EXPORT_EXPORT_H

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/seqcount.h"
#include "export/api.h"
#include "export/credentials.h"
#include "export/file_caps.h"
#include "export/idmap.h"

struct v9_export {
    struct v9_export_conf conf;
    v9_qidmap *qidmap; /* shared by the exports of one device */
    v9_mounts *mounts; /* likewise; NULL: listings stat every entry, or none */
    uint32_t index;    /* in its device */
    char name[V9_NAME_SIZE];
    v9_export *above;           /* its root appears as directory `name` there; NULL: nowhere */
    v9_export *below, *aside;   /* the first that is joined to it; the next joined to the same */
    uint64_t stream_ino;        /* of the directory of notices: its stream, */
    const uint64_t *stream_end; /* and where that ends, atomic; NULL: it is another export */
    bool listed;                /* a directory of notices that listings have */
    int32_t proc_fd;            /* /proc/self/fd, to reopen O_PATH descriptors */
    struct v9_seqcount names;   /* a name and its metadata file change apart (mapped/mapped.h) */
    struct v9_seqcount moves;   /* files lose names, or get other ones (fid/renames.c) */
    struct v9_seqcount texts;   /* a metadata file is written */
    bool texts_are_synced;      /* none was written since the last sync, on root_dev; atomic */
    struct v9_metadata_cache *metadata_cache; /* NULL: metadata are read each time */
    /* Metadata are read, changed and written as one; lock order: docs/architecture.md */
    pthread_mutex_t metadata_lock;
    /* v9_export_lock_names: recursive; lock order: docs/architecture.md */
    pthread_mutex_t names_lock;
    struct v9_self self;
    uint64_t root_dev, root_ino;
    bool ctime_is_reliable, ctime_shows_renames; /* of the files on root_dev (base/ctime.h) */
    struct v9_caps caps;
    const v9_xattr_names *xattr_names;   /* not its own; NULL: names stay */
    struct v9_xattr_limits xattr_limits; /* of names 0: none */
    /* From reading a file's attributes to the change, so that parallel requests do not exceed the
     * limits together; lock order: docs/architecture.md */
    pthread_mutex_t xattr_lock;
    const v9_hidden_paths *hidden;      /* not its own; NULL: none (export/hidden_names.h) */
    v9_dir_marks *dir_marks;            /* not its own; NULL: none (export/dir_marks.h) */
    v9_quota *quota;                    /* not its own; NULL: none */
    struct v9_rate_queues *rate_queues; /* NULL: not throttled */
    struct v9_failures *failures;       /* request/failure.h; NULL: they are not reported */
    struct v9_idmap ids[2];             /* by V9_UID, V9_GID */
    /* For tests with synthetic devices (fs/stat_override.h); lock order: docs/architecture.md */
    pthread_mutex_t override_lock;
    struct v9_stat_override *overrides; /* open addressing, host_ino 0 = empty; NULL: none */
    uint32_t override_count, override_mask;
};

/* Changes of names one at a time. A thread may take the lock several times. */
void v9_export_lock_names(v9_export *ex);
void v9_export_unlock_names(v9_export *ex);
/* The same only where metadata files or accounts of a quota have to agree with names, or a name
 * must not come to stand for a directory while it is moved (export/hidden_names.h). */
void v9_export_names_begin(v9_export *ex);
void v9_export_names_end(v9_export *ex);

/* The st_dev of the files whose attributes can be read without asking a server; 0: of none. */
static inline uint64_t v9_export_asks_nobody(const struct v9_export *ex)
{
    return ex && ex->ctime_is_reliable ? ex->root_dev : 0;
}

/* Whether a file of this st_dev, as its attributes report it, keeps the st_ino that it has, however
 * it is changed: elsewhere a link or a rename may give it another one. */
static inline bool v9_export_keeps_numbers(const struct v9_export *ex, uint64_t st_dev)
{
    return ex->ctime_is_reliable && st_dev == ex->root_dev && !ex->overrides;
}

/* The path of fd, or of `name` in directory fd, below the export's root: its length; -EBUSY for
 * the root itself, -ENOENT for what is outside. */
int v9_export_path(v9_export *ex, int32_t fd, const char *name, char path[PATH_MAX]);

static inline bool v9_export_is_root(const struct v9_export *ex, const struct stat *st)
{
    return st->st_dev == ex->root_dev && st->st_ino == ex->root_ino;
}

#endif
