#define _GNU_SOURCE
#include "export/notices.h"

#include <errno.h>
#include <sys/stat.h>

#include "base/refusal.h"

enum { CONSTANT = 1 }; /* the version of each directory */

/* What inode numbers of the directory are changed by, so that none is that of a file elsewhere:
 * file systems count from below. */
static const uint64_t APART = (uint64_t)V9_REFRESH_UID << 32;

void v9_export_set_notices(v9_export *ex, uint64_t events, const uint64_t *end, uint32_t listed)
{
    ex->stream_ino = events;
    ex->stream_end = end;
    ex->listed = listed;
}

void v9_notices_own(struct v9_attr *attr)
{
    attr->uid = attr->gid = 0;
    attr->device = 0;
    attr->qid.path = attr->st_ino ^ APART;
}

uint32_t v9_notices_version(const struct v9_export *ex, const struct v9_attr *attr,
                            uint32_t version)
{
    if (ex->conf.notifies && S_ISDIR(attr->mode))
        return CONSTANT;
    return v9_notices_are(ex) && !attr->size ? 0 : version;
}

v9_export *v9_export_joined(const struct v9_export *ex, int32_t fd, const char *name)
{
    v9_export *joined = ex->below;
    struct stat st;

    while (joined && strcmp(joined->name, name))
        joined = joined->aside;
    return joined && fstat(fd, &st) == 0 && v9_export_is_root(ex, &st) ? joined : NULL;
}

int v9_export_admits(const v9_export *ex, uint32_t uid)
{
    uint32_t host;

    if (v9_notices_refreshes(ex, uid))
        return 0;
    return v9_idmap_host(&ex->ids[V9_UID], uid, &host);
}

int v9_export_allows_changes(const v9_export *ex, uint32_t uid)
{
    if (ex->conf.readonly)
        return v9_refuse(EROFS, V9_REFUSED_READONLY, 0);
    return v9_notices_refreshes(ex, uid) ? v9_refuse(EROFS, V9_REFUSED_REFRESHER, 0) : 0;
}
