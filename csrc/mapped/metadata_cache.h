/*
 * recall: metadata of mapped-xattr that were read before.
 *
 * To read them takes three or four system calls, each with a walk through /proc; a stat takes one.
 * Whoever changes an extended attribute changes the file's time of change (ctime), too, which that
 * stat tells. So as long as a file has the ctime that it had, its metadata are what they were.
 *
 * Clocks of file systems are coarse: within one tick a second change leaves ctime as it is. So what
 * was read counts only where ctime had long been over when the stat was made that told it. Where it
 * has no nanoseconds, the file system may keep whole seconds only, and long is longer.
 *
 * This is true of file systems that set ctime by this host's clock: of those that are known to do
 * so, and only for files of the export's own. The clock may be set back: then a file may in theory
 * get the ctime again that it had, to the nanosecond.
 *
 * Inode numbers are used again; a new file has another time of birth, and another ctime.
 *
 * Memory. A table with one place for each hash, in which newer files take the place of older ones.
 * Readers take no lock: a place is read twice if somebody writes there meanwhile, and counts as
 * empty then.
 */
#ifndef V9_MAPPED_METADATA_CACHE_H
#define V9_MAPPED_METADATA_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "vhost9p.h"

struct v9_metadata_cache;

/* Whether ctime is to be relied on where `fd` (O_PATH will do) is. */
bool v9_metadata_cache_is_sure(int32_t fd);
/* For the files of the file system that `fd` (O_PATH will do) is on, whose st_dev is given. NULL
 * where ctime is not to be relied on, or for lack of memory: then everything is read. */
struct v9_metadata_cache *v9_metadata_cache_new(int32_t fd, uint64_t st_dev);
void v9_metadata_cache_free(struct v9_metadata_cache *recall);
/* The ctime in ns that a stat told after `moment`, where only a change of the file can make it
 * another one; 0 where it may have changed again since, or is not to be relied on. */
uint64_t v9_metadata_cache_settled(const struct v9_attr *attr, int64_t moment);
/* The moment, to be asked for before the stat that v9_metadata_cache_keep is given. */
int64_t v9_metadata_cache_now(void);
/* Metadata of the file that `attr` was just read of by a stat; false where they are to be read. */
bool v9_metadata_cache_find(struct v9_metadata_cache *recall, const struct v9_attr *attr,
                            struct v9_mapped *out);
/* What was read after that stat, which was made after `moment`. */
void v9_metadata_cache_keep(struct v9_metadata_cache *recall, const struct v9_attr *attr,
                            int64_t moment, const struct v9_mapped *mapped);

#endif
