#define _GNU_SOURCE
#include "fs/created.h"

#include <stdbool.h>
#include <sys/stat.h>

#include "base/budget.h"
#include "base/sys.h"
#include "export/containment.h"

void v9_created_close(struct v9_created *created)
{
    const int32_t fds[] = {created->path_fd, created->meta_fd, created->io_fd};

    v9_created_forget(created);
    for (int i = 0; i < 3; i++)
        if (fds[i] >= 0)
            v9_budget_close(fds[i]);
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
