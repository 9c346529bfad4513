#define _GNU_SOURCE
#include "mapped/metadata_cache.h"

#include <stdlib.h>

#include "base/ctime.h"
#include "base/host_stat.h"
#include "export/export.h"

enum {
    PLACES = 16384,
    WORDS = 7, /* of a place */
};

/* Of eight words: a count, which is odd while the others are written; and those. */
struct place {
    uint64_t count, words[WORDS];
};

struct v9_metadata_cache {
    uint64_t st_dev;
    struct place places[PLACES];
};

struct v9_metadata_cache *v9_metadata_cache_new(int32_t fd, uint64_t st_dev)
{
    struct v9_metadata_cache *cache = NULL;

    if (v9_ctime_is_reliable(fd))
        cache = calloc(1, sizeof(*cache)); /* pages are used as they are written */
    if (cache)
        cache->st_dev = st_dev;
    return cache;
}

void v9_export_cache_metadata(v9_export *ex)
{
    if (ex->conf.model == V9_MODEL_XATTR && !ex->metadata_cache)
        ex->metadata_cache = v9_metadata_cache_new(ex->conf.root_fd, ex->root_dev);
}

static int64_t changed_at(const struct v9_attr *attr)
{
    return (int64_t)(attr->ctime_sec * 1000000000u + attr->ctime_nsec);
}

static struct place *place_of(struct v9_metadata_cache *cache, const struct v9_attr *attr)
{
    return &cache->places[(attr->st_ino * 0x9E3779B97F4A7C15ull >> 32) % PLACES];
}

bool v9_metadata_cache_find(struct v9_metadata_cache *cache, const struct v9_attr *attr,
                            struct v9_mapped *out)
{
    struct place *place = place_of(cache, attr);
    const uint64_t count = __atomic_load_n(&place->count, __ATOMIC_ACQUIRE);
    uint64_t words[WORDS];

    for (int i = 0; i < WORDS; i++)
        words[i] = __atomic_load_n(&place->words[i], __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!count || count & 1 || __atomic_load_n(&place->count, __ATOMIC_RELAXED) != count ||
        attr->st_dev != cache->st_dev || words[0] != attr->st_ino ||
        words[1] != (uint64_t)changed_at(attr) || words[2] != v9_attr_btime(attr))
        return false;
    *out = (struct v9_mapped){
        .has = (uint32_t)words[3],
        .mode = (uint32_t)(words[3] >> 32),
        .uid = (uint32_t)words[4],
        .gid = (uint32_t)(words[4] >> 32),
        .rdev = words[5],
    };
    return true;
}

void v9_metadata_cache_enter(struct v9_metadata_cache *cache, const struct v9_attr *attr,
                             int64_t now, const struct v9_mapped *mapped)
{
    const uint64_t changed = v9_ctime_settled(attr, now);
    struct place *place = place_of(cache, attr);
    uint64_t count = __atomic_load_n(&place->count, __ATOMIC_RELAXED);
    const uint64_t words[WORDS] = {
        attr->st_ino,
        changed,
        v9_attr_btime(attr),
        (uint64_t)mapped->mode << 32 | mapped->has,
        (uint64_t)mapped->gid << 32 | mapped->uid,
        mapped->rdev,
    };

    if (attr->st_dev != cache->st_dev || !changed)
        return;
    /* Somebody else writes here: one of the two will do. */
    if (count & 1 || !__atomic_compare_exchange_n(&place->count, &count, count + 1, false,
                                                  __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return;
    __atomic_thread_fence(__ATOMIC_RELEASE);
    for (int i = 0; i < WORDS; i++)
        __atomic_store_n(&place->words[i], words[i], __ATOMIC_RELAXED);
    __atomic_store_n(&place->count, count + 2, __ATOMIC_RELEASE);
}
