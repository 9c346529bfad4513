#define _GNU_SOURCE
#include "base/refusal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "base/proc.h"

/* Small: a library has little room for variables of threads. */
static _Thread_local struct {
    uint32_t why;
    int32_t error;
    uint64_t value;
    uint32_t walked;
    int32_t walk_error;
    struct v9_file_facts *denied; /* NULL: nobody asks */
} noted;

int v9_refuse(int error, uint32_t why, uint64_t value)
{
    noted.error = error;
    noted.why = why;
    noted.value = value;
    return -error;
}

void v9_refusal_begin(struct v9_file_facts *denied)
{
    memset(&noted, 0, sizeof noted);
    noted.denied = denied;
}

void v9_refusal_of_walk(int error, uint32_t walked, int32_t dir_fd, uint64_t asked)
{
    if (!noted.denied)
        return;
    noted.walk_error = error;
    noted.walked = walked;
    v9_file_facts(dir_fd, error == EACCES ? asked : 0, noted.denied);
}

int v9_refusal_walk_error(void)
{
    return noted.walk_error;
}

void v9_refusal_read(int error, struct v9_refusal *out)
{
    memset(out, 0, sizeof *out);
    if (noted.error == error) {
        out->error = error;
        out->why = noted.why;
        out->value = noted.value;
    }
    out->walked = noted.walked;
    out->walk_error = noted.walk_error;
    if (noted.walk_error)
        out->denied = *noted.denied;
}

static int32_t read_acl(int32_t fd, uint8_t acl[V9_FILE_ACL])
{
    char path[V9_PROC_PATH];
    ssize_t size;

    v9_proc_path(fd, path);
    size = getxattr(path, "system.posix_acl_access", acl, V9_FILE_ACL);
    if (size < 0)
        return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -1;
    return (int32_t)size;
}

/* Network file systems and FUSE answer AT_STATX_DONT_SYNC from what they know (statx(2)). */
void v9_file_facts(int32_t fd, uint64_t asked, struct v9_file_facts *out)
{
    const int flags = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC;
    struct statx st;

    memset(out, 0, sizeof *out);
    if (fd < 0 || statx(fd, "", flags, STATX_TYPE | STATX_MODE | STATX_UID | STATX_GID, &st) < 0)
        return;
    *out = (struct v9_file_facts){
        .known = 1,
        .mode = st.stx_mode,
        .uid = st.stx_uid,
        .gid = st.stx_gid,
        .attributes = st.stx_attributes,
        .acl_size = -1,
    };
    if (asked == V9_FACTS_ASK || asked == makedev(st.stx_dev_major, st.stx_dev_minor))
        out->acl_size = read_acl(fd, out->acl);
}
