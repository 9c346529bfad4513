/*
 * attr: reading host attributes and making guest attributes of them. The one place that calls
 * statx, and the only maker of qids.
 */
#ifndef V9_FS_ATTRIBUTES_H
#define V9_FS_ATTRIBUTES_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "base/sys.h"
#include "export/file_caps.h"
#include "export/idmap.h"
#include "vhost9p.h"

struct v9_stat_override {
    uint64_t host_ino, st_dev, st_ino;
};

/* Tells a reader, who takes no lock, whether changes went on while it read. */
struct v9_seqcount {
    uint32_t active, done; /* changes that go on; that have ended */
};

static inline void v9_seqcount_change(struct v9_seqcount *epoch, bool begin)
{
    if (begin) {
        __atomic_fetch_add(&epoch->active, 1, __ATOMIC_SEQ_CST);
        return;
    }
    __atomic_fetch_add(&epoch->done, 1, __ATOMIC_SEQ_CST); /* before active falls: no gap */
    __atomic_fetch_sub(&epoch->active, 1, __ATOMIC_SEQ_CST);
}

static inline uint32_t v9_seqcount_read_begin(const struct v9_seqcount *epoch)
{
    return __atomic_load_n(&epoch->done, __ATOMIC_SEQ_CST);
}

/* Whether no change has gone on since v9_seqcount_read_begin told `moment`. */
static inline bool v9_seqcount_held(const struct v9_seqcount *epoch, uint32_t moment)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !__atomic_load_n(&epoch->active, __ATOMIC_SEQ_CST) &&
           __atomic_load_n(&epoch->done, __ATOMIC_SEQ_CST) == moment;
}

struct v9_export {
    struct v9_export_conf conf;
    v9_qidmap *qidmap; /* not its own: exports that one guest sees share it */
    v9_mounts *mounts; /* likewise; NULL: listings look at every entry, or at none */
    uint32_t index;    /* in its device */
    char name[V9_NAME_SIZE];
    v9_export *above;         /* its root is directory `name` of this one's; NULL: of none */
    v9_export *below, *aside; /* the first that is joined to it; the next joined to the same */
    int32_t proc_fd;          /* /proc/self/fd, to reopen O_PATH descriptors */
    struct v9_seqcount names; /* files and their metadata files part (mapped/mapped.h) */
    struct v9_seqcount moves; /* files lose names, or get other ones (fid/renames.c) */
    struct v9_seqcount texts; /* a metadata file is written */
    struct v9_metadata_cache *recall; /* NULL: metadata are read each time */
    pthread_mutex_t model_lock;       /* metadata are read, changed and written as one */
    pthread_mutex_t names_lock;       /* v9_export_lock_names: recursive */
    struct v9_self self;
    uint64_t root_dev, root_ino;
    bool sure_ctime; /* mapped/metadata_cache.h: of the files on root_dev */
    struct v9_caps caps;
    v9_quota *quota;               /* not its own; NULL: none */
    struct v9_rate_queues *delays; /* NULL: not throttled */
    struct v9_idmap ids[2];        /* by V9_UID, V9_GID */
    pthread_mutex_t disguise_lock;
    struct v9_stat_override
        *disguises; /* open addressing, host_ino 0 = empty; NULL but for synth */
    uint32_t disguise_count, disguise_mask;
};

static inline bool v9_export_is_root(const struct v9_export *ex, const struct stat *st)
{
    return st->st_dev == ex->root_dev && st->st_ino == ex->root_ino;
}

/* Reads what the host tells of `name` in directory `fd`, or of `fd` itself (""). */
int v9_attr_glance(int32_t fd, const char *name, struct v9_attr *attr);
/* Makes of what v9_attr_glance told after `moment` (v9_metadata_cache_now) of the file `fd`, one of
 * an export without disguises, what v9_attr_read tells; fails as that does. */
int v9_attr_complete(v9_export *ex, int32_t fd, int64_t moment, struct v9_attr *attr);
/* As v9_attr_glance, with the numbers that the export gives the file. */
int v9_attr_look(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr);
/* The rest of v9_attr_read_held for the file `fd`, after v9_attr_look after `moment`. */
int v9_attr_complete_held(v9_export *ex, int32_t fd, int32_t meta_fd, int64_t moment,
                          struct v9_attr *attr);

/* What tells a host file from all others while its descriptor is held. */
struct v9_identity {
    uint64_t st_dev, st_ino, mnt_id;
    uint64_t born; /* ns; 0 where the host tells none */
};
/* Reads it, of `name` in directory `fd` or of `fd` itself (""), with st_mode and st_nlink. */
int v9_attr_identify(int32_t fd, const char *name, struct v9_identity *is, uint32_t *mode,
                     uint64_t *nlink);
/* As v9_attr_read_held, of what was just made: where its metadata are known they are not read. */
int v9_attr_read_made(v9_export *ex, int32_t fd, const char *name, const struct v9_created *made,
                      struct v9_attr *attr);
static inline uint64_t v9_attr_born(const struct v9_attr *attr)
{
    return attr->has_btime ? attr->btime_sec * 1000000000u + attr->btime_nsec : 0;
}

/* The kernel's own 32-bit encoding of a device number, as its 9p client expects it
 * (new_encode_dev). */
uint64_t v9_attr_rdev(uint32_t major, uint32_t minor);

#endif
