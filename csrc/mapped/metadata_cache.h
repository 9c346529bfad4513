/*
 * metadata_cache: metadata of mapped-xattr that were read before.
 *
 * Reading them takes three or four system calls, each with a walk through /proc; a stat takes one.
 * Changing an extended attribute changes the file's ctime, which that stat reports. So as long as a
 * file has the same ctime, its metadata are the same (base/ctime.h has the conditions), for files
 * on the file system of the export's root.
 *
 * An inode number may be used again; a new file has another birth time, and another ctime.
 *
 * The table has one place for each hash, in which newer files replace older ones. Readers take no
 * lock: a place that is written while it is read counts as empty.
 */
#ifndef V9_MAPPED_METADATA_CACHE_H
#define V9_MAPPED_METADATA_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "mapped/api.h"

struct v9_metadata_cache;

/* For the files of the file system that `fd` (O_PATH will do) is on, whose st_dev is given. NULL
 * where ctime is not reliable, or for lack of memory: then everything is read. Released with free.
 */
struct v9_metadata_cache *v9_metadata_cache_new(int32_t fd, uint64_t st_dev);
/* The cached metadata of the file whose stat is `attr`; false if they have to be read. */
bool v9_metadata_cache_find(struct v9_metadata_cache *cache, const struct v9_attr *attr,
                            struct v9_mapped *out);
/* Enters what was read after that stat, which was made after `now` (v9_ctime_now). */
void v9_metadata_cache_enter(struct v9_metadata_cache *cache, const struct v9_attr *attr,
                             int64_t now, const struct v9_mapped *mapped);

#endif
