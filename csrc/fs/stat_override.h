/*
 * stat_override: other device and inode numbers than the host's, for tests with synthetic devices.
 */
#ifndef V9_FS_STAT_OVERRIDE_H
#define V9_FS_STAT_OVERRIDE_H

#include <stdint.h>

#include "export/export.h"
#include "fs/api.h"

struct v9_stat_override {
    uint64_t host_ino, st_dev, st_ino;
};

/* Replaces the numbers of a file for which v9_export_override_stat was called. */
void v9_stat_override_apply(v9_export *ex, struct v9_attr *attr);

#endif
