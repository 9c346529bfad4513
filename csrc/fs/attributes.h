/*
 * attributes: makes guest attributes of the host's. The only maker of qids.
 */
#ifndef V9_FS_ATTRIBUTES_H
#define V9_FS_ATTRIBUTES_H

#include <stdint.h>

#include "export/export.h"
#include "fs/api.h"

/* Makes of what v9_host_stat reported after `now` (v9_ctime_now) of the file `fd`, one of
 * an export without stat overrides, what v9_attr_read returns; fails as that does. */
int v9_attr_complete(v9_export *ex, int32_t fd, int64_t now, struct v9_attr *attr);
/* As v9_host_stat, with the numbers that the export gives the file. */
int v9_attr_stat(v9_export *ex, int32_t fd, const char *name, struct v9_attr *attr);
/* The rest of v9_attr_read_held for the file `fd`, after v9_attr_stat after `now`. */
int v9_attr_complete_held(v9_export *ex, int32_t fd, int32_t meta_fd, int64_t now,
                          struct v9_attr *attr);

/* As v9_attr_read_held, of a file that was just created: known metadata are not read. */
int v9_attr_read_created(v9_export *ex, int32_t fd, const char *name,
                         const struct v9_created *created, struct v9_attr *attr);

#endif
