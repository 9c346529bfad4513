/*
 * host_stat: what the host reports about a file. The one place that calls statx.
 */
#ifndef V9_BASE_HOST_STAT_H
#define V9_BASE_HOST_STAT_H

#include <stdint.h>

#include "base/api.h"

/* Fills *attr but for the qid, of `name` in directory `fd` or of `fd` itself (""); owner and mode
 * are the host's. */
int v9_host_stat(int32_t fd, const char *name, struct v9_attr *attr);

/* Distinguishes a host file from all others while its descriptor is held. */
struct v9_identity {
    uint64_t st_dev, st_ino, mnt_id;
    uint64_t btime; /* ns; 0 where the host reports none */
};
/* Reads it, of `name` in directory `fd` or of `fd` itself (""), with st_mode and st_nlink. */
int v9_host_identify(int32_t fd, const char *name, struct v9_identity *is, uint32_t *mode,
                     uint64_t *nlink);

/* Whether two names lead to one file: 1, 0, or -errno where the first one leads to none, which
 * takes a single system call to find out. */
int v9_host_are_one_file(int32_t one_dir, const char *one, int32_t other_dir, const char *other);

static inline uint64_t v9_attr_btime(const struct v9_attr *attr)
{
    return attr->has_btime ? attr->btime_sec * 1000000000u + attr->btime_nsec : 0;
}

/* A device number as the kernel's 9p client expects it: in the kernel's 32-bit encoding
 * (new_encode_dev). */
static inline uint64_t v9_host_rdev(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | ((uint64_t)major << 8) | ((uint64_t)(minor & ~0xffu) << 12);
}

#endif
