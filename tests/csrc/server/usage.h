/*
 * The usage of a quota that outlives workers, and is counted again as Python does it: where a
 * worker died within a change (vhost9p/policy/usage.py).
 */
#ifndef SERVER_USAGE_H
#define SERVER_USAGE_H

#include <errno.h>
#include <sys/mman.h>

#include "base/commit.h"
#include "export/api.h"
#include "host_files.h"
#include "quota/api.h"

enum { SEEN_MAX = 16 };

static bool with_quota;
static int usage_fd = -1;
static struct v9_quota_usage *usage; /* in memory that processes share */
static struct {
    struct v9_quota_usage usage;
    ino_t seen[SEEN_MAX]; /* files with several names */
    int count;
} counted;

static inline bool was_counted(const struct stat *st)
{
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return false;
    for (int i = 0; i < counted.count; i++)
        if (counted.seen[i] == st->st_ino)
            return true;
    if (CHECK(counted.count < SEEN_MAX))
        counted.seen[counted.count++] = st->st_ino;
    return false;
}

static inline int count_entry(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    if (strstr(path, "/.virtfs_metadata") || was_counted(st))
        return 0;
    counted.usage.bytes += (int64_t)st->st_blocks * 512;
    counted.usage.inodes += at->level > 0;
    return 0;
}

/* Before there are workers. Returns a descriptor that stays. */
static inline int begin_usage(void)
{
    void *page;

    usage_fd = memfd_create("usage", MFD_CLOEXEC);
    CHECK(ftruncate(usage_fd, V9_QUOTA_FILE) == 0);
    page = mmap(NULL, V9_QUOTA_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, usage_fd, 0);
    CHECK(page != MAP_FAILED);
    usage = (struct v9_quota_usage *)((char *)page + V9_QUOTA_USAGE);
    usage->changing = 1; /* nobody has counted yet */
    return usage_fd;
}

/* In a worker, before the export is served. */
static inline void limit(v9_export *export)
{
    const struct v9_quota_conf quota_conf = {.bytes = 1ull << 30,
                                             .inodes = 1000,
                                             .fd = usage_fd,
                                             .error = EDQUOT,
                                             .block = 4096,
                                             .max_accounts = 100};
    v9_quota *quota;
    int32_t err;

    if (usage->changing) {
        nftw(top, count_entry, 16, FTW_PHYS);
        usage->bytes = counted.usage.bytes;
        usage->inodes = counted.usage.inodes;
        V9_COMMIT(); /* it may die before it has counted all */
        usage->changing = 0;
    }
    quota = v9_quota_new(&quota_conf, &err);
    CHECK(quota && v9_export_set_quota(export, quota) == 0);
}

#endif
