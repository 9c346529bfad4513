#include "fs/stat_override.h"

#include <errno.h>
#include <stdlib.h>

static struct v9_stat_override *find(const struct v9_export *ex, uint64_t host_ino)
{
    uint32_t at = (uint32_t)(host_ino * 0x9E3779B97F4A7C15ull >> 32) & ex->override_mask;
    while (ex->overrides[at].host_ino && ex->overrides[at].host_ino != host_ino)
        at = (at + 1) & ex->override_mask;
    return &ex->overrides[at];
}

static int grow(struct v9_export *ex)
{
    struct v9_stat_override *old = ex->overrides;
    uint32_t old_size = old ? ex->override_mask + 1 : 0;
    uint32_t size = old ? old_size * 2 : 64;
    struct v9_stat_override *table = calloc(size, sizeof(*table));

    if (!table)
        return -ENOMEM;
    ex->overrides = table;
    ex->override_mask = size - 1;
    for (uint32_t i = 0; i < old_size; i++)
        if (old[i].host_ino)
            *find(ex, old[i].host_ino) = old[i];
    free(old);
    return 0;
}

int v9_export_override_stat(v9_export *ex, uint64_t host_ino, uint64_t st_dev, uint64_t st_ino)
{
    struct v9_stat_override *entry;
    int err = 0;

    if (!host_ino)
        return -EINVAL;
    pthread_mutex_lock(&ex->override_lock);
    if (!ex->overrides || ex->override_count * 2 > ex->override_mask)
        err = grow(ex);
    if (!err) {
        entry = find(ex, host_ino);
        ex->override_count += !entry->host_ino;
        *entry = (struct v9_stat_override){host_ino, st_dev, st_ino};
    }
    pthread_mutex_unlock(&ex->override_lock);
    return err;
}

void v9_stat_override_apply(v9_export *ex, struct v9_attr *attr)
{
    const struct v9_stat_override *entry;

    pthread_mutex_lock(&ex->override_lock);
    if (ex->overrides && (entry = find(ex, attr->st_ino))->host_ino) {
        attr->st_dev = entry->st_dev;
        attr->st_ino = entry->st_ino;
        attr->mnt_id = 0;
    }
    pthread_mutex_unlock(&ex->override_lock);
}
