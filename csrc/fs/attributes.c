#define _GNU_SOURCE
#include "fs/attributes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/budget.h"
#include "mapped/mapped.h"
#include "mapped/metadata_cache.h"

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE                                                                        \
    0x4000U /* Linux 6.8; older kernels ignore it and give the reused id                           \
             */
#endif

enum { QTDIR = 0x80, QTSYMLINK = 0x02 };

static void init_recursive(pthread_mutex_t *lock)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(lock, &attr);
    pthread_mutexattr_destroy(&attr);
}

v9_export *v9_export_new(const struct v9_export_conf *conf, v9_qidmap *qidmap, int32_t *err)
{
    struct v9_export *ex = calloc(1, sizeof(*ex));
    struct stat st;

    *err = -ENOMEM;
    if (!ex)
        return NULL;
    ex->conf = *conf;
    ex->qidmap = qidmap;
    ex->proc_fd = -1;
    ex->conf.root_fd = fcntl(conf->root_fd, F_DUPFD_CLOEXEC, 3);
    if (ex->conf.root_fd < 0 || fstat(ex->conf.root_fd, &st) < 0) {
        *err = -errno;
        goto fail;
    }
    ex->root_dev = st.st_dev;
    ex->root_ino = st.st_ino;
    ex->sure_ctime = v9_metadata_cache_is_sure(ex->conf.root_fd);
    ex->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ex->proc_fd < 0) {
        *err = -errno;
        goto fail;
    }
    *err = v9_self_read(&ex->self);
    if (*err)
        goto fail;
    if (conf->model == V9_MODEL_XATTR)
        ex->recall = v9_metadata_cache_new(ex->conf.root_fd, ex->root_dev);
    pthread_mutex_init(&ex->disguise_lock, NULL);
    pthread_mutex_init(&ex->model_lock, NULL);
    init_recursive(&ex->names_lock);
    *err = 0;
    return ex;
fail:
    if (ex->conf.root_fd >= 0)
        v9_budget_close(ex->conf.root_fd);
    if (ex->proc_fd >= 0)
        v9_budget_close(ex->proc_fd);
    free(ex);
    return NULL;
}

void v9_export_free(v9_export *ex)
{
    v9_budget_close(ex->conf.root_fd);
    v9_budget_close(ex->proc_fd);
    pthread_mutex_destroy(&ex->disguise_lock);
    pthread_mutex_destroy(&ex->model_lock);
    pthread_mutex_destroy(&ex->names_lock);
    v9_self_free(&ex->self);
    v9_metadata_cache_free(ex->recall);
    free(ex->disguises);
    free(ex->delays);
    v9_idmap_free(&ex->ids[V9_UID]);
    v9_idmap_free(&ex->ids[V9_GID]);
    free(ex);
}

int v9_export_join(v9_export *above, const char *name, v9_export *ex)
{
    if (strlen(name) >= sizeof(ex->name))
        return -ENAMETOOLONG;
    strcpy(ex->name, name);
    ex->above = above;
    ex->aside = above->below;
    above->below = ex;
    return 0;
}

uint32_t v9_export_index(const v9_export *ex)
{
    return ex->index;
}

void v9_export_lock_names(v9_export *ex)
{
    pthread_mutex_lock(&ex->names_lock);
}

void v9_export_unlock_names(v9_export *ex)
{
    pthread_mutex_unlock(&ex->names_lock);
}

int v9_export_set_ids(v9_export *ex, uint32_t kind, const struct v9_id_conf *conf)
{
    return kind > V9_GID ? -EINVAL : v9_idmap_set(&ex->ids[kind], conf);
}

int64_t v9_export_host_id(const v9_export *ex, uint32_t kind, uint32_t guest)
{
    uint32_t host;
    int err = v9_idmap_host(&ex->ids[kind == V9_GID], guest, &host);

    return err ? err : (int64_t)host;
}

uint32_t v9_export_guest_id(const v9_export *ex, uint32_t kind, uint32_t host)
{
    return v9_idmap_guest(&ex->ids[kind == V9_GID], host);
}

/* ---- disguises ---------------------------------------------------------------------------------
 */

static struct v9_stat_override *find_disguise(const struct v9_export *ex, uint64_t host_ino)
{
    uint32_t at = (uint32_t)(host_ino * 0x9E3779B97F4A7C15ull >> 32) & ex->disguise_mask;
    while (ex->disguises[at].host_ino && ex->disguises[at].host_ino != host_ino)
        at = (at + 1) & ex->disguise_mask;
    return &ex->disguises[at];
}

static int grow_disguises(struct v9_export *ex)
{
    struct v9_stat_override *old = ex->disguises;
    uint32_t old_size = old ? ex->disguise_mask + 1 : 0;
    uint32_t size = old ? old_size * 2 : 64;
    struct v9_stat_override *table = calloc(size, sizeof(*table));

    if (!table)
        return -ENOMEM;
    ex->disguises = table;
    ex->disguise_mask = size - 1;
    for (uint32_t i = 0; i < old_size; i++)
        if (old[i].host_ino)
            *find_disguise(ex, old[i].host_ino) = old[i];
    free(old);
    return 0;
}

int v9_export_override_stat(v9_export *ex, uint64_t host_ino, uint64_t st_dev, uint64_t st_ino)
{
    struct v9_stat_override *entry;
    int err = 0;

    if (!host_ino)
        return -EINVAL;
    pthread_mutex_lock(&ex->disguise_lock);
    if (!ex->disguises || ex->disguise_count * 2 > ex->disguise_mask)
        err = grow_disguises(ex);
    if (!err) {
        entry = find_disguise(ex, host_ino);
        ex->disguise_count += !entry->host_ino;
        *entry = (struct v9_stat_override){host_ino, st_dev, st_ino};
    }
    pthread_mutex_unlock(&ex->disguise_lock);
    return err;
}

static void put_on_disguise(v9_export *ex, struct v9_attr *attr)
{
    const struct v9_stat_override *entry;

    pthread_mutex_lock(&ex->disguise_lock);
    if (ex->disguises && (entry = find_disguise(ex, attr->st_ino))->host_ino) {
        attr->st_dev = entry->st_dev;
        attr->st_ino = entry->st_ino;
        attr->mnt_id = 0;
    }
    pthread_mutex_unlock(&ex->disguise_lock);
}

/* ---- attributes --------------------------------------------------------------------------------
 */

/* Folds the times and the size: a rewrite within one second at the same size shows. Never 0, which
 * would tell the client not to cache. */
static uint32_t qid_version(const struct v9_attr *attr)
{
    uint64_t mix = attr->mtime_sec * 1000000000u + attr->mtime_nsec;
    mix = (mix ^ attr->size << 8) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(mix >> 32) ? (uint32_t)(mix >> 32) : 1;
}

/* Tells files apart that had one inode number after the other. The birth time is the one thing that
 * an O_PATH descriptor tells at no cost and that is the same however the file was reached. */
static uint64_t generation(const struct v9_attr *attr)
{
    uint64_t mix = (attr->btime_sec * 1000000000u + attr->btime_nsec) * 0x9E3779B97F4A7C15ull;
    return attr->has_btime ? mix >> 32 : 0;
}

uint64_t v9_attr_rdev(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | ((uint64_t)major << 8) | ((uint64_t)(minor & ~0xffu) << 12);
}

static void from_statx(struct v9_attr *attr, const struct statx *st)
{
    *attr = (struct v9_attr){
        .st_dev = makedev(st->stx_dev_major, st->stx_dev_minor),
        .st_ino = st->stx_ino,
        .mnt_id = st->stx_mnt_id,
        .mode = st->stx_mode,
        .uid = st->stx_uid,
        .gid = st->stx_gid,
        .nlink = st->stx_nlink,
        .rdev = v9_attr_rdev(st->stx_rdev_major, st->stx_rdev_minor),
        .size = st->stx_size,
        .blksize = st->stx_blksize,
        .blocks = st->stx_blocks,
        .atime_sec = (uint64_t)st->stx_atime.tv_sec,
        .atime_nsec = st->stx_atime.tv_nsec,
        .mtime_sec = (uint64_t)st->stx_mtime.tv_sec,
        .mtime_nsec = st->stx_mtime.tv_nsec,
        .ctime_sec = (uint64_t)st->stx_ctime.tv_sec,
        .ctime_nsec = st->stx_ctime.tv_nsec,
        .has_btime = (st->stx_mask & STATX_BTIME) != 0,
        .type = st->stx_mode & S_IFMT,
    };
    if (attr->has_btime) {
        attr->btime_sec = (uint64_t)st->stx_btime.tv_sec;
        attr->btime_nsec = st->stx_btime.tv_nsec;
    }
    attr->gen = generation(attr);
}

int v9_attr_glance(int32_t fd, const char *name, struct v9_attr *attr)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    const unsigned mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    struct statx st;

    if (statx(fd, name, flags, mask, &st) < 0)
        return -errno;
    from_statx(attr, &st);
    attr->told_by = *name ? -1 : fd;
    return 0;
}

int v9_attr_identify(int32_t fd, const char *name, struct v9_identity *is, uint32_t *mode,
                     uint64_t *nlink)
{
    struct v9_attr attr;
    int err = v9_attr_glance(fd, name, &attr);

    if (err)
        return err;
    *is = (struct v9_identity){attr.st_dev, attr.st_ino, attr.mnt_id, v9_attr_born(&attr)};
    *mode = attr.mode;
    *nlink = attr.nlink;
    return 0;
}

/* Makes the guest's attributes of the host's, which were just read, and of the metadata. */
static int complete(v9_export *ex, const struct v9_mapped *mapped, struct v9_attr *attr)
{
    if (mapped)
        v9_mapped_apply(mapped, attr);
    attr->uid = v9_idmap_guest(&ex->ids[V9_UID], attr->uid);
    attr->gid = v9_idmap_guest(&ex->ids[V9_GID], attr->gid);
    attr->qid.type = S_ISDIR(attr->mode) ? QTDIR : S_ISLNK(attr->mode) ? QTSYMLINK : 0;
    attr->qid.version = qid_version(attr);
    return v9_qidmap_lookup(ex->qidmap, attr->st_dev, attr->mnt_id, attr->st_ino, &attr->device,
                            &attr->qid.path);
}

/* The same, with metadata that are read, unless they are remembered. */
static int read_mapped(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd, int64_t moment,
                       struct v9_attr *attr)
{
    struct v9_mapped mapped;
    int err;

    if (ex->conf.model == V9_MODEL_HOST)
        return complete(ex, NULL, attr);
    if (!ex->recall || !v9_metadata_cache_find(ex->recall, attr, &mapped)) {
        err = v9_mapped_read(ex, fd, name, meta_fd, V9_HAS_ALL, &mapped);
        if (err)
            return err;
        if (ex->recall)
            v9_metadata_cache_keep(ex->recall, attr, moment, &mapped);
    }
    return complete(ex, &mapped, attr);
}

int v9_attr_complete(v9_export *ex, int32_t fd, int64_t moment, struct v9_attr *attr)
{
    return read_mapped(ex, fd, "", -1, moment, attr);
}

/* An entry whose metadata are attributes of its own. It may become another file between any two
 * calls that go by its name. */
static int read_entry(v9_export *ex, int32_t dir_fd, const char *name, struct v9_attr *attr)
{
    struct v9_mapped mapped;
    int fd, err;

    if (ex->recall) {
        err = v9_attr_glance(dir_fd, name, attr);
        if (err)
            return err;
        if (!ex->disguises && v9_metadata_cache_find(ex->recall, attr, &mapped))
            return complete(ex, &mapped, attr);
    }
    fd = v9_sys_reach(dir_fd, name, 0);
    if (fd < 0)
        return fd;
    err = v9_attr_read_held(ex, fd, "", -1, attr);
    attr->told_by = -1;
    v9_budget_close(fd);
    return err;
}

int v9_attr_complete_held(v9_export *ex, int32_t fd, int32_t meta_fd, int64_t moment,
                          struct v9_attr *attr)
{
    return read_mapped(ex, fd, "", meta_fd, moment, attr);
}

int v9_attr_look(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr)
{
    int err = v9_attr_glance(fd, name, attr);

    if (!err && ex->disguises)
        put_on_disguise(ex, attr);
    return err;
}

int v9_attr_read_held(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd,
                      struct v9_attr *attr)
{
    const int64_t moment = ex->recall ? v9_metadata_cache_now() : 0;
    int err;

    if (*name && ex->conf.model == V9_MODEL_XATTR)
        return read_entry(ex, fd, name, attr);
    err = v9_attr_look(ex, fd, name, attr);
    return err ? err : read_mapped(ex, fd, name, meta_fd, moment, attr);
}

int v9_attr_read_made(v9_export *ex, int32_t fd, const char *name, const struct v9_created *made,
                      struct v9_attr *attr)
{
    int err;

    if (!made->kept.has)
        return v9_attr_read_held(ex, fd, name, made->meta_fd, attr);
    err = v9_attr_look(ex, fd, name, attr);
    return err ? err : complete(ex, &made->kept, attr);
}

int v9_attr_read(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr)
{
    return v9_attr_read_held(ex, fd, name, -1, attr);
}
