#define _GNU_SOURCE
#include "fs/created.h"

#include <stdbool.h>
#include <sys/stat.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"

void v9_created_close(struct v9_created *made)
{
    if (made->path_fd >= 0)
        v9_budget_close(made->path_fd);
    if (made->meta_fd >= 0)
        v9_budget_close(made->meta_fd);
    if (made->io_fd >= 0)
        v9_budget_close(made->io_fd);
    *made = V9_CREATED_NONE;
}

static bool is_same(int one, int other)
{
    struct stat a, b;

    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

int v9_created_reach(v9_export *ex, int dir_fd, const char *name, int fd)
{
    int path_fd = v9_sys_reach(dir_fd, name, 0);

    if (path_fd >= 0 && is_same(path_fd, fd))
        return path_fd;
    if (path_fd >= 0)
        v9_budget_close(path_fd);
    return v9_export_reopen(ex, fd);
}
