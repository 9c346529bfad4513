#define _GNU_SOURCE
#include "mapped/metadata_cache.h"

#include <linux/magic.h>
#include <stdlib.h>
#include <sys/statfs.h>
#include <time.h>

#include "fs/attributes.h"

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

enum {
    PLACES = 16384,
    TICKS_NS = 50000000,     /* several of the kernel's slowest ticks (CONFIG_HZ_100) */
    SECONDS_NS = 2000000000, /* where ctime has no nanoseconds */
    WORDS = 7,               /* of a place */
};

/* Of eight words: a count, which is odd while the others are written; and those. */
struct place {
    uint64_t count, words[WORDS];
};

struct v9_metadata_cache {
    uint64_t st_dev;
    struct place *places;
};

bool v9_metadata_cache_is_sure(int32_t fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case EXT4_SUPER_MAGIC: /* ext2 and ext3 as well */
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

struct v9_metadata_cache *v9_metadata_cache_new(int32_t fd, uint64_t st_dev)
{
    struct v9_metadata_cache *recall;

    if (!v9_metadata_cache_is_sure(fd))
        return NULL;
    recall = malloc(sizeof(*recall));
    if (!recall)
        return NULL;
    *recall = (struct v9_metadata_cache){st_dev, calloc(PLACES, sizeof(struct place))};
    if (recall->places)
        return recall;
    free(recall);
    return NULL;
}

void v9_metadata_cache_free(struct v9_metadata_cache *recall)
{
    if (!recall)
        return;
    free(recall->places);
    free(recall);
}

int64_t v9_metadata_cache_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t changed_at(const struct v9_attr *attr)
{
    return (int64_t)(attr->ctime_sec * 1000000000u + attr->ctime_nsec);
}

uint64_t v9_metadata_cache_settled(const struct v9_attr *attr, int64_t moment)
{
    const int64_t changed = changed_at(attr);
    const int64_t long_over = attr->ctime_nsec ? TICKS_NS : SECONDS_NS;

    return changed > 0 && moment - changed >= long_over ? (uint64_t)changed : 0;
}

static struct place *place_of(const struct v9_metadata_cache *recall, const struct v9_attr *attr)
{
    return &recall->places[(attr->st_ino * 0x9E3779B97F4A7C15ull >> 32) % PLACES];
}

bool v9_metadata_cache_find(struct v9_metadata_cache *recall, const struct v9_attr *attr,
                            struct v9_mapped *out)
{
    struct place *place = place_of(recall, attr);
    const uint64_t count = __atomic_load_n(&place->count, __ATOMIC_ACQUIRE);
    uint64_t words[WORDS];

    for (int i = 0; i < WORDS; i++)
        words[i] = __atomic_load_n(&place->words[i], __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!count || count & 1 || __atomic_load_n(&place->count, __ATOMIC_RELAXED) != count ||
        attr->st_dev != recall->st_dev || words[0] != attr->st_ino ||
        words[1] != (uint64_t)changed_at(attr) || words[2] != v9_attr_born(attr))
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

void v9_metadata_cache_keep(struct v9_metadata_cache *recall, const struct v9_attr *attr,
                            int64_t moment, const struct v9_mapped *mapped)
{
    const uint64_t changed = v9_metadata_cache_settled(attr, moment);
    struct place *place = place_of(recall, attr);
    uint64_t count = __atomic_load_n(&place->count, __ATOMIC_RELAXED);
    const uint64_t words[WORDS] = {
        attr->st_ino,
        changed,
        v9_attr_born(attr),
        (uint64_t)mapped->mode << 32 | mapped->has,
        (uint64_t)mapped->gid << 32 | mapped->uid,
        mapped->rdev,
    };

    if (attr->st_dev != recall->st_dev || !changed)
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
