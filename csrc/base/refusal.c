#define _GNU_SOURCE
#include "base/refusal.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>

static _Thread_local struct {
    struct v9_refusal refusal;
    bool reported; /* whether somebody asks */
} noted;

int v9_refuse(int error, uint32_t why, uint64_t value)
{
    noted.refusal.error = error;
    noted.refusal.why = why;
    noted.refusal.value = value;
    return -error;
}

void v9_refusal_begin(void)
{
    noted.refusal = (struct v9_refusal){0};
    noted.reported = true;
}

void v9_refusal_of_walk(int error, uint32_t walked, int32_t dir_fd)
{
    if (!noted.reported)
        return;
    noted.refusal.walk_error = error;
    noted.refusal.walked = walked;
    v9_file_facts(dir_fd, &noted.refusal.denied);
}

int v9_refusal_walk_error(void)
{
    return noted.refusal.walk_error;
}

void v9_refusal_read(int error, struct v9_refusal *out)
{
    *out = noted.refusal;
    if (out->error != error)
        out->error = out->why = out->value = 0;
}

/* Network file systems and FUSE answer AT_STATX_DONT_SYNC from what they know (statx(2)). */
void v9_file_facts(int32_t fd, struct v9_file_facts *out)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    struct statx st;

    *out = (struct v9_file_facts){0};
    if (fd < 0 || statx(fd, "", flags, STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID, &st) < 0)
        return;
    *out = (struct v9_file_facts){
        .known = true,
        .mode = st.stx_mode,
        .uid = st.stx_uid,
        .gid = st.stx_gid,
        .attributes = st.stx_attributes,
    };
}
