/*
 * ctime: when an unchanged ctime proves that a file has not changed.
 *
 * Every change of a file's content, metadata or extended attributes sets its ctime. But clocks of
 * file systems are coarse: a second change within one tick leaves ctime as it is. So a ctime counts
 * only if it was long past when the stat that reported it was made. Where it has no nanoseconds,
 * the file system may keep whole seconds only, and long is longer.
 *
 * This holds for file systems that set ctime by this host's clock: those that are known to do so.
 * The clock may be set back: then a file may in theory get the same ctime again, to the nanosecond.
 */
#ifndef V9_BASE_CTIME_H
#define V9_BASE_CTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/api.h"

/* Whether the file system that `fd` (O_PATH will do) is on keeps ctime so. */
bool v9_ctime_is_reliable(int32_t fd);
/* Whether it does so for each file that loses or changes a name, too. XFS and F2FS do not for two
 * files that are exchanged (RENAME_EXCHANGE, rename(2)). */
bool v9_ctime_shows_renames(int32_t fd);
/* The present time, to be read before the stat that is passed to v9_ctime_settled. */
int64_t v9_ctime_now(void);
/* The ctime in ns from a stat that began at `now`, if any later change of the file changes it; 0 if
 * the file may have changed since without a trace. */
uint64_t v9_ctime_settled(const struct v9_attr *attr, int64_t now);

#endif
