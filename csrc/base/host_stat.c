#define _GNU_SOURCE
#include "base/host_stat.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x1000U
#endif
#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE                                                                        \
    0x4000U /* Linux 6.8; older kernels ignore it and give the reused id                           \
             */
#endif

/* Tells files apart that had the same inode number one after the other. Only the birth time costs
 * nothing to read from an O_PATH descriptor and is the same however the file was reached. */
static uint64_t generation(const struct v9_attr *attr)
{
    uint64_t mix = (attr->btime_sec * 1000000000u + attr->btime_nsec) * 0x9E3779B97F4A7C15ull;
    return attr->has_btime ? mix >> 32 : 0;
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
        .rdev = v9_host_rdev(st->stx_rdev_major, st->stx_rdev_minor),
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

int v9_host_stat(int32_t fd, const char *name, struct v9_attr *attr)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    const unsigned mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    struct statx st;

    if (statx(fd, name, flags, mask, &st) < 0)
        return -errno;
    from_statx(attr, &st);
    attr->stat_fd = *name ? -1 : fd;
    return 0;
}

int v9_host_identify(int32_t fd, const char *name, struct v9_identity *is, uint32_t *mode,
                     uint64_t *nlink)
{
    struct v9_attr attr;
    int err = v9_host_stat(fd, name, &attr);

    if (err)
        return err;
    *is = (struct v9_identity){attr.st_dev, attr.st_ino, attr.mnt_id, v9_attr_btime(&attr)};
    *mode = attr.mode;
    *nlink = attr.nlink;
    return 0;
}

/* The first name is looked at again, after the other: a file that somebody renames from the first
 * one to the other meanwhile would else be seen by both. */
int v9_host_are_one_file(int32_t one_dir, const char *one, int32_t other_dir, const char *other)
{
    struct stat first, second;

    if (fstatat(one_dir, one, &first, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (fstatat(other_dir, other, &second, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (fstatat(one_dir, one, &first, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}
