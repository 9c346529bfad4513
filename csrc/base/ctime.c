#define _GNU_SOURCE
#include "base/ctime.h"

#include <linux/magic.h>
#include <sys/statfs.h>
#include <time.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

enum {
    TICKS_NS = 50000000,     /* several of the kernel's slowest ticks (CONFIG_HZ_100) */
    SECONDS_NS = 2000000000, /* where ctime has no nanoseconds */
};

bool v9_ctime_is_reliable(int32_t fd)
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

bool v9_ctime_shows_renames(int32_t fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0)
        return false;
    switch ((uint32_t)st.f_type) {
    case EXT4_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

int64_t v9_ctime_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

uint64_t v9_ctime_settled(const struct v9_attr *attr, int64_t now)
{
    const int64_t changed = (int64_t)(attr->ctime_sec * 1000000000u + attr->ctime_nsec);
    const int64_t long_past = attr->ctime_nsec ? TICKS_NS : SECONDS_NS;

    return changed > 0 && now - changed >= long_past ? (uint64_t)changed : 0;
}
