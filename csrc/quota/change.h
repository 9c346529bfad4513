/*
 * change: the bracket around a change of files: claim and hold, change, settle and give back
 * (quota/quota.h). Creating and changing names and attributes use it, and Python for what it
 * changes. Writes hold the account of their inode, and claim as much as each may take instead
 * (v9_quota_admit).
 *
 * v9_quota_change_begin and v9_quota_change_end are in quota/api.h.
 */
#ifndef V9_QUOTA_CHANGE_H
#define V9_QUOTA_CHANGE_H

#include <stdint.h>

#include "quota/api.h"

/* Within a change: counts a file that the change has created. */
void v9_quota_count_new(v9_quota *quota, int32_t fd);

#endif
