#define _GNU_SOURCE
#include "fs/attributes.h"

#include <sys/stat.h>

#include "base/budget.h"
#include "base/ctime.h"
#include "base/host_stat.h"
#include "base/sys.h"
#include "export/notices.h"
#include "fs/stat_override.h"
#include "mapped/mapped.h"
#include "mapped/metadata_cache.h"

enum { QTDIR = 0x80, QTSYMLINK = 0x02 };

/* Folds the times and the size: a rewrite within one second at the same size shows. Never 0, which
 * would tell the client not to cache. */
static uint32_t qid_version(const struct v9_attr *attr)
{
    uint64_t mix = attr->mtime_sec * 1000000000u + attr->mtime_nsec;
    mix = (mix ^ attr->size << 8) * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(mix >> 32) ? (uint32_t)(mix >> 32) : 1;
}

/* Makes the guest's attributes of the host's, which were just read, and of the metadata. */
static int complete(v9_export *ex, const struct v9_mapped *mapped, struct v9_attr *attr)
{
    if (mapped)
        v9_mapped_apply(mapped, attr);
    attr->uid = v9_idmap_guest(&ex->ids[V9_UID], attr->uid);
    attr->gid = v9_idmap_guest(&ex->ids[V9_GID], attr->gid);
    attr->qid.type = S_ISDIR(attr->mode) ? QTDIR : S_ISLNK(attr->mode) ? QTSYMLINK : 0;
    attr->qid.version = v9_notices_version(ex, attr, qid_version(attr));
    if (v9_notices_are(ex)) {
        v9_notices_own(attr);
        return 0;
    }
    return v9_qidmap_lookup(ex->qidmap, attr->st_dev, attr->mnt_id, attr->st_ino, &attr->device,
                            &attr->qid.path);
}

/* The same, with metadata that are read, unless they are remembered. */
static int read_mapped(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd, int64_t now,
                       struct v9_attr *attr)
{
    struct v9_mapped mapped;
    int err;

    if (ex->conf.model == V9_MODEL_HOST)
        return complete(ex, NULL, attr);
    if (!ex->metadata_cache || !v9_metadata_cache_find(ex->metadata_cache, attr, &mapped)) {
        err = v9_mapped_read(ex, fd, name, meta_fd, V9_HAS_ALL, &mapped);
        if (err)
            return err;
        if (ex->metadata_cache)
            v9_metadata_cache_enter(ex->metadata_cache, attr, now, &mapped);
    }
    return complete(ex, &mapped, attr);
}

int v9_attr_complete(v9_export *ex, int32_t fd, int64_t now, struct v9_attr *attr)
{
    return read_mapped(ex, fd, "", -1, now, attr);
}

/* An entry whose metadata are attributes of its own. It may become another file between any two
 * calls that go by its name. */
static int read_entry(v9_export *ex, int32_t dir_fd, const char *name, struct v9_attr *attr)
{
    struct v9_mapped mapped;
    int fd, err;

    if (ex->metadata_cache) {
        err = v9_host_stat(dir_fd, name, attr);
        if (err)
            return err;
        if (!ex->overrides && v9_metadata_cache_find(ex->metadata_cache, attr, &mapped))
            return complete(ex, &mapped, attr);
    }
    fd = v9_sys_reach(dir_fd, name, 0);
    if (fd < 0)
        return fd;
    err = v9_attr_read_held(ex, fd, "", -1, attr);
    attr->stat_fd = -1;
    v9_budget_close(fd);
    return err;
}

int v9_attr_complete_held(v9_export *ex, int32_t fd, int32_t meta_fd, int64_t now,
                          struct v9_attr *attr)
{
    return read_mapped(ex, fd, "", meta_fd, now, attr);
}

int v9_attr_stat(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr)
{
    int err = v9_host_stat(fd, name, attr);

    if (!err && ex->overrides)
        v9_stat_override_apply(ex, attr);
    return err;
}

int v9_attr_read_held(v9_export *ex, int32_t fd, const char *name, int32_t meta_fd,
                      struct v9_attr *attr)
{
    const int64_t now = ex->metadata_cache ? v9_ctime_now() : 0;
    int err;

    if (*name && ex->conf.model == V9_MODEL_XATTR)
        return read_entry(ex, fd, name, attr);
    err = v9_attr_stat(ex, fd, name, attr);
    return err ? err : read_mapped(ex, fd, name, meta_fd, now, attr);
}

int v9_attr_read_created(v9_export *ex, int32_t fd, const char *name,
                         const struct v9_created *created, struct v9_attr *attr)
{
    int err;

    if (!created->metadata.has)
        return v9_attr_read_held(ex, fd, name, created->meta_fd, attr);
    err = v9_attr_stat(ex, fd, name, attr);
    return err ? err : complete(ex, &created->metadata, attr);
}

int v9_attr_read(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr)
{
    return v9_attr_read_held(ex, fd, name, -1, attr);
}

int v9_attr_type(v9_export *ex, int32_t fd, int32_t meta_fd, uint32_t *type)
{
    struct v9_attr attr = {0};
    struct v9_mapped mapped;
    struct stat st;
    int err;

    if (fstat(fd, &st) < 0)
        return -errno;
    attr.mode = st.st_mode;
    if (ex->conf.model != V9_MODEL_HOST) {
        err = v9_mapped_read(ex, fd, "", meta_fd, V9_HAS_MODE, &mapped);
        if (err)
            return err;
        v9_mapped_apply(&mapped, &attr);
    }
    *type = attr.mode & S_IFMT;
    return 0;
}
