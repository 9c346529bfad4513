// sources: mapped/metadata_cache.c base/ctime.c
/*
 * Metadata that are remembered: what is found again, and above all what is not.
 */
#define _GNU_SOURCE
#include "mapped/metadata_cache.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

enum { DEV = 7, MS = 1000000 };
static const int64_t S = 1000000000;

static struct v9_metadata_cache *cache;
static int tmpfs_fd;

SET_UP()
{
    tmpfs_fd = memfd_create("of tmpfs", MFD_CLOEXEC);
    cache = v9_metadata_cache_new(tmpfs_fd, DEV);
    if (!CHECK(cache))
        exit(1);
}

TEAR_DOWN()
{
    free(cache);
    close(tmpfs_fd);
}

static struct v9_attr file(uint64_t ino, int64_t changed)
{
    return (struct v9_attr){
        .st_dev = DEV,
        .st_ino = ino,
        .ctime_sec = (uint64_t)(changed / S),
        .ctime_nsec = (uint64_t)(changed % S),
        .has_btime = 1,
        .btime_sec = 3,
    };
}

static struct v9_mapped metadata(uint32_t number)
{
    return (struct v9_mapped){
        V9_HAS_ALL, number, number + 1, number + 2, (uint64_t)number << 32 | (number + 3),
    };
}

static bool same(const struct v9_mapped *one, const struct v9_mapped *other)
{
    return one->has == other->has && one->uid == other->uid && one->gid == other->gid &&
           one->mode == other->mode && one->rdev == other->rdev;
}

TEST(metadata_of_an_unchanged_file_are_found)
{
    const struct v9_mapped kept = metadata(100), none = {0};
    const struct v9_attr one = file(1, 50 * S + 1), other = file(2, 50 * S + 1);
    struct v9_mapped found;

    CHECK(!v9_metadata_cache_find(cache, &one, &found));
    v9_metadata_cache_enter(cache, &one, 60 * S, &kept);
    CHECK(v9_metadata_cache_find(cache, &one, &found) && same(&found, &kept));
    CHECK(!v9_metadata_cache_find(cache, &other, &found));
    v9_metadata_cache_enter(cache, &other, 60 * S,
                            &none); /* that there are none is worth knowing */
    CHECK(v9_metadata_cache_find(cache, &other, &found) && same(&found, &none));
    CHECK(v9_metadata_cache_find(cache, &one, &found) && same(&found, &kept));
}

TEST(metadata_of_a_changed_file_are_not_found)
{
    const struct v9_mapped kept = metadata(100);
    const struct v9_attr was = file(1, 50 * S + 1);
    struct v9_attr is = was;
    struct v9_mapped found;

    v9_metadata_cache_enter(cache, &was, 60 * S, &kept);
    is.ctime_nsec++;
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
    is = was;
    is.ctime_sec--;
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
    is = was;
    is.btime_sec++;
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
    is = was;
    is.has_btime = 0;
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
    is = was;
    is.st_dev++;
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
    v9_metadata_cache_enter(cache, &is, 60 * S, &kept); /* another file system: never */
    CHECK(!v9_metadata_cache_find(cache, &is, &found));
}

/* Whether a file that changed at `changed` is remembered after a stat at `now`. */
static bool counts(int64_t changed, int64_t now)
{
    static uint64_t ino = 1000;
    const struct v9_attr attr = file(++ino, changed);
    const struct v9_mapped kept = metadata(5);
    struct v9_mapped found;

    v9_metadata_cache_enter(cache, &attr, now, &kept);
    return v9_metadata_cache_find(cache, &attr, &found);
}

TEST(a_file_changed_just_before_its_stat_is_not_cached)
{
    const int64_t at = 50 * S + 500 * MS;

    CHECK(!counts(at, at));
    CHECK(!counts(at, at + 10 * MS));
    CHECK(!counts(at, at - 10 * MS));
    CHECK(!counts(at, at - 10 * S)); /* the clock was set back */
    CHECK(counts(at, at + 100 * MS));
    /* Whole seconds may be all that there is. */
    CHECK(!counts(50 * S, 51 * S));
    CHECK(counts(50 * S, 53 * S));
    CHECK(!counts(-5 * S, 50 * S));
}

/* ---- several threads ------------------------------------------------------------------------- */

enum { FIRST = 10000 }; /* files that nothing before has kept anything of */

/* Each file's metadata follow from its number and its time of change; so a mixture shows. */
static void *enter_and_find(void *seed)
{
    uint32_t random = *(const uint32_t *)seed;

    for (int i = 0; i < 100000; i++) {
        struct v9_attr attr;
        struct v9_mapped right, found;
        random = random * 1664525 + 1013904223;
        attr = file(FIRST + (random >> 24), 50 * S + (random >> 16 & 7));
        right = metadata((random >> 24) * 8 + (random >> 16 & 7));
        if (random >> 8 & 1)
            v9_metadata_cache_enter(cache, &attr, 60 * S, &right);
        else if (v9_metadata_cache_find(cache, &attr, &found))
            CHECK(same(&found, &right));
    }
    return NULL;
}

TEST(threads_find_whole_entries)
{
    uint32_t seeds[4];
    pthread_t threads[4];

    for (uint32_t i = 0; i < 4; i++) {
        seeds[i] = i;
        CHECK(pthread_create(&threads[i], NULL, enter_and_find, &seeds[i]) == 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

TEST(other_file_systems_have_no_cache)
{
    int fd = open("/proc", O_PATH | O_DIRECTORY);

    CHECK(fd >= 0 && !v9_metadata_cache_new(fd, DEV));
    close(fd);
    CHECK(!v9_metadata_cache_new(-1, DEV));
}
