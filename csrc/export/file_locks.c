/*
 * file_locks: open-file-description locks (fcntl(2)) and flock(2) on files of an export, which
 * Python waits for in threads of its own (export/api.h).
 */
#define _GNU_SOURCE
#include "export/file_locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"
#include "export/export.h"

int v9_lock_open(v9_export *ex, int32_t fd, int32_t *access)
{
    static const int32_t accesses[] = {O_RDWR, O_RDONLY, O_WRONLY};
    const uint32_t first = ex->conf.readonly ? 1 : 0, count = ex->conf.readonly ? 1 : 3;
    int opened = -EBADF;

    for (uint32_t i = first; i < first + count && opened < 0 && !v9_sys_has_failed(opened); i++) {
        *access = accesses[i]; /* permission, a read-only file system, a program that runs */
        opened = v9_export_open_known(ex, fd, true, *access);
    }
    return v9_budget_lacks(opened) ? -ENOLCK : opened;
}

static bool is_cancelled(const int32_t *cancel)
{
    return cancel && __atomic_load_n(cancel, __ATOMIC_ACQUIRE);
}

void v9_lock_cancel(int32_t *cancel)
{
    __atomic_store_n(cancel, 1, __ATOMIC_RELEASE);
}

static const short ofd_types[] = {F_RDLCK, F_WRLCK, F_UNLCK};
static const int flock_types[] = {LOCK_SH, LOCK_EX, LOCK_UN};

static int describe(struct flock *lock, int32_t type, uint64_t start, uint64_t length)
{
    if (type < V9_LOCK_RDLCK || type > V9_LOCK_UNLCK || start > INT64_MAX || length > INT64_MAX)
        return -EINVAL;
    *lock = (struct flock){
        .l_type = ofd_types[type],
        .l_whence = SEEK_SET,
        .l_start = (off_t)start,
        .l_len = (off_t)length,
    };
    return 0;
}

int v9_lock_ofd(int32_t fd, int32_t type, uint64_t start, uint64_t length, const int32_t *cancel)
{
    struct flock lock;
    int err = describe(&lock, type, start, length);

    while (!err) {
        if (is_cancelled(cancel))
            return -EINTR;
        if (fcntl(fd, cancel ? F_OFD_SETLKW : F_OFD_SETLK, &lock) == 0)
            return 0;
        err = errno == EINTR ? 0 : errno == EACCES ? -EAGAIN : -errno;
    }
    return err;
}

int v9_lock_flock(int32_t fd, int32_t type, const int32_t *cancel)
{
    int err = type < V9_LOCK_RDLCK || type > V9_LOCK_UNLCK ? -EINVAL : 0;

    while (!err) {
        if (is_cancelled(cancel))
            return -EINTR;
        if (flock(fd, flock_types[type] | (cancel ? 0 : LOCK_NB)) == 0)
            return 0;
        err = errno == EINTR ? 0 : -errno;
    }
    return err;
}

int v9_lock_ofd_test(int32_t fd, struct v9_lock *out)
{
    struct flock lock;
    int err = describe(&lock, out->type, out->start, out->length);

    if (err)
        return err;
    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    out->type = lock.l_type == F_UNLCK   ? V9_LOCK_UNLCK
                : lock.l_type == F_RDLCK ? V9_LOCK_RDLCK
                                         : V9_LOCK_WRLCK;
    out->pid = lock.l_pid;
    out->start = (uint64_t)lock.l_start;
    out->length = (uint64_t)lock.l_len;
    return 0;
}
